"""Which attributes a condition may name, and whether they belong to the study or to one of its series."""

from __future__ import annotations

from pydicom.datadict import keyword_dict

from radnode.domain.attributes import root_of
from radnode.domain.series_class import DERIVED_KEYWORDS

CONTEXT_KEYWORDS = ("CallingAETitle", "CalledAETitle")
"""Not in the data set: the AE titles of the association a series came by."""

STUDY_KEYWORDS = frozenset(
    {
        # PS3.3 C.7.1.1 Patient
        "PatientName", "PatientID", "IssuerOfPatientID", "TypeOfPatientID", "PatientBirthDate", "PatientBirthTime",
        "PatientBirthDateInAlternativeCalendar", "PatientDeathDateInAlternativeCalendar",
        "PatientAlternativeCalendar", "PatientSex", "QualityControlSubject", "StrainDescription",
        "StrainNomenclature", "StrainAdditionalInformation", "OtherPatientIDs", "OtherPatientNames", "EthnicGroup",
        "PatientSpeciesDescription", "PatientBreedDescription", "ResponsiblePerson", "ResponsiblePersonRole",
        "ResponsibleOrganization", "PatientComments", "PatientIdentityRemoved", "DeidentificationMethod",
        # PS3.3 C.7.1.3 Clinical Trial Subject
        "ClinicalTrialSponsorName", "ClinicalTrialProtocolID", "ClinicalTrialProtocolName",
        "IssuerOfClinicalTrialProtocolID", "ClinicalTrialSiteID", "ClinicalTrialSiteName",
        "IssuerOfClinicalTrialSiteID", "ClinicalTrialSubjectID", "IssuerOfClinicalTrialSubjectID",
        "ClinicalTrialSubjectReadingID", "IssuerOfClinicalTrialSubjectReadingID",
        "ClinicalTrialProtocolEthicsCommitteeName", "ClinicalTrialProtocolEthicsCommitteeApprovalNumber",
        # PS3.3 C.7.2.1 General Study
        "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName", "ConsultingPhysicianName",
        "StudyDescription", "PhysiciansOfRecord", "NameOfPhysiciansReadingStudy", "StudyInstanceUID", "StudyID",
        "RequestingService",
        # PS3.3 C.7.2.2 Patient Study
        "AdmittingDiagnosesDescription", "PatientAge", "PatientSize", "PatientBodyMassIndex", "MeasuredAPDimension",
        "MeasuredLateralDimension", "PatientWeight", "MedicalAlerts", "Allergies", "Occupation", "SmokingStatus",
        "AdditionalPatientHistory", "PregnancyStatus", "LastMenstrualDate", "PatientSexNeutered", "ReasonForVisit",
        "AdmissionID", "ServiceEpisodeID", "ServiceEpisodeDescription", "PatientState",
        # PS3.3 C.7.2.3 Clinical Trial Study
        "ClinicalTrialTimePointID", "ClinicalTrialTimePointDescription", "LongitudinalTemporalOffsetFromEvent",
        "LongitudinalTemporalEventType", "IssuerOfClinicalTrialTimePointID",
    }
)  # fmt: skip
"""Attributes of the patient and of the study. All others, and the AE titles, are taken as attributes of a series."""

STUDY_SEQUENCES = frozenset(
    {
        # of the modules above
        "ReferencedPatientSequence", "OtherPatientIDsSequence", "IssuerOfPatientIDQualifiersSequence",
        "SourcePatientGroupIdentificationSequence", "GroupOfPatientsIdentificationSequence", "EthnicGroupCodeSequence",
        "PatientSpeciesCodeSequence", "PatientBreedCodeSequence", "BreedRegistrationSequence", "StrainStockSequence",
        "StrainCodeSequence", "GeneticModificationsSequence", "DeidentificationMethodCodeSequence",
        "IssuerOfAccessionNumberSequence", "ReferringPhysicianIdentificationSequence",
        "ConsultingPhysicianIdentificationSequence", "PhysiciansOfRecordIdentificationSequence",
        "PhysiciansReadingStudyIdentificationSequence", "RequestingServiceCodeSequence", "ReferencedStudySequence",
        "ProcedureCodeSequence", "ReasonForPerformedProcedureCodeSequence", "AdmittingDiagnosesCodeSequence",
        "PatientSizeCodeSequence", "ReasonForVisitCodeSequence", "IssuerOfAdmissionIDSequence",
        "IssuerOfServiceEpisodeIDSequence", "ClinicalTrialTimePointTypeCodeSequence",
    }
)  # fmt: skip
"""Sequences of the patient and of the study: a path that begins with one belongs to the study."""


def known_keywords() -> list[str]:
    """Every keyword a condition may name."""
    return [*CONTEXT_KEYWORDS, *DERIVED_KEYWORDS, *keyword_dict]


def is_of_study(name: str) -> bool:
    """Whether an attribute belongs to the patient or the study."""
    return name in STUDY_KEYWORDS or root_of(name) in STUDY_SEQUENCES

"""Which attributes a condition may name, and whether they belong to the study or to one of its series."""

from __future__ import annotations

from pydicom.datadict import DicomDictionary, keyword_dict

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

NUMERIC_VRS = frozenset({"DS", "FD", "FL", "IS", "SL", "SS", "SV", "UL", "US", "UV", "AS", "US or SS"})
_BINARY_VRS = frozenset(
    {"OB", "OD", "OF", "OL", "OV", "OW", "UN", "NONE", "OB or OW", "US or OW", "US or SS or OW"}
)


def known_keywords() -> list[str]:
    """Every keyword a condition may name."""
    return [*CONTEXT_KEYWORDS, *keyword_dict]


def vr_of(keyword: str) -> str | None:
    """The VR(s) of a keyword in PS3.6, `AE` for the AE titles of the association; None for an unknown keyword."""
    if keyword in CONTEXT_KEYWORDS:
        return "AE"
    tag = keyword_dict.get(keyword)
    return None if tag is None else DicomDictionary[tag][0]


def unusable(keyword: str) -> str:
    """Why a condition on this known keyword could never hold; empty where it can."""
    if keyword in CONTEXT_KEYWORDS:
        return ""
    if keyword_dict[keyword] >> 16 == 0:
        return f"{keyword} is part of a message, not of a file"
    vr = vr_of(keyword)
    if vr == "SQ":
        return f"{keyword} is a sequence: conditions do not look inside"
    return f"{keyword} holds binary data ({vr})" if vr in _BINARY_VRS else ""

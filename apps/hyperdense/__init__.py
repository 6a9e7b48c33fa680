"""Measures what is as dense as fresh blood inside the skull of a non-contrast head CT.

A demonstration of what an app looks like. It knows a threshold and nothing of medicine: calcification is as dense as
blood, and old blood is not. Nobody may be treated by it.
"""

from radnode import (
    App,
    AppOptions,
    Declined,
    Field,
    GeometryError,
    Measurement,
    MeasurementReport,
    SecondaryCapture,
    Series,
)

FEWEST_SLICES = 8
ORIGINALS = "push the scanner's original images"
ONE_STACK = "push the whole series, or give the rule one whose images are a single stack"


class HyperdenseOptions(AppOptions):
    threshold_hu: float = Field(60, ge=30, le=90, description="lower bound of blood, in HU")
    upper_hu: float = Field(100, gt=90, le=200, description="upper bound of blood, in HU: beyond lies calcification")
    speck_ml: float = Field(0.1, ge=0, le=10, description="connected volumes smaller than this are noise, in mL")


class HyperdenseVolume(App[HyperdenseOptions]):
    name, version = "hyperdense", "1.1.0"
    description = "Volume of hyperdense tissue inside the skull. A demonstration, not for diagnosis."

    def process(self, series: Series, options: HyperdenseOptions):
        from .skull import hyperdense  # noqa: PLC0415 - SimpleITK: 0.3 s for jobs, not for everyone who lists the apps

        decline_unsuitable(series)
        volume = volume_of(series)
        mask = hyperdense(volume, options.threshold_hu, options.upper_hu, options.speck_ml)
        said = f"{self.description} Counted: {options.threshold_hu:g} to {options.upper_hu:g} HU."
        if volume.HasMetaDataKey("resampled"):
            said += f" The series is {volume.GetMetaData('resampled')}: between its slices values were interpolated."
        yield MeasurementReport(
            [Measurement.volume_ml("Hyperdense volume", mask)],
            description="volume (demonstration)",
            comment=said,
        )
        yield SecondaryCapture.overlay(volume, mask, window=(40, 80), description="overlay (demonstration)")


def decline_unsuitable(series: Series) -> None:
    if series.first.get("Modality") != "CT":
        raise Declined(f"modality is {series.first.text('Modality') or 'unknown'}, not CT")
    if "LOCALIZER" in series.first.text("ImageType"):
        raise Declined("a localizer")
    if series.distinct("ContrastBolusAgent"):
        raise Declined("contrast-enhanced")
    if series.planes[0].get("RescaleType", "HU") not in ("HU", "US"):  # US, unspecified, is what old scanners say
        raise Declined(f"its values are no Hounsfield units but {series.planes[0].text('RescaleType')}")
    if any(each.get(keyword) is None for each in series.planes for keyword in ("RescaleSlope", "RescaleIntercept")):
        raise Declined("its values are no Hounsfield units (RescaleSlope, RescaleIntercept)", remedy=ORIGINALS)
    if len(series.planes) < FEWEST_SLICES:
        raise Declined(f"{len(series.planes)} slices, fewer than {FEWEST_SLICES}")


def volume_of(series: Series):
    """Missing images or several phases are no fault that running again would mend. Raises Declined."""
    try:
        return series.volume()
    except GeometryError as error:
        raise Declined(error.message, remedy=ONE_STACK) from None

"""Proves a site's wiring: needs no pixels, takes any series or study, and says back what it was given."""

import os
import time
from typing import Literal

from PIL import Image, ImageDraw, ImageFont

import radnode
from radnode import AppOptions, Field, Measurement, MeasurementReport, SecondaryCapture, Series, Study


class TestOptions(AppOptions):
    greeting: str = Field("It works.", max_length=200, description="first line of the page")
    sleep: float = Field(0, ge=0, le=3600, description="seconds to wait: proves time limits")
    fail: Literal["", "error", "declined", "crash"] = Field("", description="how to end instead of giving results")


class Test(radnode.App[TestOptions]):
    name, version = "test", "1.0.0"
    description = "Proves the wiring: says what it was given."
    resources = radnode.Resources(memory=1024)

    def process(self, source: Series | Study, options: TestOptions):
        time.sleep(options.sleep)
        fail_as(options.fail)
        series = tuple(source) if isinstance(source, Study) else (source,)
        lines = list(inventory(source, series, options))
        yield SecondaryCapture(page(lines), description="Test page", shows_identity=True)
        yield MeasurementReport(
            [
                Measurement("Number of series", len(series)),
                Measurement("Number of instances", sum(map(len, series))),
            ],
            description="Test report",
            comment="\n".join(lines),
        )


def fail_as(how: str) -> None:
    if how == "declined":
        raise radnode.Declined("asked to decline")
    if how == "error":
        raise RuntimeError("asked to fail")
    if how == "crash":
        os.abort()


def inventory(source: Series | Study, series: tuple[Series, ...], options: TestOptions):
    yield options.greeting
    yield f"Accession number {source.first.text('AccessionNumber') or '(none)'}"
    yield f"{len(series)} series, {sum(map(len, series))} instances"
    for each in series[:20]:
        names = [each.first.text(keyword) for keyword in ("SeriesNumber", "Modality", "SeriesDescription")]
        yield f"{' '.join(filter(None, names))}: {len(each)}"
    yield f"Options: {options.model_dump()}"


def page(lines: list[str]) -> Image.Image:
    image = Image.new("RGB", (640, 40 + 24 * len(lines)), (16, 16, 24))
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=16)
    for number, line in enumerate(lines):
        draw.text((20, 20 + 24 * number), line[:80], (235, 235, 235), font)
    return image

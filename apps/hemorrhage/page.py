"""The page a reader looks at first: a bar per type, and the most suspicious slices."""

import time
from io import BytesIO

from PIL import Image, ImageDraw, ImageFont

from .classes import CLASSES, WINDOWS, Scores
from .slices import fitted, grey, hounsfield

WIDTH, HEIGHT = 900, 1080
SHOWN = 6
THUMB = 270
BACK, TEXT, QUIET = (18, 18, 26), (235, 235, 235), (150, 150, 160)
EDGE = (230, 220, 90)
CALM, ALARM = (90, 150, 210), (235, 90, 60)
_LONG_AGO = time.gmtime(0)


def drawn(scores: Scores, said: list[str]) -> Image.Image:
    page = Image.new("RGB", (WIDTH, HEIGHT), BACK)
    draw = ImageDraw.Draw(page)
    present = scores.present("any")
    verdict = f"suspected, {scores.of_series['any']:.0%}" if present else f"not found, {scores.of_series['any']:.0%}"
    draw.text((30, 22), f"Intracranial hemorrhage: {verdict}", ALARM if present else TEXT, _font(30))
    y = 70
    for line in [*said, "Research use only. Images are named by their number (InstanceNumber)."]:
        draw.text((30, y), line[:110], QUIET, _font(16))
        y += 22
    y += 12
    for name in CLASSES:
        _bar(draw, y, name, scores)
        y += 36
    _thumbnails(page, draw, y + 12, scores)
    return page


def _bar(draw: ImageDraw.ImageDraw, y: int, name: str, scores: Scores) -> None:
    left, right = 230, 800
    value = scores.of_series[name]
    draw.text((30, y), name, TEXT, _font(20))
    draw.rectangle((left, y + 2, right, y + 24), outline=(70, 70, 80))
    draw.rectangle((left, y + 2, left + value * (right - left), y + 24), fill=ALARM if scores.present(name) else CALM)
    at = left + scores.threshold_of(name) * (right - left)
    draw.line((at, y - 2, at, y + 28), fill=TEXT)
    draw.text((right + 15, y), f"{value:.1%}", TEXT, _font(20))


def _thumbnails(page: Image.Image, draw: ImageDraw.ImageDraw, y: int, scores: Scores) -> None:
    for index, each in enumerate(scores.by_probability()[:SHOWN]):
        x, top = 30 + index % 3 * (THUMB + 15), y + index // 3 * (THUMB + 45)
        plane = Image.fromarray(grey(fitted(hounsfield(each.image)), *WINDOWS[0])).resize((THUMB, THUMB))
        page.paste(plane, (x, top))
        _letters(draw, x, top, each.image.orientation)
        name = max(CLASSES[1:], key=each.probabilities.__getitem__)
        above = each.probabilities["any"] >= scores.threshold
        image = f"frame {each.image.frame}" if each.image.frame else f"image {each.image.text('InstanceNumber')}"
        shown = f"{image}: {each.probabilities['any']:.0%}"
        shown += f", most {name}" if above else ""
        draw.text((x, top + THUMB + 4), shown, ALARM if above else TEXT, _font(15))


def _letters(draw: ImageDraw.ImageDraw, x: int, y: int, orientation: tuple[str, str]) -> None:
    """Which side is which: on a page no viewer tells."""
    right, bottom = orientation
    middle = THUMB // 2
    draw.text((x + THUMB - 5, y + middle), right, EDGE, _font(15), "rm")
    draw.text((x + middle, y + THUMB - 5), bottom, EDGE, _font(15), "md")


def pdf(page: Image.Image) -> bytes:
    """The page as a PDF; its dates say nothing, so that the same page gives the same bytes."""
    out = BytesIO()
    page.save(out, "PDF", resolution=110, title="Intracranial hemorrhage", creationDate=_LONG_AGO, modDate=_LONG_AGO)
    return out.getvalue()


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)

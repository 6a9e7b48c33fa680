"""A file in another transfer syntax, for peers that do not take the one it lies in. Only a child process does this:
decoders meet strangers' bytes here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
from pydicom import DataElement, Dataset

from radnode.dicom.negotiation import EXPLICIT_LE
from radnode.dicom.volume import FileReader, read_series
from radnode.domain.errors import PixelsError

IMPLICIT_LE = "1.2.840.10008.1.2"
TARGETS = (EXPLICIT_LE, IMPLICIT_LE)
"""What everything can be turned into, the better one first: every peer has to take the second (PS3.5 10.1)."""
_WORDS = {"OW": "u2", "OF": "u4", "OL": "u4", "OD": "u8", "OV": "u8"}


def transcode(source: Path, target: Path, syntax: str) -> None:
    """Writes `source` in Explicit or Implicit VR Little Endian, under the same SOP Instance UID; the same file gives
    the same bytes. Raises PixelsError, or whatever pydicom raises on broken files."""
    ds = pydicom.dcmread(source)
    found = ds.file_meta.TransferSyntaxUID
    if found.is_compressed and not found.is_deflated:
        _decompress(ds, source)
    elif not found.is_little_endian:
        ds.walk(_swap)
    ds.file_meta.TransferSyntaxUID = syntax
    pydicom.dcmwrite(target, ds, implicit_vr=syntax == IMPLICIT_LE, little_endian=True, enforce_file_format=True)


def _decompress(ds: Dataset, source: Path) -> None:
    try:
        ds.decompress(generate_instance_uid=False)
    except Exception as error:  # decoders raise whatever they like; the pixels' own reader knows another one
        if int(ds.get("NumberOfFrames") or 1) > 1:
            raise PixelsError(f"{source.name}: its frames cannot be decoded: {error}") from error
        pixels = FileReader().pixels(read_series([source])[0].first)
        kind = ("i" if ds.PixelRepresentation else "u") + str(ds.BitsAllocated // 8)
        data = np.ascontiguousarray(pixels, f"<{kind}").tobytes()
        ds.add_new("PixelData", "OB" if ds.BitsAllocated == 8 else "OW", data + b"\0" * (len(data) % 2))
        if ds.SamplesPerPixel == 3:
            ds.PhotometricInterpretation, ds.PlanarConfiguration = "RGB", 0


def _swap(_ds: Dataset, element: DataElement) -> None:
    """Values of several bytes that pydicom keeps as they came, from big endian to little. To be asked for it makes an
    element of what was raw, which is then encoded anew."""
    if element.VR in _WORDS and isinstance(element.value, bytes):
        element.value = np.frombuffer(element.value, f">{_WORDS[element.VR]}").byteswap().tobytes()

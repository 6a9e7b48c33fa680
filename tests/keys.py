"""Certificates for tests, signed by an authority of their own."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.peers import tool


@dataclass(frozen=True)
class Keys:
    """PEM files: an authority, and by name a certificate it signed with its key."""

    folder: Path

    @property
    def authority(self) -> str:
        return str(self.folder / "authority.crt")

    def of(self, name: str) -> tuple[str, str]:
        return str(self.folder / f"{name}.crt"), str(self.folder / f"{name}.key")


def openssl(*arguments: str | Path) -> None:
    subprocess.run([tool("openssl"), *map(str, arguments)], check=True, capture_output=True)


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    folder = tmp_path_factory.mktemp("keys")
    new = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    for name in ("authority", "foreign"):
        openssl(*new, "-subj", f"/CN={name}", "-keyout", folder / f"{name}.key", "-out", folder / f"{name}.crt")
    for name, also in (("node", "DNS:localhost,IP:127.0.0.1"), ("SENDER", "DNS:sender.hospital.org"),
                       ("device", "DNS:ORTHANC,URI:urn:dicom:aet:BY_URI")):  # fmt: skip
        signed = ("-CA", folder / "authority.crt", "-CAkey", folder / "authority.key")
        openssl(*new, *signed, "-subj", f"/CN={name}", "-addext", f"subjectAltName={also}",
                "-keyout", folder / f"{name}.key", "-out", folder / f"{name}.crt")  # fmt: skip
    return Keys(folder)

"""Certificates of a test, in folders as the mesh and Kubernetes keep them."""

from pathlib import Path

from services.mesh.authority import Identity
from services.mesh.identity import swap


def shows(folder: Path, made: Identity, believed: bytes | None = None) -> Path:
    """Has whoever reads the folder show this certificate from now on, all files in one instant.

    Whom it believes (`believed`, the PEM of authorities) stays as it is by default.
    """
    believed = believed or (folder / "ca.crt").read_bytes()
    swap(folder, {"tls.crt": made.certificate, "tls.key": made.key, "ca.crt": believed})
    return folder

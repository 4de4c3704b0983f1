"""The router's own certificate: TLS in which both sides prove who they are.

The files are those of a Kubernetes Secret of cert-manager: tls.crt (the chain), tls.key, ca.crt
(whom to trust; several while an authority is being replaced). They are looked at before each
handshake, so that what is rotated holds for the next connection.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from prometheus_client import Gauge

from services.portfolio.rpc.identity import ROUTER, part_name
from services.portfolio.rpc.watched import BadFileError, Watched

FILES = ("tls.crt", "tls.key", "ca.crt")
EXPIRES = Gauge(
    "portfolio_certificate_expires_timestamp_seconds",
    "When the router's own certificate ends (AUTH=mtls).",
)


def server_credentials(folder: Path, trust_domain: str) -> grpc.ServerCredentials:
    """TLS for the server, which lets nobody in whose certificate is not signed by ca.crt.

    Raises:
        BadFileError: A file is missing, or does not fit the others; or the certificate is not the
            router's, or has ended.
    """

    def read(contents: Sequence[bytes]) -> grpc.ServerCertificateConfiguration:
        chain, key, authorities = contents
        _check(folder, chain, key, authorities, part_name(trust_domain, ROUTER))
        return grpc.ssl_server_certificate_configuration([(key, chain)], authorities)

    files = Watched("IDENTITY_DIR", [folder / name for name in FILES], read)
    given = files.value()

    def changed() -> grpc.ServerCertificateConfiguration | None:
        """What is to be used from now on; None: what was. gRPC asks before each handshake."""
        nonlocal given
        before, given = given, files.value()
        return None if given is before else given

    return grpc.dynamic_ssl_server_credentials(
        given,
        changed,  # type: ignore[arg-type]  # gRPC takes None too; its stubs do not say so
        require_client_authentication=True,
    )


def _check(folder: Path, chain: bytes, key: bytes, authorities: bytes, name: str) -> None:
    """Checks that the files are there in full, belong together, and are the router's."""
    try:
        certificate, *_ = x509.load_pem_x509_certificates(chain)
        own = load_pem_private_key(key, password=None)
        x509.load_pem_x509_certificates(authorities)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except (ValueError, TypeError, x509.ExtensionNotFound) as error:
        raise BadFileError(
            f"IDENTITY_DIR: {folder} must hold a certificate with its name (tls.crt), its key "
            f"without a password (tls.key) and the authorities to trust (ca.crt), as PEM: "
            f"{type(error).__name__}."
        ) from None
    if own.public_key() != certificate.public_key():
        raise BadFileError(f"IDENTITY_DIR: in {folder}, tls.key is not the key of tls.crt.")
    named = names.value.get_values_for_type(x509.UniformResourceIdentifier)
    if named != [name]:
        raise BadFileError(
            f"IDENTITY_DIR: the certificate in {folder} is of {', '.join(named) or 'nobody'}; the "
            f"router's own is of {name}. Set TRUST_DOMAIN, or another IDENTITY_DIR."
        )
    ends = certificate.not_valid_after_utc
    if ends <= datetime.now(UTC):
        raise BadFileError(
            f"IDENTITY_DIR: the certificate in {folder} has ended on {ends:%Y-%m-%d %H:%M} UTC. "
            "Put a new one there."
        )
    EXPIRES.set(ends.timestamp())

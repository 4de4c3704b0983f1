"""Certificates: an authority that signs them, and the names that they carry.

A name is a SPIFFE name, the certificate's one URI; nothing is ever read from its subject. Servers
carry the hosts by which they are called as well. Elliptic keys (P-256), which every part speaks.
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_DAYS = 3650
CLOCKS_DIFFER_BY = timedelta(minutes=5)


@dataclass(frozen=True)
class Authority:
    """A certificate that signs others, and its key. Certificate and key are PEM."""

    certificate: bytes
    key: bytes


@dataclass(frozen=True)
class Identity:
    """What a part shows to prove who it is: its certificate and key, as PEM."""

    certificate: bytes
    key: bytes


def new_authority(days: float = AUTHORITY_DAYS, *, now: datetime | None = None) -> Authority:
    """Makes an authority that may sign certificates of parts, but no further authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "EfficientFrontier Portfolio"),
            # Of its own, so that certificates of two authorities are never confused.
            x509.NameAttribute(NameOID.COMMON_NAME, f"mesh {x509.random_serial_number():x}"[:40]),
        ]
    )
    builder = (
        _valid(x509.CertificateBuilder(), now, days)
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return Authority(_pem(builder.sign(key, hashes.SHA256())), _pem_key(key))


def issue(
    authority: Authority,
    name: str,
    hosts: Sequence[str] = (),
    *,
    days: float = 30,
    now: datetime | None = None,
) -> Identity:
    """Signs a certificate for a new key.

    Args:
        authority: who signs.
        name: the URI, such as spiffe://efficientfrontier/strategy/IncredibleLeverage_SPXL.
        hosts: of a server: the DNS names and IP addresses by which it is called.
        days: how long it is valid from `now`; below 0 it has ended already.
        now: by default this moment.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    parent = x509.load_pem_x509_certificate(authority.certificate)
    uses = [ExtendedKeyUsageOID.CLIENT_AUTH]
    if hosts:
        uses.append(ExtendedKeyUsageOID.SERVER_AUTH)
    parent_key_id = parent.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    builder = (
        _valid(x509.CertificateBuilder(), now, days)
        .subject_name(x509.Name([]))
        .issuer_name(parent.subject)
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        .add_extension(_names(name, hosts), critical=True)  # there is no other name in it
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(parent_key_id),
            critical=False,
        )
    )
    signing_key = serialization.load_pem_private_key(authority.key, password=None)
    assert isinstance(signing_key, ec.EllipticCurvePrivateKey)  # noqa: S101 (we made it)
    return Identity(_pem(builder.sign(signing_key, hashes.SHA256())), _pem_key(key))


def is_whole(identity: Identity) -> bool:
    """Whether both can be read, and the key is the certificate's."""
    try:
        certificate = x509.load_pem_x509_certificate(identity.certificate)
        key = serialization.load_pem_private_key(identity.key, password=None)
    except ValueError:
        return False
    return certificate.public_key() == key.public_key()


def validity(certificate: bytes) -> tuple[datetime, datetime]:
    """From when to when the first certificate of a PEM text is valid."""
    first = x509.load_pem_x509_certificate(certificate)
    return first.not_valid_before_utc, first.not_valid_after_utc


def names_of(certificate: bytes) -> set[str]:
    """The URIs and hosts that the first certificate of a PEM text names."""
    first = x509.load_pem_x509_certificate(certificate)
    names = first.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {str(name.value) for name in names}


def is_signed_by(certificate: bytes, authority: bytes) -> bool:
    """Whether the first certificate of a PEM text is one of the authority's."""
    parent = x509.load_pem_x509_certificate(authority)
    return x509.load_pem_x509_certificate(certificate).issuer == parent.subject


def _valid(
    builder: x509.CertificateBuilder, now: datetime | None, days: float
) -> x509.CertificateBuilder:
    now = now or datetime.now(UTC)
    end = now + timedelta(days=days)
    start = min(now, end) - CLOCKS_DIFFER_BY
    return (
        builder.serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
    )


def _names(name: str, hosts: Sequence[str]) -> x509.SubjectAlternativeName:
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(name)]
    for host in hosts:
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            names.append(x509.DNSName(host))
    return x509.SubjectAlternativeName(names)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _pem_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )

"""Certificates and tokens as other people's libraries and OpenSSL see them."""

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jwt
import pytest
from cryptography import x509
from cryptography.x509 import verification
from cryptography.x509.oid import ExtendedKeyUsageOID

from services.mesh import tokens
from services.mesh.authority import issue, names_of, new_authority, validity

NAME = "spiffe://efficientfrontier/strategy/IncredibleLeverage_SPXL"


def test_a_servers_certificate_stands_a_strict_verifier_and_names_its_hosts() -> None:
    authority = new_authority()
    made = issue(authority, NAME, ["localhost", "127.0.0.1", "::1"], days=1)
    leaf = x509.load_pem_x509_certificate(made.certificate)
    root = x509.load_pem_x509_certificate(authority.certificate)

    builder = verification.PolicyBuilder().store(verification.Store([root]))
    chain = builder.build_server_verifier(x509.DNSName("localhost")).verify(leaf, [])
    builder.build_client_verifier().verify(leaf, [])

    assert chain == [leaf, root]
    assert names_of(made.certificate) == {NAME, "localhost", "127.0.0.1", "::1"}
    with pytest.raises(verification.VerificationError):
        builder.build_server_verifier(x509.DNSName("elsewhere")).verify(leaf, [])


def test_a_callers_certificate_cannot_be_a_servers_and_signs_nothing() -> None:
    made = x509.load_pem_x509_certificate(issue(new_authority(), NAME).certificate)

    uses = made.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(uses) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    constraints = made.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert not constraints.value.ca
    assert len(made.subject.rdns) == 0
    assert made.extensions.get_extension_for_class(x509.SubjectAlternativeName).critical


def test_another_authoritys_certificate_is_not_ours() -> None:
    ours, theirs = new_authority(), new_authority()
    leaf = x509.load_pem_x509_certificate(issue(theirs, NAME).certificate)
    store = verification.Store([x509.load_pem_x509_certificate(ours.certificate)])

    with pytest.raises(verification.VerificationError):
        verification.PolicyBuilder().store(store).build_client_verifier().verify(leaf, [])


@pytest.mark.parametrize("days", [30, -1])
def test_a_certificate_ends_when_it_is_said_to(days: int) -> None:
    now = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)

    start, end = validity(issue(new_authority(), NAME, days=days, now=now).certificate)

    assert end == now + timedelta(days=days)
    assert start < end
    assert start < now


def test_python_loads_the_files_as_they_are(tmp_path: Path) -> None:
    made = issue(new_authority(), NAME)
    (tmp_path / "crt").write_bytes(made.certificate)
    (tmp_path / "key").write_bytes(made.key)

    ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(tmp_path / "crt", tmp_path / "key")


def test_a_token_is_verified_by_the_public_key_of_its_id_and_by_no_other() -> None:
    old, new = tokens.new_key(), tokens.new_key()
    keys = jwt.PyJWKSet.from_json(tokens.key_set([old, new]).decode())

    signed = tokens.token(new, NAME, days=1)

    claims = jwt.decode(
        signed,
        keys[jwt.get_unverified_header(signed)["kid"]],
        algorithms=["EdDSA"],
        audience="efficientfrontier",
        options={"require": ["sub", "aud", "exp"]},
    )
    assert claims["sub"] == NAME
    with pytest.raises(jwt.InvalidSignatureError):
        jwt.decode(signed, keys.keys[0], algorithms=["EdDSA"], audience="efficientfrontier")
    ended = tokens.token(new, NAME, days=-1)
    with pytest.raises(jwt.ExpiredSignatureError):
        jwt.decode(ended, keys.keys[1], algorithms=["EdDSA"], audience="efficientfrontier")


def test_the_public_keys_hold_no_private_half() -> None:
    assert '"d"' not in tokens.key_set([tokens.new_key()]).decode()

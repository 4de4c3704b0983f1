"""Tokens: what a caller shows with AUTH=token, and the keys that sign them.

A token is a JWT that names its holder (`sub`, a SPIFFE name), whom it is for (`aud`) and when it
ends (`exp`). The router knows only the public keys, as a JWKS file.
"""

import hashlib
import json
from base64 import urlsafe_b64encode
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

AUDIENCE = "efficientfrontier"
ALGORITHM = "EdDSA"


def new_key() -> bytes:
    """Makes a key that signs tokens (Ed25519), as PEM."""
    return Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def key_set(keys: list[bytes]) -> bytes:
    """The public halves of these keys, as a JWKS file."""
    return json.dumps({"keys": [_public(key) for key in keys]}, indent=2).encode()


def token(key: bytes, name: str, *, days: float = 30, now: datetime | None = None) -> str:
    """Signs a token for `name`, such as spiffe://efficientfrontier/operator/alice.

    It counts from `now` (by default this moment) for `days`; below 0 it has ended already.
    """
    now = now or datetime.now(UTC)
    claims = {"sub": name, "aud": AUDIENCE, "iat": now, "exp": now + timedelta(days=days)}
    return jwt.encode(claims, key.decode(), ALGORITHM, headers={"kid": _public(key)["kid"]})


def claims_of(signed: str) -> dict[str, Any]:
    """What a token of our own says; its signature is not looked at.

    Raises:
        ValueError: It is no token.
    """
    try:
        return dict(jwt.decode(signed, options={"verify_signature": False}))
    except jwt.PyJWTError as error:
        raise ValueError(f"this is no token: {error}") from None


def is_signed_with(signed: str, key: bytes) -> bool:
    """Whether a token names this key."""
    return bool(jwt.get_unverified_header(signed).get("kid") == _public(key)["kid"])


def _public(key: bytes) -> dict[str, str]:
    """The public half, as a JSON web key; its id is made of it."""
    private = serialization.load_pem_private_key(key, password=None)
    raw = private.public_key().public_bytes(
        serialization.Encoding.Raw, serialization.PublicFormat.Raw
    )
    return {
        "kty": "OKP",
        "crv": "Ed25519",
        "alg": ALGORITHM,
        "use": "sig",
        "kid": hashlib.sha256(raw).hexdigest()[:16],
        "x": urlsafe_b64encode(raw).rstrip(b"=").decode(),
    }

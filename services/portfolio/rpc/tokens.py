"""Tokens: who a caller is by a signed text that it sends with each call (AUTH=token).

A token is a JWT in `authorization: Bearer ...`, signed with Ed25519 (EdDSA) or P-256 (ES256) by a
key of the JWKS file TOKEN_KEYS. `sub` is the caller's SPIFFE name, `aud` must be efficientfrontier,
`exp` must be there and `nbf` is heeded. Whoever reads a token can use it until it ends: outside of
the cluster, something in front of the router must end TLS. Between Envoy and the router, in a
network where nobody listens, plain gRPC carries it.

A watch that has begun goes on when its token ends; it tells what any reader may know.
"""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jwt

from services.portfolio.caller import Caller
from services.portfolio.rpc.context import Context
from services.portfolio.rpc.errors import CredentialsInvalidError, CredentialsMissingError
from services.portfolio.rpc.identity import caller_of
from services.portfolio.rpc.watched import BadFileError, Watched

AUDIENCE = "efficientfrontier"
ALGORITHMS = {("OKP", "Ed25519"): "EdDSA", ("EC", "P-256"): "ES256"}  # by the key's own kind
LEEWAY_S = 10  # between the clocks of who signs and of who checks
MOST_KNOWN = 4096  # tokens whose signature need not be checked again
LONGEST = 4096  # characters
SCHEME = "bearer "
HOW = "Call with `authorization: Bearer TOKEN`."

Keys = Mapping[str, jwt.PyJWK]  # by kid


class Tokens:
    """Checks tokens. One that was checked is known until it ends, or the keys change."""

    def __init__(self, path: Path, trust_domain: str) -> None:
        """Reads the keys.

        Raises:
            BadFileError: The file is missing, or holds no keys to check tokens with.
        """
        self._trust_domain = trust_domain
        self._keys = Watched("TOKEN_KEYS", [path], _keys_of)
        self._known: dict[str, tuple[Caller, int]] = {}  # until when, in UNIX time
        self._known_by = self._keys.version

    def identify(self, context: Context) -> Caller:
        """Who calls.

        Raises:
            CredentialsMissingError: There is no token.
            CredentialsInvalidError: It is not valid (any more), or not ours.
        """
        token = _token_of(context)
        keys = self._keys.value()
        if self._known_by != self._keys.version:  # who signed with a key that is gone is out
            self._known.clear()
            self._known_by = self._keys.version
        known = self._known.get(token)
        if known is not None and time.time() < known[1]:
            return known[0]
        caller, until = self._checked(token, keys)
        if len(self._known) >= MOST_KNOWN:
            self._known.clear()
        self._known[token] = (caller, until)
        return caller

    def _checked(self, token: str, keys: Keys) -> tuple[Caller, int]:
        """Who it says, and until when."""
        claims = _claims(token, keys)
        return caller_of(str(claims["sub"]), self._trust_domain), int(claims["exp"]) + LEEWAY_S


def _token_of(context: Context) -> str:
    values = [
        str(value) for key, value in context.invocation_metadata() or () if key == "authorization"
    ]
    if not values:
        raise CredentialsMissingError(f"This router wants to know who calls. {HOW}")
    (value, *others) = values
    if others or value[: len(SCHEME)].lower() != SCHEME or len(value) > LONGEST:
        raise CredentialsInvalidError(
            f"`authorization` is not one bearer token of at most {LONGEST} characters. {HOW}"
        )
    return value[len(SCHEME) :].strip()


def _claims(token: str, keys: Keys) -> Mapping[str, Any]:
    """What a valid token says. The key decides how it is checked, never the token."""
    try:
        kid = jwt.get_unverified_header(token).get("kid")
        key = keys.get(kid) if isinstance(kid, str) else None
        if key is None:
            raise CredentialsInvalidError(
                "The token is signed with a key that is not known, or not any more. Get a new one."
            )
        claims: dict[str, Any] = jwt.decode(
            token,
            key,
            algorithms=[key.algorithm_name],
            audience=AUDIENCE,
            leeway=LEEWAY_S,
            options={"require": ["exp", "aud", "sub"], "strict_aud": True},
        )
    except jwt.ExpiredSignatureError:
        raise CredentialsInvalidError("The token has expired. Get a new one.") from None
    except jwt.ImmatureSignatureError:
        raise CredentialsInvalidError("The token is not valid yet.") from None
    except jwt.InvalidAudienceError:
        raise CredentialsInvalidError(f"The token is not for {AUDIENCE} (`aud`).") from None
    except jwt.MissingRequiredClaimError as error:
        raise CredentialsInvalidError(f"The token has no `{error.claim}`.") from None
    except jwt.PyJWTError:
        raise CredentialsInvalidError(
            "The token cannot be read, or its signature is not that of its key."
        ) from None
    return claims


def _keys_of(contents: Sequence[bytes]) -> Keys:
    """The keys of a JWKS, by kid."""
    try:
        given = json.loads(contents[0])["keys"]
        keys = {each["kid"]: _key_of(each) for each in given}
        complete = len(keys) == len(given) > 0 and all(isinstance(kid, str) for kid in keys)
    except (ValueError, TypeError, KeyError, jwt.PyJWTError):
        complete, keys = False, {}
    if not complete:
        raise BadFileError(
            "TOKEN_KEYS: the file must be a JWKS with at least one key, each with a `kid` of its "
            "own: the public half of an Ed25519 or P-256 key."
        )
    return keys


def _key_of(given: Mapping[str, str]) -> jwt.PyJWK:
    """One public key, with the algorithm of its kind. KeyError: it is of another kind."""
    algorithm = ALGORITHMS[given["kty"], given["crv"]]
    if "d" in given:
        raise BadFileError(
            f"TOKEN_KEYS: the key {given['kid']} is private: whoever reads the file could sign "
            "with it. Give its public half alone, and use another key from now on."
        )
    return jwt.PyJWK.from_dict(dict(given), algorithm)

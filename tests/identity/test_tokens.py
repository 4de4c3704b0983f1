"""AUTH=token: which tokens say who calls, over real gRPC."""

import hmac
import json
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from services.mesh.tokens import key_set, new_key
from services.portfolio.caller import ANONYMOUS, CALLER, Caller
from services.portfolio.rpc.admission import Admission
from services.portfolio.rpc.tokens import LEEWAY_S, Tokens
from services.portfolio.rpc.watched import BadFileError
from services.portfolio.telemetry import tracing
from tests.identity.desk import DOMAIN, Desk, Headers, Keyring, bearer, served
from tests.ports.stores import memory_store
from tests.support.waiting import wait_until_async

READ = "ListPortfolios"
UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED


@pytest.fixture
def keyring(tmp_path: Path) -> Keyring:
    return Keyring(tmp_path / "keys.json")


@pytest.fixture
async def desk(keyring: Keyring) -> AsyncIterator[Desk]:
    admission = Admission(Tokens(keyring.path, "efficientfrontier").identify)
    async with served(memory_store(), admission) as one:
        yield one


def kid_of(keyring: Keyring) -> str:
    kid: str = json.loads(keyring.path.read_text())["keys"][0]["kid"]
    return kid


def signed(keyring: Keyring, key: Any = None, algorithm: str = "EdDSA", **changes: Any) -> Headers:
    """A token with claims or a kid of one's own; those that are None are left out."""
    now = datetime.now(UTC)
    claims = {
        "sub": f"{DOMAIN}/reader/r",
        "aud": "efficientfrontier",
        "exp": now + timedelta(hours=1),
        "kid": kid_of(keyring),
        **changes,
    }
    kid = claims.pop("kid")
    headers = {} if kid is None else {"kid": kid}
    given = {name: value for name, value in claims.items() if value is not None}
    return bearer(jwt.encode(given, key or keyring.key.decode(), algorithm, headers))


async def test_a_token_says_who_calls(desk: Desk, keyring: Keyring) -> None:
    assert await desk.call(READ, keyring.header("reader/r"))
    assert await desk.call(READ, signed(keyring))
    ((_, text),) = signed(keyring)
    assert await desk.call(READ, (("authorization", text.replace("Bearer", "bearer")),))


async def test_no_token_is_missing_credentials(desk: Desk) -> None:
    for name in (READ, "BuyAll", "WatchOrders"):
        refused = await desk.refused(name)
        assert (refused.code, refused.reason) == (UNAUTHENTICATED, "CREDENTIALS_MISSING")
        assert "Bearer TOKEN" in refused.message


HOUR = timedelta(hours=1)
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "expired": ({"exp": datetime.now(UTC) - HOUR}, "has expired"),
    "not valid yet": ({"nbf": datetime.now(UTC) + HOUR}, "not valid yet"),
    "issued in the future": ({"iat": datetime.now(UTC) + HOUR}, "not valid yet"),
    "for somebody else": ({"aud": "elsewhere"}, "not for efficientfrontier"),
    "for others too": ({"aud": ["efficientfrontier", "elsewhere"]}, "not for efficientfrontier"),
    "for nobody": ({"aud": None}, "no `aud`"),
    "for ever": ({"exp": None}, "no `exp`"),
    "of nobody": ({"sub": None}, "no `sub`"),
    "of no name": ({"sub": "alice"}, "must be spiffe://"),
    "of another domain": ({"sub": "spiffe://elsewhere/operator/o"}, "must be spiffe://"),
    "of a part": ({"sub": f"{DOMAIN}/router"}, "must be spiffe://"),
    "of an unknown key": ({"kid": "another"}, "a key that is not known"),
    "of no key": ({"kid": None}, "a key that is not known"),
}


@pytest.mark.parametrize("case", WRONG)
async def test_a_wrong_token_is_refused(desk: Desk, keyring: Keyring, case: str) -> None:
    changes, why = WRONG[case]
    refused = await desk.refused(READ, signed(keyring, **changes))
    assert (refused.code, refused.reason) == (UNAUTHENTICATED, "CREDENTIALS_INVALID")
    assert why in refused.message


async def test_another_key_under_the_same_id_is_refused(desk: Desk, keyring: Keyring) -> None:
    refused = await desk.refused(READ, signed(keyring, new_key().decode()))
    assert refused.reason == "CREDENTIALS_INVALID"
    assert "signature" in refused.message


async def test_the_token_does_not_choose_how_it_is_checked(desk: Desk, keyring: Keyring) -> None:
    (public,) = json.loads(keyring.path.read_text())["keys"]
    raw = urlsafe_b64decode(public["x"] + "=")
    secrets = [raw, public["x"].encode(), keyring.path.read_bytes(), b""]
    forged = [by_hmac(public["kid"], secret) for secret in secrets]
    forged.append(signed(keyring, ec_key(), "ES256"))
    forged.append(bearer(jwt.encode(EVIL, "", "none", {"kid": public["kid"]})))
    for headers in forged:
        refused = await desk.refused(READ, headers)
        assert (refused.code, refused.reason) == (UNAUTHENTICATED, "CREDENTIALS_INVALID")
        assert "signature" in refused.message


EVIL = {"sub": f"{DOMAIN}/operator/o", "aud": "efficientfrontier", "exp": 2**40}


def by_hmac(kid: str, secret: bytes) -> Headers:
    """A token signed with a secret that is no secret, as HS256; libraries refuse to make it."""
    parts = [
        urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=")
        for part in ({"alg": "HS256", "typ": "JWT", "kid": kid}, EVIL)
    ]
    signature = hmac.digest(secret, b".".join(parts), "sha256")
    return bearer(b".".join([*parts, urlsafe_b64encode(signature).rstrip(b"=")]).decode())


@pytest.mark.parametrize(
    "values",
    [
        ["Bearer"],
        ["Bearer "],
        ["Bearer x"],
        ["Bearer x.y.z"],
        ["Basic YWxpY2U6c2VjcmV0"],
        [f"Bearer {'x' * 5000}"],
        ["Bearer x.y.z", "Bearer x.y.z"],
        [""],
    ],
)
async def test_what_is_no_token_is_refused(desk: Desk, values: list[str]) -> None:
    refused = await desk.refused(READ, [("authorization", value) for value in values])
    assert (refused.code, refused.reason) == (UNAUTHENTICATED, "CREDENTIALS_INVALID")


async def test_two_tokens_are_none(desk: Desk, keyring: Keyring) -> None:
    headers = keyring.header("reader/r")
    assert (await desk.refused(READ, (*headers, *headers))).reason == "CREDENTIALS_INVALID"


@pytest.mark.parametrize(
    ("claim", "value", "reason"),
    [
        ("exp", 10**400, ""),  # it never ends
        ("sub", f"{DOMAIN}/reader/\ud800", "CREDENTIALS_INVALID"),  # half of a character
    ],
    ids=["no end", "half a character"],
)
async def test_an_odd_claim_is_no_fault_of_the_routers(
    desk: Desk, keyring: Keyring, claim: str, value: Any, reason: str
) -> None:
    assert (await desk.refused(READ, signed(keyring, **{claim: value}))).reason == reason


async def test_whoever_is_not_let_in_is_not_taken_for_the_router(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the spans and log lines of the call."""
    seen: list[Caller] = []
    monkeypatch.setattr(tracing, "end", lambda *_: seen.append(CALLER.get()))
    await desk.refused(READ)
    assert seen == [ANONYMOUS]


async def test_p256_signs_too(desk: Desk, keyring: Keyring) -> None:
    key = ec_key()
    public = json.loads(ECAlgorithm.to_jwk(load(key).public_key()))
    keyring.write(json.dumps({"keys": [public | {"kid": "p256"}]}).encode())
    assert await desk.call(READ, signed(keyring, key, "ES256"))


async def test_keys_are_rotated_without_a_restart(desk: Desk, keyring: Keyring) -> None:
    old, fresh = keyring.key, new_key()
    before, after = keyring.header("reader/r", old), keyring.header("reader/r", fresh)
    assert await desk.call(READ, before)
    assert (await desk.refused(READ, after)).reason == "CREDENTIALS_INVALID"
    keyring.publish(old, fresh)
    assert await desk.call(READ, before)
    assert await desk.call(READ, after)
    keyring.publish(fresh)  # what the old one signed is out at once, known as it is
    assert (await desk.refused(READ, before)).reason == "CREDENTIALS_INVALID"
    assert await desk.call(READ, after)


async def test_a_token_that_is_known_ends_when_it_expires(desk: Desk, keyring: Keyring) -> None:
    ends = int(time.time() - LEEWAY_S) + 2  # in one or two seconds, with what clocks may differ
    headers = signed(keyring, exp=ends)
    assert await desk.call(READ, headers)

    async def is_refused() -> bool:
        refused = await desk.refused(READ, headers)
        return refused.reason == "CREDENTIALS_INVALID" and "has expired" in refused.message

    assert await wait_until_async(is_refused, 10, "the token has ended")
    assert time.time() >= ends + LEEWAY_S


@pytest.mark.parametrize("broken", [b"", b"{", b"[]", b'{"keys": []}', b'{"keys": [{"kid": "x"}]}'])
async def test_a_half_written_key_file_leaves_the_keys_before(
    desk: Desk, keyring: Keyring, broken: bytes
) -> None:
    keyring.write(broken)
    assert await desk.call(READ, keyring.header("reader/r"))
    keyring.path.unlink()
    assert await desk.call(READ, keyring.header("reader/r"))
    fresh = new_key()
    keyring.publish(fresh)
    assert await desk.call(READ, keyring.header("reader/r", fresh))


def jwks(**changes: str) -> bytes:
    """A key file whose one key is changed."""
    (public,) = json.loads(key_set([new_key()]))["keys"]
    return json.dumps({"keys": [public | changes]}).encode()


NO_KEYS = {
    "empty": b"",
    "no set": b"{}",
    "no key": b'{"keys": []}',
    "a secret": jwks(kty="oct", k="c2VjcmV0"),
    "another curve": jwks(crv="Ed448"),
    "no figure": jwks(x="!"),
    "a private key": jwks(d="c2VjcmV0"),
    "under another name": jwks().replace(b'"keys"', b'"others"'),
    "without an id": jwks().replace(b'"kid"', b'"name"'),
    "twice": json.dumps({"keys": json.loads(jwks())["keys"] * 2}).encode(),
}


@pytest.mark.parametrize("case", NO_KEYS)
def test_a_file_that_holds_no_keys_is_refused_at_start(tmp_path: Path, case: str) -> None:
    path = tmp_path / "keys.json"
    path.write_bytes(NO_KEYS[case])
    with pytest.raises(BadFileError, match="TOKEN_KEYS"):
        Tokens(path, "efficientfrontier")


def test_a_file_that_is_not_there_is_named_at_start(tmp_path: Path) -> None:
    with pytest.raises(BadFileError, match=r"keys\.json cannot be read"):
        Tokens(tmp_path / "keys.json", "efficientfrontier")


def ec_key() -> str:
    """A new P-256 key, as PEM."""
    return (
        ec.generate_private_key(ec.SECP256R1())
        .private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        .decode()
    )


def load(key: str) -> ec.EllipticCurvePrivateKey:
    loaded = serialization.load_pem_private_key(key.encode(), password=None)
    assert isinstance(loaded, ec.EllipticCurvePrivateKey)
    return loaded

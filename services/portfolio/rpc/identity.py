"""Identity: the names in credentials, and who a caller is by its certificate.

Names are SPIFFE names, in one grammar for certificates and tokens: spiffe://TRUST_DOMAIN/ROLE/NAME
with strategy, operator or reader as role; parts of the mesh are spiffe://TRUST_DOMAIN/PART.
"""

import re
import time
from datetime import UTC, datetime
from functools import lru_cache

from cryptography import x509

from services.portfolio.caller import Caller, Role
from services.portfolio.rpc.context import Context
from services.portfolio.rpc.errors import CredentialsInvalidError, CredentialsMissingError

FORWARDED = "x-forwarded-client-cert"
DOOR = "door"  # Envoy
ROUTER = "router"
LONGEST_SHOWN = 120  # characters of a wrong name that an error repeats
CONNECTION_LASTS_S = 3600  # then it is made anew; gRPC adds up to a tenth, by chance
ENDED_COUNTS_FOR_S = 1.2 * CONNECTION_LASTS_S
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}", re.ASCII)
# One key=value of x-forwarded-client-cert, the value quoted or not.
PAIR = re.compile(r'([A-Za-z]+)=(?:"((?:[^"\\]|\\.)*)"|([^",;]*))(;|\Z)', re.ASCII)


def part_name(trust_domain: str, part: str) -> str:
    """The name of a part of the mesh."""
    return f"spiffe://{trust_domain}/{part}"


@lru_cache(maxsize=4096)
def caller_of(name: str, trust_domain: str) -> Caller:
    """Who has this name.

    Raises:
        CredentialsInvalidError: It is none of a strategy, operator or reader of this domain.
    """
    prefix = f"spiffe://{trust_domain}/"
    role, _, own = name.removeprefix(prefix).partition("/")
    if not name.startswith(prefix) or role not in set(Role) or not NAME.fullmatch(own):
        raise CredentialsInvalidError(
            f"The name in the credentials is {name[:LONGEST_SHOWN]!a}. It must be "
            f"{prefix}strategy/NAME, {prefix}operator/NAME or {prefix}reader/NAME."
        )
    return Caller(own, Role(role))


class Certificates:
    """Who calls by its certificate (AUTH=mtls).

    The certificate itself was checked when the connection was made, and when it ended since then,
    the connection is at its end too. That is looked at here as well, because a TLS session can be
    taken up again without a look at the certificate, and gRPC's server cannot forbid it.

    A caller that comes through Envoy is who Envoy says: it alone, known by its own certificate, is
    believed what it says in x-forwarded-client-cert. From anybody else that header means nothing.
    """

    def __init__(self, trust_domain: str) -> None:
        self._trust_domain = trust_domain
        self._door = part_name(trust_domain, DOOR)

    def identify(self, context: Context) -> Caller:
        """Who calls.

        Raises:
            CredentialsMissingError: There is no name, in the certificate or from Envoy.
            CredentialsInvalidError: There are several, or it is no caller's; or it has ended.
        """
        proved = context.auth_context() or {}
        for certificate in proved.get("x509_pem_cert", ()):
            _require_not_ended(certificate)
        names = [uri.decode(errors="replace") for uri in proved.get("peer_uri", ())]
        name = _the_one(names, "The certificate")
        if name == self._door:
            headers = [
                str(value) for key, value in context.invocation_metadata() or () if key == FORWARDED
            ]
            name = forwarded_name(_the_one(headers, "The call that Envoy passed on"))
        return caller_of(name, self._trust_domain)


def _require_not_ended(certificate: bytes) -> None:
    """Checks that a certificate has not ended longer ago than a connection lasts.

    Raises:
        CredentialsInvalidError: It has.
    """
    ended_s = _end_of(certificate)
    if ended_s + ENDED_COUNTS_FOR_S < time.time():
        ended = datetime.fromtimestamp(ended_s, UTC)
        raise CredentialsInvalidError(
            f"The certificate has ended on {ended:%Y-%m-%d %H:%M} UTC. Call with a new one."
        )


@lru_cache(maxsize=256)
def _end_of(certificate: bytes) -> float:
    """When a certificate (PEM) ends, in UNIX time."""
    return x509.load_pem_x509_certificate(certificate).not_valid_after_utc.timestamp()


def forwarded_name(header: str) -> str:
    """The URI in x-forwarded-client-cert, which is `key=value;key="value"` for one certificate.

    Raises:
        CredentialsMissingError: There is none in it.
        CredentialsInvalidError: There are several, of several certificates, or it cannot be read.
    """
    names: list[str] = []
    place, follows = 0, ";"
    while follows:
        pair = PAIR.match(header, place)
        if pair is None:
            raise CredentialsInvalidError(
                "What Envoy passed on is not one certificate. Nothing may stand before it that "
                "passes certificates on."
            )
        key, quoted, bare, follows = pair.groups()
        place = pair.end()
        if key.lower() == "uri":
            names.append(bare if quoted is None else re.sub(r"\\(.)", r"\1", quoted))
    return _the_one(names, "The certificate")


def _the_one(names: list[str], what: str) -> str:
    if not names or not names[0]:
        raise CredentialsMissingError(
            f"{what} carries no name. Call with a certificate of the mesh, whose URI is "
            "spiffe://.../strategy/NAME, .../operator/NAME or .../reader/NAME."
        )
    if len(names) > 1:
        raise CredentialsInvalidError(f"{what} carries {len(names)} names; exactly one is needed.")
    return names[0]

"""AUTH=mtls: who is let in by a certificate, over real TLS."""

import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.mesh.authority import Authority, Identity, issue, new_authority
from services.mesh.ports import free_port
from services.portfolio.rpc import identity
from services.portfolio.rpc.admission import Admission
from services.portfolio.rpc.certificates import server_credentials
from services.portfolio.rpc.identity import Certificates
from services.portfolio.rpc.watched import BadFileError
from tests.identity.desk import DOMAIN, A, B, Desk, Headers, Refusal, served
from tests.ports.stores import memory_store
from tests.support.certificates import shows

READ = "ListPortfolios"
HOSTS = ("localhost", "127.0.0.1")
FORWARDED = "x-forwarded-client-cert"


class Folder:
    """IDENTITY_DIR of the router, as a Kubernetes Secret lies there: links through `..data`."""

    def __init__(self, path: Path, authority: Authority) -> None:
        self.path = path
        self.authority = authority
        self.put(issue(authority, f"{DOMAIN}/router", HOSTS))

    def put(self, own: Identity, *trusted: Authority) -> None:
        """Swaps all three files at once."""
        bundle = b"".join(each.certificate for each in trusted or (self.authority,))
        shows(self.path, own, bundle)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return new_authority()


@pytest.fixture
def folder(tmp_path: Path, authority: Authority) -> Folder:
    return Folder(tmp_path / "identity", authority)


@pytest.fixture
async def desk(folder: Folder) -> AsyncIterator[Desk]:
    async with desk_in(folder) as one:
        yield one


@asynccontextmanager
async def desk_in(folder: Folder) -> AsyncIterator[Desk]:
    """A router that asks for certificates; its channel shows those of reader/r."""
    credentials = server_credentials(folder.path, "efficientfrontier")
    admission = Admission(Certificates("efficientfrontier").identify, None, credentials)
    mine = shown(folder.authority, issue(folder.authority, f"{DOMAIN}/reader/r"))
    health = f"127.0.0.1:{free_port()}"
    async with served(
        memory_store(), admission, channel_credentials=mine, health_address=health
    ) as one:
        yield one


def shown(trusted: Authority, own: Identity | None) -> grpc.ChannelCredentials:
    """What a caller shows, and whom it trusts."""
    if own is None:
        return grpc.ssl_channel_credentials(trusted.certificate)
    return grpc.ssl_channel_credentials(trusted.certificate, own.key, own.certificate)


async def read(
    desk: Desk, credentials: grpc.ChannelCredentials | None, headers: Headers = ()
) -> Refusal:
    """How a read ends on a connection of its own."""
    address = f"127.0.0.1:{desk.server.port}"
    channel = (
        aio.insecure_channel(address)
        if credentials is None
        else aio.secure_channel(address, credentials)
    )
    async with channel:
        return await Desk(desk.router, desk.server, channel).refused(READ, headers)


async def test_a_certificate_says_who_calls(desk: Desk, authority: Authority) -> None:
    assert await desk.call(READ)
    operator = shown(authority, issue(authority, f"{DOMAIN}/operator/alice"))
    assert (await read(desk, operator)).code is grpc.StatusCode.OK


async def test_nobody_without_a_certificate_of_ours_gets_in(
    desk: Desk, authority: Authority
) -> None:
    stranger = new_authority()
    outsiders = {
        "no TLS": None,
        "no certificate": shown(authority, None),
        "another authority's": shown(authority, issue(stranger, f"{DOMAIN}/operator/alice")),
        "an ended one": shown(authority, issue(authority, f"{DOMAIN}/operator/alice", days=-1)),
    }
    for which, credentials in outsiders.items():
        refused = await read(desk, credentials)
        assert (refused.code, refused.reason) == (grpc.StatusCode.UNAVAILABLE, ""), which
    seen = await desk.call("ListMutations")
    assert not seen.mutations


@pytest.mark.parametrize(
    "name", [f"{DOMAIN}/router", "spiffe://elsewhere/operator/o", f"{DOMAIN}/admin/a"]
)
async def test_a_certificate_of_no_caller_is_refused(
    desk: Desk, authority: Authority, name: str
) -> None:
    refused = await read(desk, shown(authority, issue(authority, name)))
    assert (refused.code, refused.reason) == (
        grpc.StatusCode.UNAUTHENTICATED,
        "CREDENTIALS_INVALID",
    )


async def test_only_envoy_is_believed_whom_it_speaks_for(desk: Desk, authority: Authority) -> None:
    operator = f"By={DOMAIN}/door;Hash=00;URI={DOMAIN}/operator/alice"
    forged = ((FORWARDED, operator),)
    # A reader says it was an operator: it stays the reader that its own certificate names.
    refused = await desk.refused("HaltPortfolio", forged)
    assert refused.reason == "NOT_ALLOWED"
    assert refused.message.startswith("reader/r may not call HaltPortfolio")
    strategy = issue(authority, f"{DOMAIN}/strategy/{A}")
    async with aio.secure_channel(
        f"127.0.0.1:{desk.server.port}", shown(authority, strategy)
    ) as channel:
        mine = Desk(desk.router, desk.server, channel)
        refused = await mine.refused("BuyAll", forged, strategy_name=B, symbol="SPXL", price=1.0)
        assert refused.message.startswith(f"strategy/{A} may not trade as {B}")


async def test_who_comes_through_envoy_is_who_envoy_says(desk: Desk, authority: Authority) -> None:
    door = shown(authority, issue(authority, f"{DOMAIN}/door"))
    address = f"127.0.0.1:{desk.server.port}"
    async with aio.secure_channel(address, door) as channel:
        through = Desk(desk.router, desk.server, channel)

        def says(*values: str) -> Headers:
            return tuple((FORWARDED, value) for value in values)

        reader = f"By={DOMAIN}/door;Hash=00;URI={DOMAIN}/reader/r"
        assert (await through.refused(READ, says(reader))).code is grpc.StatusCode.OK
        refused = await through.refused("HaltPortfolio", says(reader))
        assert refused.message.startswith("reader/r may not")
        assert (await through.refused(READ)).reason == "CREDENTIALS_MISSING"
        assert (await through.refused(READ, says("Hash=00"))).reason == "CREDENTIALS_MISSING"
        for wrong in (
            says(reader, reader),
            says(f"{reader},{reader}"),
            says(f"{reader};URI={DOMAIN}/operator/o"),
            says(f"URI={DOMAIN}/door"),
        ):
            assert (await through.refused(READ, wrong)).reason == "CREDENTIALS_INVALID"


async def test_a_connection_does_not_outlive_its_certificate_by_more_than_its_age(
    desk: Desk, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However it was made: TLS sessions are taken up again without a look at the certificate."""
    brief = shown(authority, issue(authority, f"{DOMAIN}/reader/r", days=0.01))
    address = f"127.0.0.1:{desk.server.port}"
    async with aio.secure_channel(address, brief) as channel:
        theirs = Desk(desk.router, desk.server, channel)
        for hours, reason in ((1.0, ""), (2.0, "CREDENTIALS_INVALID")):
            later_s = time.time() + hours * 3600
            monkeypatch.setattr(identity, "time", SimpleNamespace(time=lambda: later_s))  # noqa: B023
            assert (await theirs.refused(READ)).reason == reason
        assert "The certificate has ended on 20" in (await theirs.refused(READ)).message
    assert await desk.call(READ)


async def test_certificates_are_rotated_without_a_restart(
    desk: Desk, folder: Folder, authority: Authority
) -> None:
    fresh = new_authority()
    old_caller = shown(authority, issue(authority, f"{DOMAIN}/reader/r"))
    new_caller = shown(fresh, issue(fresh, f"{DOMAIN}/reader/r"))
    own = issue(authority, f"{DOMAIN}/router", HOSTS)
    assert await desk.call(READ)
    assert (await read(desk, new_caller)).code is grpc.StatusCode.UNAVAILABLE
    both = grpc.ssl_channel_credentials(
        authority.certificate + fresh.certificate, *reversed(pair(fresh))
    )
    folder.put(own, authority, fresh)  # first both are trusted
    assert (await read(desk, both)).code is grpc.StatusCode.OK
    assert (await read(desk, old_caller)).code is grpc.StatusCode.OK
    folder.put(issue(fresh, f"{DOMAIN}/router", HOSTS), fresh)  # then the new one alone
    assert (await read(desk, new_caller)).code is grpc.StatusCode.OK
    assert (await read(desk, old_caller)).code is grpc.StatusCode.UNAVAILABLE
    assert await desk.call(READ)  # whose connection was there before


def pair(authority: Authority) -> tuple[bytes, bytes]:
    """The certificate and key of reader/r."""
    own = issue(authority, f"{DOMAIN}/reader/r")
    return own.certificate, own.key


def half_written(folder: Folder) -> None:
    (folder.path / "..data" / "tls.crt").write_bytes(b"-----BEGIN CERTIFICATE-----\nMIIB")


def with_another_key(folder: Folder) -> None:
    other = issue(folder.authority, f"{DOMAIN}/router", HOSTS)
    (folder.path / "..data" / "tls.key").write_bytes(other.key)


def ended(folder: Folder) -> None:
    folder.put(issue(folder.authority, f"{DOMAIN}/router", HOSTS, days=-1))


def gone(folder: Folder) -> None:
    (folder.path / "..data").unlink()


def without_authorities(folder: Folder) -> None:
    (folder.path / "..data" / "ca.crt").write_bytes(b"")


def of_another(folder: Folder) -> None:
    folder.put(issue(folder.authority, f"{DOMAIN}/strategy/{A}", HOSTS))


Spoil = Callable[[Folder], None]
SPOILT: dict[str, tuple[Spoil, str]] = {
    "half": (half_written, "must hold a certificate"),
    "key": (with_another_key, "tls.key is not the key of tls.crt"),
    "ended": (ended, "has ended on 20"),
    "gone": (gone, "tls.crt cannot be read"),
    "authorities": (without_authorities, "must hold a certificate"),
    "another": (of_another, f"is of {DOMAIN}/strategy/{A}; the router's own is of"),
}


@pytest.mark.parametrize("case", SPOILT)
async def test_files_that_cannot_be_used_leave_those_before(
    desk: Desk, folder: Folder, authority: Authority, case: str
) -> None:
    SPOILT[case][0](folder)
    caller = shown(authority, issue(authority, f"{DOMAIN}/reader/r"))
    assert (await read(desk, caller)).code is grpc.StatusCode.OK
    assert (await read(desk, caller)).code is grpc.StatusCode.OK


@pytest.mark.parametrize("case", SPOILT)
def test_files_that_cannot_be_used_are_named_at_start(folder: Folder, case: str) -> None:
    spoil, why = SPOILT[case]
    spoil(folder)
    with pytest.raises(BadFileError, match=why):
        server_credentials(folder.path, "efficientfrontier")


async def test_probes_find_the_health_and_nothing_else_without_a_certificate(desk: Desk) -> None:
    async with aio.insecure_channel(f"127.0.0.1:{desk.server.health_port}") as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        for service in ("", "liveness", "efficientfrontier.v1.OrderService"):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=service))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        refused = await Desk(desk.router, desk.server, channel).refused(READ)
        assert refused.code is grpc.StatusCode.UNIMPLEMENTED


async def test_a_router_that_drains_is_alive_and_not_ready(folder: Folder) -> None:
    async with desk_in(folder) as desk:
        await desk.server._say(serving=False, names=("",))
        health: Any = health_pb2_grpc.HealthStub(desk.channel)
        answers = [
            (await health.Check(health_pb2.HealthCheckRequest(service=service))).status
            for service in ("", "liveness")
        ]
    serving = health_pb2.HealthCheckResponse
    assert answers == [serving.NOT_SERVING, serving.SERVING]


async def test_a_taken_health_address_is_named(folder: Folder) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(Exception, match=f"HEALTH_ADDRESS {address} cannot be listened on"):
            async with served(memory_store(), health_address=address):
                pass

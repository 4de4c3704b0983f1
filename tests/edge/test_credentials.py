"""What the SDK shows of itself, and what it says when that does not do: against the real Envoy."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from services.mesh.authority import Authority, Identity, issue, new_authority
from services.mesh.envoy import Envoy
from services.mesh.identity import OPERATOR, Identities
from services.mesh.ports import free_port
from SureshotSDK import (
    AsyncPortfolioClient,
    NotAllowedError,
    PortfolioClient,
    PortfolioError,
    UnauthenticatedError,
    UnavailableError,
    _credentials,
)
from SureshotSDK.testing import ManualClock, prices_feed
from tests.edge.conftest import TRUST_DOMAIN, Door
from tests.edge.upstream import Upstream
from tests.sdk.scripted_router import ScriptedRouter
from tests.sdk.test_scheduler import NAME, Trend
from tests.support.certificates import shows
from tests.support.waiting import wait_until

STRATEGY = "strategy/Edge_SPXL"


@pytest.fixture
def router() -> Iterator[ScriptedRouter]:
    """A plain router on loopback, which refuses as told."""
    with ScriptedRouter() as running:
        yield running


@pytest.fixture
def _looks_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_credentials, "LOOK_EVERY_S", 0.0)


def authority_of(door: Door) -> bytes:
    return (door.identities.folder_of("door") / "ca.crt").read_bytes()


def works(address: str, folder: Path) -> bool:
    with PortfolioClient(address, identity_dir=folder, retry_for_s=0) as client:
        try:
            client.list_portfolios()
        except UnavailableError:
            return False
    return True


def refusal(address: str, folder: Path | None) -> str:
    """The one line that a user gets."""
    with (
        PortfolioClient(address, identity_dir=folder, retry_for_s=0) as client,
        pytest.raises(UnavailableError) as refused,
    ):
        client.list_portfolios()
    assert "\n" not in str(refused.value)
    assert address in refused.value.message
    return refused.value.message


def test_the_folder_comes_from_the_argument_else_from_the_environment(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = door.identities.folder_of(STRATEGY)
    with PortfolioClient(door.address, identity_dir=str(folder)) as client:
        client.list_portfolios()
    monkeypatch.setenv("IDENTITY_DIR", str(folder))
    with PortfolioClient(door.address) as client:
        client.list_portfolios()
    with PortfolioClient(door.address, identity_dir=door.identities.folder_of(OPERATOR)) as client:
        client.list_portfolios()

    names = [call["x-forwarded-client-cert"].rpartition("/")[2] for call in door.upstream.calls]
    assert names == ["Edge_SPXL", "Edge_SPXL", "local"]


async def test_asyncio_shows_the_same(door: Door) -> None:
    folder = door.identities.folder_of(STRATEGY)
    token = folder / "token"
    async with AsyncPortfolioClient(door.address, identity_dir=folder, token_file=token) as client:
        await client.list_portfolios()

    (call,) = door.upstream.calls
    assert call["x-forwarded-client-cert"].endswith(f"/{STRATEGY}")
    assert call["authorization"] == f"Bearer {token.read_text()}"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_the_door_is_called_by_its_names(door: Door, host: str) -> None:
    assert works(f"{host}:{door.envoy.port}", door.identities.folder_of(STRATEGY))


def test_no_certificate_where_one_is_asked_for_names_what_to_set(door: Door) -> None:
    assert "IDENTITY_DIR" in refusal(door.address, None)
    assert door.upstream.calls == []


def test_a_door_under_another_name_is_not_believed(door: Door) -> None:
    own = door.identities._signer()
    folder = door.identities.folder_of("door")
    shows(folder, issue(own, f"spiffe://{TRUST_DOMAIN}/door", ["elsewhere"]))
    mine = door.identities.folder_of(STRATEGY)

    wait_until(lambda: not works(door.address, mine), 10, "the other certificate")
    assert "does not name 127.0.0.1" in refusal(door.address, mine)


def test_an_expired_door_is_said_to_have_expired(door: Door) -> None:
    shows(door.identities.folder_of("door"), door.identities.certificate("door", days=-1))
    mine = door.identities.folder_of(STRATEGY)

    wait_until(lambda: not works(door.address, mine), 10, "the expired certificate")
    assert "the certificate of the other side has expired" in refusal(door.address, mine)


def test_an_expired_certificate_of_ones_own_is_named_with_its_end(door: Door) -> None:
    mine = door.identities.folder_of(STRATEGY)
    shows(mine, door.identities.certificate(STRATEGY, days=-1))

    said = refusal(door.address, mine)

    assert f"the certificate in {mine} has ended on 20" in said
    assert door.upstream.calls == []


def test_a_door_of_an_authority_that_one_does_not_know_is_not_believed(door: Door) -> None:
    mine = door.identities.folder_of(STRATEGY)
    own = Identity((mine / "tls.crt").read_bytes(), (mine / "tls.key").read_bytes())
    shows(mine, own, new_authority().certificate)

    assert f"not of an authority in {mine}/ca.crt" in refusal(door.address, mine)


def test_a_certificate_that_the_door_does_not_know_is_said_to_be_refused(door: Door) -> None:
    mine = door.identities.folder_of(STRATEGY)
    shows(mine, issue(new_authority(), f"spiffe://{TRUST_DOMAIN}/{STRATEGY}"))

    assert f"Most likely the certificate in {mine} was refused" in refusal(door.address, mine)
    assert door.upstream.calls == []


def test_a_door_without_tls_is_said_to_have_none(
    router: ScriptedRouter, identities: Identities
) -> None:
    assert "the other side speaks no TLS" in refusal(router.address, identities.folder_of(STRATEGY))


def test_a_door_that_is_away_is_said_to_be_away(identities: Identities) -> None:
    said = refusal(f"127.0.0.1:{free_port()}", identities.folder_of(STRATEGY))

    assert "No portfolio router answers" in said


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        (lambda folder: (folder / "tls.key").unlink(), "tls.key"),
        (lambda folder: (folder / "ca.crt").write_text(""), "must hold"),
        (lambda folder: (folder / "tls.crt").write_text("no certificate"), "must hold"),
        (lambda folder: (folder / "tls.key").write_bytes(new_authority().key), "mismatch"),
    ],
)
def test_files_that_cannot_be_used_are_refused_at_once(
    identities: Identities, break_it: Callable[[Path], Any], says: str
) -> None:
    folder = identities.folder_of(STRATEGY)
    for name in ("tls.crt", "tls.key", "ca.crt"):  # plain files, such as a person copies
        content = (folder / name).read_bytes()
        (folder / name).unlink()
        (folder / name).write_bytes(content)
    break_it(folder)

    with pytest.raises(ValueError, match=says) as refused:
        PortfolioClient(identity_dir=folder)
    assert str(refused.value).startswith(
        f"IDENTITY_DIR {folder} must hold tls.crt with its tls.key"
    )


@pytest.mark.parametrize("content", ["", "two words", "Bearer x", "é", None])
def test_a_token_file_that_holds_no_token_is_refused_at_once(
    tmp_path: Path, content: str | None
) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_text(content, "utf-8")

    with pytest.raises(ValueError, match=f"TOKEN_FILE {file}"):
        PortfolioClient(token_file=file)


@pytest.mark.usefixtures("_looks_each_time")
def test_a_renewed_token_goes_with_the_next_call_and_a_broken_one_never(
    identities: Identities, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Upstream(identities.folder_of("router")) as upstream:
        file = tmp_path / "token"
        file.write_text("first\n")
        door = Envoy(
            0, [upstream.address], tmp_path, tmp_path, identity=identities.folder_of("door")
        )
        try:
            door.start()
            door.wait_ready(20)
            with PortfolioClient(
                f"127.0.0.1:{door.port}",
                identity_dir=identities.folder_of(STRATEGY),
                token_file=file,
            ) as client:
                client.list_portfolios()
                for content in ("second", "broken twice", "third"):
                    file.write_text(content)
                    client.list_portfolios()
                file.unlink()
                client.list_portfolios()
        finally:
            door.stop(drain_s=0)

    sent = [call["authorization"].removeprefix("Bearer ") for call in upstream.calls]
    assert sent == ["first", "second", "second", "third", "third"]
    assert caplog.text.count("keeps the credentials it has") == 2


@pytest.mark.usefixtures("_looks_each_time")
def test_certificates_and_authorities_rotate_under_load_without_a_failed_call(
    door: Door, tmp_path: Path
) -> None:
    mine = door.identities.folder_of(STRATEGY)
    parts = [mine, *(door.identities.folder_of(who) for who in ("door", "router"))]
    old, new = door.identities._signer(), new_authority()
    names = (STRATEGY, "door", "router")
    hosts = {"door": ["127.0.0.1"], "router": ["127.0.0.1"]}

    def step(authority: Authority, believed: bytes, next_authority: Authority) -> None:
        """All get new files; ends once the door shows its own, and believes the next authority."""
        for folder, who in zip(parts, names, strict=True):
            uri = f"spiffe://{TRUST_DOMAIN}/{who}"
            shows(folder, issue(authority, uri, hosts.get(who, ())), believed)
        uri = f"spiffe://{TRUST_DOMAIN}/{STRATEGY}"
        shows(tmp_path / "next", issue(next_authority, uri), authority.certificate)
        wait_until(lambda: works(door.address, tmp_path / "next"), 10, "the door's new files")
        load.goes_on()

    with PortfolioClient(door.address, identity_dir=mine, retry_for_s=0) as client:
        load = Load(client)
        step(old, old.certificate, old)  # renewed
        step(old, new.certificate + old.certificate, new)  # both are believed
        step(new, new.certificate + old.certificate, new)  # the new one signs
        step(new, new.certificate, new)  # the old one is withdrawn
        assert load.stop() == []
        assert len(client._lines._lines) == 1  # the channels before are closed
    assert load.done > 100


class Load:
    """Calls without a pause from two threads, and what failed."""

    def __init__(self, client: PortfolioClient) -> None:
        self.done = 0
        self._client = client
        self._failed: list[PortfolioError] = []
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._call) for _ in range(2)]
        for thread in self._threads:
            thread.start()

    def _call(self) -> None:
        while not self._stopped.is_set():
            try:
                self._client.list_portfolios()
                self.done += 1
            except PortfolioError as failed:
                self._failed.append(failed)

    def goes_on(self) -> None:
        until = self.done + 200
        wait_until(lambda: self.done > until or self._failed, 20, "calls")

    def stop(self) -> list[PortfolioError]:
        self._stopped.set()
        for thread in self._threads:
            thread.join()
        return self._failed


def test_a_new_certificate_is_found_by_the_retry_that_needs_it(door: Door) -> None:
    mine = door.identities.folder_of(STRATEGY)
    good = Identity((mine / "tls.crt").read_bytes(), (mine / "tls.key").read_bytes())
    shows(mine, issue(new_authority(), f"spiffe://{TRUST_DOMAIN}/{STRATEGY}"))
    with PortfolioClient(door.address, identity_dir=mine, retry_for_s=20) as client:
        threading.Timer(0.3, shows, (mine, good)).start()
        client.list_portfolios()


@pytest.mark.parametrize(
    ("code", "reason", "kind"),
    [
        (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_MISSING", UnauthenticatedError),
        (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_INVALID", UnauthenticatedError),
        (grpc.StatusCode.PERMISSION_DENIED, "NOT_ALLOWED", NotAllowedError),
    ],
)
async def test_a_refusal_of_the_caller_has_its_own_error_and_is_not_retried(
    router: ScriptedRouter,
    code: grpc.StatusCode,
    reason: str,
    kind: type[PortfolioError],
) -> None:
    router.fail(code, times=2, reason=reason)
    with PortfolioClient(router.address) as client, pytest.raises(kind) as refused:
        client.list_portfolios()
    async with AsyncPortfolioClient(router.address) as asyncio_client:
        with pytest.raises(kind):
            await asyncio_client.list_portfolios()

    assert refused.value.reason == reason
    assert len(router.requests) == 2


def test_too_many_calls_are_repeated_later(router: ScriptedRouter) -> None:
    router.fail(grpc.StatusCode.RESOURCE_EXHAUSTED, times=2, reason="RATE_LIMITED")
    with PortfolioClient(router.address) as client:
        client.list_portfolios()
    assert len(router.requests) == 3


def test_a_strategy_that_is_not_let_in_says_so_once_and_goes_on_looking(
    router: ScriptedRouter, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    router.memory.upsert_portfolio(NAME, cash=100)
    router.fail(grpc.StatusCode.UNAUTHENTICATED, times=3, reason="CREDENTIALS_INVALID")
    router.fail(grpc.StatusCode.PERMISSION_DENIED, times=3, reason="NOT_ALLOWED")
    strategy = Trend(sma_window=1, feed=prices_feed({"SPY": [1, 2], "SPXL": [1, 2]}))
    with PortfolioClient(router.address) as client:
        strategy.portfolio, strategy.clock = client, ManualClock()
        strategy.run(stop_at_end=True)

    events = [getattr(record, "fields", {}) for record in caplog.records]
    lost = [event["reason"] for event in events if event.get("event") == "router_lost"]
    assert lost == ["CREDENTIALS_INVALID", "NOT_ALLOWED"]
    assert [event["event"] for event in events].count("router_back") == 1
    assert strategy.seen == [1, 2]


def test_a_strategy_without_its_certificate_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IDENTITY_DIR", str(tmp_path))
    strategy = Trend(sma_window=1, feed=prices_feed({"SPY": [1]}))

    with pytest.raises(ValueError, match=f"IDENTITY_DIR {tmp_path} must hold"):
        strategy.run(stop_at_end=True)

"""Who may do what, through the real Envoy and the real router, by certificate and by token."""

import shutil
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
import requests

from efficientfrontier.v1.order_service_pb2 import BuyAllRequest
from efficientfrontier.v1.order_service_pb2_grpc import OrderServiceStub
from services.mesh import identity, tokens
from services.mesh.authority import issue, new_authority
from services.mesh.identity import swap
from SureshotSDK import (
    NotAllowedError,
    PortfolioClient,
    PortfolioError,
    UnauthenticatedError,
    UnavailableError,
    _credentials,
)
from tests.e2e.rest import checked_error
from tests.e2e.secured import TRUST_DOMAIN, A, B, Secured, secured_mesh, uri
from tests.support.certificates import shows
from tests.support.mesh import Mesh
from tests.support.waiting import wait_until

FORGED = f"By={uri('door')};Hash=0;URI={uri('operator/alice')}"
BUY_A = {"strategy_name": A, "symbol": "SPXL", "price": 10}
BUY_B = {"strategy_name": B, "symbol": "HOOD", "price": 10}
ME = f"strategy/{A}"


@pytest.fixture(autouse=True)
def _nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("IDENTITY_DIR", "TOKEN_FILE", "PORTFOLIO_ADDRESS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def meshes(
    postgres_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Secured]]:
    """One of each kind, for the tests that change nobody's credentials."""
    with ExitStack() as running:
        yield {
            auth: running.enter_context(
                secured_mesh(auth, postgres_url, tmp_path_factory.mktemp(auth))
            )
            for auth in ("mtls", "token")
        }


@pytest.fixture(params=["mtls", "token"])
def secured(request: pytest.FixtureRequest, meshes: dict[str, Secured]) -> Iterator[Secured]:
    """A mesh with AUTH=mtls, and one with AUTH=token."""
    one = meshes[request.param]
    yield one
    one.assert_balanced()


@pytest.fixture
def mtls(meshes: dict[str, Secured]) -> Secured:
    return meshes["mtls"]


def order_by_grpc(mesh: Secured, who: str | Path | None, body: dict[str, Any], **extra: str) -> Any:
    metadata = (*mesh.metadata(who), *extra.items())
    with mesh.channel(who) as channel:
        request = BuyAllRequest(**body)
        return OrderServiceStub(channel).BuyAll(request, timeout=10, metadata=metadata)


def code_of(mesh: Secured, who: str | Path | None, body: dict[str, Any], **extra: str) -> Any:
    with pytest.raises(grpc.RpcError) as refused:
        order_by_grpc(mesh, who, body, **extra)
    return refused.value.code()


def orders_of(mesh: Secured, name: str) -> Any:
    return mesh.rest("GET", f"/orders?strategy={name}", "reader/bob").json()["orders"]


def test_a_strategy_trades_as_itself_by_rest_and_by_grpc(secured: Secured) -> None:
    before = len(orders_of(secured, A))

    bought = secured.rest("POST", "/orders/buy_all", ME, BUY_A)
    with secured.client(ME) as client:
        client.sell_all(A, "SPXL", 10)
    order = order_by_grpc(secured, ME, BUY_A)
    with secured.client(ME) as client:
        sold = client.sell_all(A, "SPXL", 10)
        client.report_prices(A, {"SPXL": 10})
        assert not client.invested(A)
        assert client.get_portfolio(B).strategy_name == B  # it may read everything

    assert bought.status_code == 200, bought.text
    assert order.quantity == sold.quantity
    assert len(orders_of(secured, A)) == before + 4


def test_a_strategy_as_another_is_refused_by_rest_and_by_grpc(secured: Secured) -> None:
    before = orders_of(secured, B)

    for path in ("/orders/buy_all", "/orders/sell_all"):
        error = checked_error(secured.rest("POST", path, ME, BUY_B))
        assert (error["code"], error["reason"]) == (7, "NOT_ALLOWED")
        assert error["metadata"] == {"actor": ME}
        assert f"{ME} may not trade as {B}" in error["message"]
    refused = secured.rest("POST", f"/orders/buy_all?strategy_name={A}", ME, BUY_B)
    assert refused.status_code in {400, 403}
    assert code_of(secured, ME, BUY_B) is grpc.StatusCode.PERMISSION_DENIED
    with secured.client(ME) as client:
        for call in (
            lambda: client.buy_all(B, "HOOD", 10),
            lambda: client.report_prices(B, {"HOOD": 10}),
            lambda: client.upsert_portfolio(A, cash=10**6),
        ):
            with pytest.raises(NotAllowedError) as not_allowed:
                call()
            assert not_allowed.value.reason == "NOT_ALLOWED"

    assert orders_of(secured, B) == before


def test_an_operator_does_everything_and_a_reader_only_reads(secured: Secured) -> None:
    wish = {"strategy_name": B, "cash": 5000}

    assert secured.rest("POST", "/portfolio", "operator/alice", wish).status_code == 200
    assert secured.rest("POST", "/orders/buy_all", "operator/alice", BUY_B).status_code == 200
    sold = secured.rest("POST", "/orders/sell_all", "operator/alice", BUY_B)
    assert sold.status_code == 200
    for path in ("/portfolio", "/orders", "/audit", "/mutations", f"/portfolio/{B}/invested"):
        assert secured.rest("GET", path, "reader/bob").status_code == 200
    for method, path, body in (
        ("POST", "/portfolio", wish),
        ("POST", "/orders/buy_all", BUY_B),
        ("POST", "/portfolio:halt", {"reason": "x"}),
        ("PUT", f"/orders/{sold.json()['order_id']}/status", {"status": "CANCELLED"}),
    ):
        error = checked_error(secured.rest(method, path, "reader/bob", body))
        assert (error["code"], error["reason"]) == (7, "NOT_ALLOWED"), path
    with secured.client("reader/bob") as client, pytest.raises(NotAllowedError):
        client.halt(B)


def test_each_change_says_who_made_it(secured: Secured) -> None:
    order = secured.rest("POST", "/orders/buy_all", f"strategy/{B}", BUY_B).json()
    undone = secured.rest("POST", "/orders/sell_all", "operator/alice", BUY_B).json()

    changes = secured.rest("GET", f"/mutations?strategy={B}", "reader/bob").json()["mutations"]

    who = {change["subject"]: change["actor"] for change in changes}
    assert who[order["order_id"]] == f"strategy/{B}"
    assert who[undone["order_id"]] == "operator/alice"


def test_whoever_shows_nothing_is_refused(meshes: dict[str, Secured]) -> None:
    for path in ("/portfolio", "/orders", "/audit", "/pages/equity"):
        error = checked_error(meshes["token"].rest("GET", path, None))
        assert (error["code"], error["reason"]) == (16, "CREDENTIALS_MISSING")
        with pytest.raises(requests.ConnectionError):  # a TLS alert: there is no answer at all
            meshes["mtls"].rest("GET", path, None)
    assert code_of(meshes["token"], None, BUY_A) is grpc.StatusCode.UNAUTHENTICATED
    assert code_of(meshes["mtls"], None, BUY_A) is grpc.StatusCode.UNAVAILABLE
    with PortfolioClient(meshes["token"].address) as client, pytest.raises(UnauthenticatedError):
        client.list_portfolios()
    with (
        PortfolioClient(meshes["mtls"].address, retry_for_s=0) as client,
        pytest.raises(UnavailableError, match="set IDENTITY_DIR"),
    ):
        client.list_portfolios()


@pytest.mark.parametrize("kind", ["of an unknown authority", "expired", "of nobody's name"])
def test_a_certificate_that_does_not_hold_is_refused(
    mtls: Secured, kind: str, tmp_path: Path
) -> None:
    ours = mtls.identities._signer()
    made = {
        "of an unknown authority": lambda: issue(new_authority(), uri(ME)),
        "expired": lambda: issue(ours, uri(ME), days=-1),
        "of nobody's name": lambda: issue(ours, f"spiffe://elsewhere/{ME}"),
    }[kind]()
    folder = shows(tmp_path, made, ours.certificate)

    assert not mtls.works(folder)
    assert code_of(mtls, folder, BUY_A) is grpc.StatusCode.UNAVAILABLE
    with mtls.client(folder) as client, pytest.raises(UnavailableError) as refused:
        client.list_portfolios()
    assert refused.value.reason == "NO_SECURE_CONNECTION"
    assert str(folder) in refused.value.message


@pytest.mark.parametrize("who", ["door", "router"])
def test_a_part_of_the_mesh_is_no_caller(mtls: Secured, who: str) -> None:
    """Whoever has the door's certificate may name others; through the door it names the door."""
    error = checked_error(
        mtls.rest("GET", "/portfolio", who, None, **{"x-forwarded-client-cert": FORGED})
    )

    assert (error["code"], error["reason"]) == (16, "CREDENTIALS_INVALID")


@pytest.mark.parametrize("kind", ["another key's", "expired", "for another domain", "no token"])
def test_a_token_that_does_not_hold_is_refused(
    meshes: dict[str, Secured], kind: str, tmp_path: Path
) -> None:
    mesh = meshes["token"]
    key = next((mesh.folder(ME).parents[1] / "keys").glob("*.pem")).read_bytes()
    (tmp_path / "token").write_text(
        {
            "another key's": tokens.token(tokens.new_key(), uri(ME)),
            "expired": tokens.token(key, uri(ME), days=-1),
            "for another domain": tokens.token(key, f"spiffe://elsewhere/{ME}"),
            "no token": "nonsense",
        }[kind]
    )

    error = checked_error(mesh.rest("POST", "/orders/buy_all", tmp_path, BUY_A))
    assert (error["code"], error["reason"]) == (16, "CREDENTIALS_INVALID")
    assert code_of(mesh, tmp_path, BUY_A) is grpc.StatusCode.UNAUTHENTICATED
    with mesh.client(tmp_path) as client, pytest.raises(UnauthenticatedError) as refused:
        client.list_portfolios()
    assert refused.value.reason == "CREDENTIALS_INVALID"


def test_a_claim_in_a_header_makes_nobody_an_operator(secured: Secured) -> None:
    claim = {"x-forwarded-client-cert": FORGED}
    wish = {"strategy_name": A, "cash": 10**6}

    for who in ("reader/bob", ME):
        answer = secured.rest("POST", "/portfolio", who, wish, **claim)
        assert answer.status_code == 403, answer.text
        assert code_of(secured, who, BUY_B, **claim) is grpc.StatusCode.PERMISSION_DENIED
    if secured.auth == "token":
        assert secured.rest("GET", "/portfolio", None, **claim).status_code == 401


def test_without_auth_a_claim_in_a_header_is_not_written_down(mesh: Mesh) -> None:
    name = mesh.new_strategy()
    wish = {"strategy_name": name, "cash": 7}
    claim = {"x-forwarded-client-cert": FORGED, "authorization": "Bearer x"}

    changed = requests.post(f"{mesh.rest_url}/portfolio", json=wish, headers=claim, timeout=10)

    assert changed.status_code == 200, changed.text
    changes = requests.get(f"{mesh.rest_url}/mutations?strategy={name}", timeout=10).json()
    assert {change["actor"] for change in changes["mutations"]} == {"anonymous"}


def test_a_page_of_another_origin_is_refused_whoever_it_shows(secured: Secured) -> None:
    answer = secured.rest(
        "POST", "/orders/buy_all", "operator/alice", BUY_A, origin="https://evil.example.com"
    )

    assert answer.status_code == 403
    assert checked_error(answer)["reason"] == "ORIGIN_NOT_ALLOWED"


def test_probes_show_nothing_and_need_nothing(meshes: dict[str, Secured]) -> None:
    probes = {
        "mtls": f"http://127.0.0.1:{meshes['mtls'].envoy._listens_on('probes')}",
        "token": f"http://{meshes['token'].address}",
    }
    for url in probes.values():
        assert requests.get(f"{url}/healthz", timeout=5).text == "ok"
        assert requests.get(f"{url}/readyz", timeout=5).status_code == 200
    assert requests.get(f"{probes['mtls']}/portfolio", timeout=5).status_code == 404


class Load:
    """A strategy that never rests, by the SDK on one client and by REST on new connections."""

    def __init__(self, mesh: Secured, client: PortfolioClient, folder: Path) -> None:
        self.done = [0, 0]
        self._folder = folder
        self._mesh = mesh
        self._client = client
        self._failed: list[Exception] = []
        self._stopped = threading.Event()
        works = (self._by_sdk, self._by_rest)
        self._threads = [threading.Thread(target=self._repeat, args=it) for it in enumerate(works)]
        for thread in self._threads:
            thread.start()

    def _repeat(self, number: int, work: Any) -> None:
        while not self._stopped.is_set():
            try:
                work()
                self.done[number] += 1
            except (PortfolioError, requests.RequestException, AssertionError) as failed:
                self._failed.append(failed)

    def _by_sdk(self) -> None:
        side = self._client.sell_all if self._client.invested(A) else self._client.buy_all
        side(A, "SPXL", 10)

    def _by_rest(self) -> None:
        shown = self._folder / f"{self.done[1]}"
        try:  # of one version, as its files may be replaced between two reads
            shutil.copytree((self._mesh.folder(ME) / "..data").resolve(), shown, dirs_exist_ok=True)
        except (FileNotFoundError, shutil.Error):
            return  # replaced just now: the next look finds the new ones
        answer = self._mesh.rest("GET", f"/portfolio/{A}/invested", shown)
        assert answer.status_code == 200, answer.text

    def goes_on(self) -> None:
        """Waits for a few more calls of each kind."""
        until = [count + 20 for count in self.done]
        wait_until(
            lambda: self._failed or all(a > b for a, b in zip(self.done, until, strict=True)),
            30,
            "calls of both kinds",
        )

    def stop(self) -> list[Exception]:
        self._stopped.set()
        for thread in self._threads:
            thread.join()
        return self._failed


def test_certificates_and_their_authority_rotate_under_load_without_a_failed_call(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_credentials, "LOOK_EVERY_S", 0.05)
    everyone = ["door", "router", ME, "operator/alice", "reader/bob"]
    with secured_mesh("mtls", postgres_url, tmp_path) as mesh, mesh.client(ME) as client:
        identities = mesh.identities
        old = identities._signer()
        load = Load(mesh, client, tmp_path / "shown")
        watched = client.watch_orders(strategy_name=A, snapshot_size=1)
        next(watched)

        identities.add_authority()  # both are believed, the old one signs
        assert identities.keep_certificates(everyone) == []
        monkeypatch.setattr(identity, "SETTLED_S", 0.0)
        new = identities._signer()
        both = shows(tmp_path / "new", issue(new, uri("reader/new")), identities._believed())
        wait_until(lambda: mesh.works(both), 20, "the door believes the new authority")
        with mesh.client(both, address=mesh.router.address) as direct:
            direct.list_portfolios()  # and so does the router
        load.goes_on()
        assert identities.keep_certificates(everyone) == everyone  # the new one signs
        only_new = shows(tmp_path / "only", issue(new, uri("reader/new")), new.certificate)
        wait_until(lambda: mesh.works(only_new), 20, "the door shows its new certificate")
        load.goes_on()
        identities.withdraw()  # the old one is believed no more
        identities.keep_certificates(everyone)
        late = shows(tmp_path / "late", issue(old, uri("operator/late")), identities._believed())
        wait_until(lambda: not mesh.works(late), 20, "the old authority is not believed")
        direct = mesh.client(late, address=mesh.router.address)
        with direct, pytest.raises(UnavailableError):
            direct.list_portfolios()
        load.goes_on()

        assert load.stop() == []
        assert next(watched).strategy_name == A  # the watch went on all the while
        mesh.router.kill()
        mesh.router.start()
        wait_until(lambda: mesh.works(ME), 20, "the door shows its new certificate to the router")
        mesh.assert_balanced()


def test_tokens_and_their_key_rotate_under_load_without_a_failed_call(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_credentials, "LOOK_EVERY_S", 0.0)
    callers = [ME, "operator/alice"]
    with secured_mesh("token", postgres_url, tmp_path) as mesh, mesh.client(ME) as client:
        withdrawn = tmp_path / "withdrawn"
        swap(withdrawn, {"token": mesh.identities.token("operator/alice").encode()})
        load = Load(mesh, client, tmp_path / "shown")

        mesh.identities.add_key()
        assert mesh.identities.keep_tokens(callers) == []  # the router knows the new key
        monkeypatch.setattr(identity, "SETTLED_S", 0.0)
        load.goes_on()
        assert mesh.identities.keep_tokens(callers) == callers  # all show tokens of the new one
        load.goes_on()
        assert mesh.works(withdrawn)
        mesh.identities.withdraw()
        mesh.identities.keep_tokens(callers)
        assert not mesh.works(withdrawn)  # at once
        load.goes_on()

        assert load.stop() == []
        assert TRUST_DOMAIN in tokens.claims_of((mesh.folder(ME) / "token").read_text())["sub"]
        mesh.assert_balanced()

"""Metrics, of a running router and a running Envoy."""

import http.client
import re
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest
import requests

from efficientfrontier.simulation.v1.simulation_pb2 import TradeByHandRequest
from services.mesh.envoy import Envoy
from services.mesh.ports import free_port
from services.mesh.postgres import EmbeddedPostgres
from tests.support.gateway import ACCOUNT, GatewayProcess
from tests.support.router import Router
from tests.support.waiting import wait_until
from tests.telemetry.conftest import Watched
from tests.telemetry.scrape import Scrape
from tests.telemetry.test_trace import new_trace, sampled

ANSWER_S = 10
StartRouter = Callable[..., Router]


def call(watched: Watched, path: str, body: object) -> None:
    answer = requests.post(f"{watched.rest_url}{path}", json=body, timeout=ANSWER_S)
    assert answer.status_code == 200, answer.text


def until(port: int, condition: Callable[[Scrape], object], what: str) -> Scrape:
    """The first scrape of a router that fits."""

    def fits() -> Scrape | None:
        scrape = Scrape.of(port)
        return scrape if condition(scrape) else None

    return wait_until(fits, 30, what) or Scrape.of(port)


def shown(scrape: Scrape, figure: str, name: str) -> float | None:
    return scrape.one(f"portfolio_strategy_{figure}", strategy_name=name)


def test_a_strategys_figures_are_those_of_its_book(watched: Watched) -> None:
    name = watched.new_strategy(cash=1000)
    call(watched, "/risk/limits", {"strategy_name": name, "limits": {"max_drawdown": 0.5}})
    call(watched, "/orders/buy_all", {"strategy_name": name, "symbol": "SPXL", "price": 99.0})
    fallen = {"strategy_name": name, "prices": [{"symbol": "SPXL", "price": 79.0}]}
    call(watched, "/prices", fallen)
    scrape = until(
        watched.metrics_port, lambda s: shown(s, "equity_usd", name) == 800, "equity of 800"
    )
    assert shown(scrape, "cash_usd", name) == 10
    assert shown(scrape, "drawdown_ratio", name) == pytest.approx(0.2)
    assert shown(scrape, "max_drawdown_ratio", name) == 0.5
    assert shown(scrape, "halted", name) == 0
    assert shown(scrape, "silent", name) == 0
    assert shown(scrape, "live", name) == 0
    seen = shown(scrape, "last_price_timestamp_seconds", name)
    assert seen is not None
    assert abs(time.time() - seen) < 60
    equity = scrape.one("portfolio_equity_usd")
    assert equity == pytest.approx(sum(scrape.all("portfolio_strategy_equity_usd")))
    call(watched, f"/portfolio/{name}:halt", {})
    until(watched.metrics_port, lambda s: shown(s, "halted", name) == 1, "it is halted")


def test_the_kill_switch_is_shown(watched: Watched) -> None:
    call(watched, "/portfolio:halt", {"reason": "test"})
    try:
        until(watched.metrics_port, lambda s: s.one("portfolio_halted") == 1, "all is halted")
    finally:
        call(watched, "/portfolio:resume", {})
    until(watched.metrics_port, lambda s: s.one("portfolio_halted") == 0, "all is resumed")


def test_orders_fills_and_refusals_are_counted_once_each(watched: Watched) -> None:
    name = watched.new_strategy(cash=1000)
    before = Scrape.of(watched.metrics_port)
    order = {"strategy_name": name, "symbol": "SPXL", "price": 100.0, "request_id": name}
    for _ in range(3):  # once, and repeated
        call(watched, "/orders/buy_all", order)
    refused = requests.post(
        f"{watched.rest_url}/orders/buy_all",
        json={"strategy_name": name, "symbol": "SPXL", "price": 100.0},
        timeout=ANSWER_S,
    )
    assert refused.status_code == 400
    after = Scrape.of(watched.metrics_port)

    def more(metric: str, **labels: str) -> float:
        return (after.one(metric, **labels) or 0) - (before.one(metric, **labels) or 0)

    paper = {"mode": "PAPER", "side": "BUY"}
    assert more("portfolio_orders_total", status="EXECUTED", **paper) == 1
    assert more("portfolio_orders_total", status="PENDING", **paper) == 0
    assert more("portfolio_fills_total", **paper) == 1
    assert more("portfolio_traded_usd_total", **paper) == 1000
    reason = {"method": "BuyAll", "reason": "INSUFFICIENT_CASH"}
    assert more("portfolio_calls_refused_total", **reason) == 1
    assert more("portfolio_calls_total", method="BuyAll", code="OK") == 3
    assert more("portfolio_writer_commit_seconds_count") >= 1
    assert more("portfolio_writer_wait_seconds_count") >= 1


def test_names_keep_prometheus_rules(watched: Watched) -> None:
    scrape = Scrape.of(watched.metrics_port)
    ours = {name: f for name, f in scrape.families.items() if name.startswith("portfolio_")}
    assert len(ours) > 30
    for name, family in ours.items():
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", name), name
        assert family.meaning.endswith("."), name
        if family.kind == "histogram":
            assert name.endswith(("_seconds", "_commands")), name
        for wrong in ("_ms", "_percent", "_pct", "_minutes"):
            assert wrong not in name
        assert name.endswith("_total") == (family.kind == "counter"), name


def test_nothing_old_is_shown_while_the_database_is_away(
    tmp_path: Path, router: StartRouter
) -> None:
    server = EmbeddedPostgres(tmp_path / "data", tmp_path / "postgres.log")
    server.start()
    try:
        server.wait_ready()
        port = free_port()
        router(server.url, METRICS_PORT=str(port), METRICS_EVERY_S="0.2")
        five = until(port, lambda s: s.one("portfolio_database_up") == 1, "a reading")
        assert len(five.all("portfolio_strategy_equity_usd")) == 5
        server.stop()
        away = until(port, lambda s: s.one("portfolio_database_up") == 0, "it is away")
        assert not away.all("portfolio_strategy_equity_usd")
        assert away.one("portfolio_halted") is None
        server.start()
        back = until(port, lambda s: s.one("portfolio_database_up") == 1, "it is back")
        assert len(back.all("portfolio_strategy_equity_usd")) == 5
    finally:
        server.stop()


def test_live_shows_how_things_stand_with_the_broker_and_never_the_account(
    database_url: str, router: StartRouter, tmp_path: Path
) -> None:
    port = free_port()
    with GatewayProcess(tmp_path, {"SPXL": Decimal(100)}) as gateway:
        router(
            database_url,
            METRICS_PORT=str(port),
            METRICS_EVERY_S="0.2",
            TRADING_MODE="LIVE",
            IBKR_HOST="127.0.0.1",
            IBKR_PORT=str(gateway.port),
            IBKR_CLIENT_ID="1",
            IBKR_ACCOUNT=ACCOUNT,
            AUTH="none",
            PROMOTION="at_once",
            RECONCILE_EVERY_S="1",
        )
        well = until(
            port,
            lambda s: (
                s.one("portfolio_broker_state", state="CONNECTED")
                and s.one("portfolio_broker_compared_timestamp_seconds")
                and s.all("portfolio_strategy_live")
            ),
            "the ledger is compared with the broker",
        )
        assert sum(well.all("portfolio_broker_state")) == 1
        assert well.one("portfolio_broker_frozen_symbols") == 0
        assert well.one("portfolio_exchange_open") in (0, 1)
        assert set(well.all("portfolio_strategy_live")) == {1}
        gateway.control.TradeByHand(
            TradeByHandRequest(symbol="SPXL", quantity=7, price=100), timeout=ANSWER_S
        )
        frozen = until(
            port, lambda s: s.one("portfolio_broker_frozen_symbols") == 1, "it is frozen"
        )
        assert frozen.one("portfolio_broker_unexplained_shares", symbol="SPXL") == 7
        text = requests.get(f"http://127.0.0.1:{port}/metrics", timeout=ANSWER_S).text
    assert ACCOUNT not in text


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/stats/prometheus", 200),
        ("GET", "/stats/prometheus?usedonly", 200),
        ("POST", "/stats/prometheus", 404),
        ("GET", "/stats/prometheus/", 404),
        ("GET", "/stats/prometheus/../../config_dump", 404),
        ("GET", "/stats", 404),
        ("GET", "/config_dump", 404),
        ("POST", "/quitquitquit", 404),
        ("GET", "/", 404),
    ],
)
def test_of_envoys_admin_interface_the_metrics_alone_are_served(
    watched: Watched, method: str, path: str, status: int
) -> None:
    port = watched.envoy.metrics_port
    assert port
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_S)
    try:
        connection.request(method, path)  # as it is: no client of ours tidies it up
        assert connection.getresponse().status == status
    finally:
        connection.close()


def test_envoy_counts_what_comes_to_the_door(watched: Watched) -> None:
    assert requests.get(f"{watched.rest_url}/portfolio", timeout=ANSWER_S).ok
    port = watched.envoy.metrics_port
    assert port
    scrape = Scrape.of(port, "/stats/prometheus")
    door = {"envoy_http_conn_manager_prefix": "door", "envoy_response_code_class": "2"}
    assert (scrape.one("envoy_http_downstream_rq_xx", **door) or 0) > 0
    assert scrape.one("envoy_cluster_membership_healthy", envoy_cluster_name="router") == 1


def test_a_collector_whose_name_nobody_knows_neither_stops_nor_slows_envoy(
    watched: Watched, tmp_path: Path
) -> None:
    envoy = Envoy(
        0,
        [watched.router.address],
        tmp_path,
        tmp_path,
        collector="http://no-such-host.invalid:4317",
    )
    began = time.monotonic()
    try:
        envoy.start()
        envoy.wait_ready(10)
        assert time.monotonic() - began < 5
        for _ in range(20):
            asked = time.monotonic()
            answer = requests.get(
                f"http://127.0.0.1:{envoy.port}/portfolio",
                headers=sampled(new_trace()),
                timeout=ANSWER_S,
            )
            assert answer.ok
            assert time.monotonic() - asked < 2
    finally:
        envoy.stop()

"""Traces, through the real strategy, Envoy, router and PostgreSQL."""

import asyncio
import itertools
import json
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
import requests

from efficientfrontier.v1.order_service_pb2 import BuyAllRequest, CreateOrderRequest, Order
from efficientfrontier.v1.order_service_pb2_grpc import OrderServiceStub
from services.mesh.ports import free_port
from services.portfolio.telemetry.tracing import parent_of
from tests.support.process import Process
from tests.support.router import Router
from tests.support.waiting import wait_until
from tests.telemetry.collector import Span, drawn, running_collector
from tests.telemetry.conftest import SOON, Watched

CLOCKS_DIFFER_NS = 1_000_000  # processes of one machine read one clock, but not in one moment
ANSWER_S = 10
STEPS = {"BEGIN", "lock", "read", "write", "COMMIT"}
StartRouter = Callable[..., Router]


def sampled(trace_id: str, flags: str = "01") -> dict[str, str]:
    return {"traceparent": f"00-{trace_id}-{secrets.token_hex(8)}-{flags}"}


def new_trace() -> str:
    return secrets.token_hex(16)


def lineage(span: Span, trace: list[Span]) -> list[Span]:
    """A span and those it is within, the innermost first."""
    by_id = {each.span_id: each for each in trace}
    line = [span]
    while line[-1].parent_id in by_id:
        line.append(by_id[line[-1].parent_id])
    return line


def strategy(watched: Watched, prices: Path, log: Path, endpoint: str) -> Process:
    """The real SPXL strategy over five days of prices."""
    environ = {
        "PORTFOLIO_ADDRESS": watched.grpc_address,
        "PRICE_FEED": f"csv:{prices}",
        "SMA_WINDOW": "3",
        "INTERVAL_S": "0.02",
        "STOP_AT_END": "1",
        "LOG_FORMAT": "json",
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        **SOON,
    }
    return Process.of_module("services.strategy", "spxl", log=log, environ=environ)


def test_one_trace_leads_from_the_tick_to_the_commit(
    watched: Watched, price_folder: Path, tmp_path: Path
) -> None:
    collector = watched.collector
    log = tmp_path / "strategy.log"
    with strategy(watched, price_folder, log, collector.endpoint) as running:
        assert running.wait() == 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    (trace_id,) = {line["trace"] for line in lines if line["event"] == "order"}

    def whole() -> list[Span] | None:
        spans = collector.trace(trace_id)
        return spans if sum(span.name.endswith("/BuyAll") for span in spans) == 3 else None

    trace = wait_until(whole, 20, "Envoy and the router send their spans") or []
    print("\n" + drawn(trace))
    (order,) = (s for s in trace if s.name.endswith("/BuyAll") and s.service.endswith("router"))
    (commit,) = (s for s in trace if s.name == "COMMIT" and order in lineage(s, trace))
    assert [(span.service.removeprefix("efficientfrontier-"), span.name, span.kind)
            for span in lineage(commit, trace)] == [
        ("router", "COMMIT", "CLIENT"),
        ("router", "writer.batch", "INTERNAL"),
        ("router", "efficientfrontier.v1.OrderService/BuyAll", "SERVER"),
        ("envoy", "/efficientfrontier.v1.OrderService/BuyAll", "SERVER"),
        ("strategy", "efficientfrontier.v1.OrderService/BuyAll", "CLIENT"),
        ("strategy", "tick", "INTERNAL"),
    ]  # fmt: skip
    tick = lineage(commit, trace)[-1]
    for span in trace:  # reports, questions and the order: all of them are the tick's
        line = lineage(span, trace)
        assert line[-1] is tick
        for inner, outer in itertools.pairwise(line):
            assert inner.began_ns >= outer.began_ns - CLOCKS_DIFFER_NS, (inner, outer)
            assert inner.ended_ns <= outer.ended_ns + CLOCKS_DIFFER_NS, (inner, outer)
    batch = lineage(commit, trace)[1]
    wait = next(s for s in trace if s.name == "writer.wait" and s.parent_id == order.span_id)
    assert wait.ended_ns == batch.began_ns
    assert {s.name for s in trace if s.parent_id == batch.span_id} >= STEPS
    assert order.attributes["rpc.response.status_code"] == "OK"
    assert order.attributes["efficientfrontier.actor"] == "anonymous"
    assert not any(span.is_error for span in trace)


async def test_each_order_of_a_batch_shows_the_batch_and_its_sql(watched: Watched) -> None:
    names = [watched.new_strategy() for _ in range(16)]

    async def round_of_orders() -> list[str]:
        traces = {name: new_trace() for name in names}
        async with grpc.aio.insecure_channel(watched.router.address) as channel:
            stub = OrderServiceStub(channel)
            await asyncio.gather(
                *(
                    stub.BuyAll(
                        BuyAllRequest(strategy_name=name, symbol="SPXL", price=1),
                        metadata=tuple(sampled(trace).items()),
                        timeout=ANSWER_S,
                    )
                    for name, trace in traces.items()
                )
            )
        return list(traces.values())

    traces = await round_of_orders()
    collector = watched.collector

    def batches() -> list[Span] | None:
        found = [s for t in traces for s in collector.trace(t) if s.name == "writer.batch"]
        return found if len(found) == len(traces) else None

    told = await asyncio.to_thread(wait_until, batches, 20, "a batch in each trace")
    assert told is not None
    together: dict[int, list[Span]] = {}
    for batch in told:
        together.setdefault(batch.began_ns, []).append(batch)
    assert len(together) < len(traces), "no two orders were in one transaction"
    for spans in together.values():
        assert [s.attributes["efficientfrontier.batch.commands"] for s in spans] == [
            len(spans)
        ] * len(spans)
        assert len({span.ended_ns for span in spans}) == 1
        (first,) = (span for span in spans if not span.links)
        assert all(span.links == (first.span_id,) for span in spans if span is not first)
    for batch in told:
        inside = {s.name for s in collector.trace(batch.trace_id) if s.parent_id == batch.span_id}
        assert inside >= STEPS


def test_a_refusal_is_an_error_of_the_callers_span_and_says_why(
    watched: Watched, tmp_path: Path
) -> None:
    name = watched.new_strategy(cash=1)
    code = f"""
from SureshotSDK import PortfolioClient, RefusedError
with PortfolioClient("{watched.grpc_address}") as portfolio:
    try:
        portfolio.buy_all("{name}", "SPXL", 100.0)
    except RefusedError as refused:
        print(refused.reason)
"""
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": watched.collector.endpoint}
    log = tmp_path / "client.log"
    with Process("client", [sys.executable, "-c", code], log, environ) as client:
        assert client.wait() == 0, client.output()
    assert "INSUFFICIENT_CASH" in log.read_text()
    collector = watched.collector
    method = "efficientfrontier.v1.OrderService/BuyAll"
    called = collector.wait_for(method, error__type="INSUFFICIENT_CASH")
    wait_until(
        lambda: len([s for s in collector.trace(called.trace_id) if s.name == method]) == 2, 20
    )
    server, client_span = sorted(
        (s for s in collector.trace(called.trace_id) if s.name == method),
        key=lambda span: span.kind,
        reverse=True,
    )
    assert (client_span.kind, client_span.is_error) == ("CLIENT", True)
    # A refusal is no fault of the server's: so says OpenTelemetry's convention for gRPC.
    assert (server.kind, server.is_error) == ("SERVER", False)
    for span in (server, client_span):
        assert span.attributes["rpc.response.status_code"] == "FAILED_PRECONDITION"


def test_a_fault_of_the_servers_is_an_error_of_its_span(
    router: StartRouter, database_url: str
) -> None:
    trace_id = new_trace()
    with running_collector() as collector:
        one = router(
            database_url,
            TRADING_MODE="LIVE",
            IBKR_HOST="127.0.0.1",
            IBKR_PORT=str(free_port()),  # where nobody listens
            IBKR_CLIENT_ID="1",
            IBKR_ACCOUNT="DU1000001",
            AUTH="none",
            PROMOTION="at_once",
            OUTSIDE_SESSION="allow",
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
            **SOON,
        )
        with grpc.insecure_channel(one.address) as channel:
            request = CreateOrderRequest(
                strategy_name="IncredibleLeverage_SPXL",
                symbol="SPXL",
                side=Order.BUY,
                quantity=1,
                price=100,
            )
            with pytest.raises(grpc.RpcError) as raised:
                OrderServiceStub(channel).CreateOrder(
                    request, metadata=tuple(sampled(trace_id).items()), timeout=ANSWER_S
                )
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
        span = collector.wait_for("efficientfrontier.v1.OrderService/CreateOrder")
    assert span.trace_id == trace_id
    assert span.is_error
    assert span.attributes["error.type"] == "BROKER_UNAVAILABLE"
    assert span.attributes["rpc.response.status_code"] == "UNAVAILABLE"


def test_what_no_caller_samples_is_not_traced_but_its_log_lines_name_the_trace(
    watched: Watched,
) -> None:
    name = watched.new_strategy()
    unsampled, marker = new_trace(), new_trace()
    order = {"strategy_name": name, "symbol": "SPXL", "side": "BUY", "quantity": 1, "price": 1}
    url = f"{watched.rest_url}/orders"
    calls: list[dict[str, str]] = [sampled(unsampled, "00"), {}, {"traceparent": "nonsense"}]
    before = {span.trace_id for span in watched.collector.spans}
    for headers in (*calls, sampled(marker)):
        assert requests.post(url, json=order, headers=headers, timeout=ANSWER_S).ok
    wait_until(lambda: len({s.service for s in watched.collector.trace(marker)}) == 2, 20)
    new = {s.trace_id for s in watched.collector.spans if s.attributes.get("http.url") == url}
    assert new - before == {marker}
    assert not watched.collector.trace(unsampled)
    line = json.loads(watched.router.wait_for_line(unsampled))
    assert (line["event"], line["method"], line["trace"]) == ("call", "CreateOrder", unsampled)


def test_tracestate_and_baggage_reach_the_router_and_its_span(watched: Watched) -> None:
    trace_id = new_trace()
    headers = {**sampled(trace_id), "tracestate": "desk=1", "baggage": "who=me"}
    assert requests.get(f"{watched.rest_url}/portfolio", headers=headers, timeout=ANSWER_S).ok
    wait_until(lambda: len(watched.collector.trace(trace_id)) == 2, 20)
    assert {s.name.lstrip("/") for s in watched.collector.trace(trace_id)} == {
        "efficientfrontier.v1.PortfolioService/ListPortfolios"
    }


@pytest.fixture
def nobody() -> Iterator[int]:
    """A port that is taken, and never answers."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(64)
        yield silent.getsockname()[1]


def test_a_collector_that_is_away_costs_calls_nothing_and_the_log_one_line(
    router: StartRouter, database_url: str
) -> None:
    port = free_port()
    one = router(
        database_url,
        OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{port}",
        OTEL_EXPORTER_OTLP_TIMEOUT="1",
        **SOON,
    )
    with grpc.insecure_channel(one.address) as channel:
        stub = OrderServiceStub(channel)

        def trade(trace_id: str) -> None:
            request = BuyAllRequest(strategy_name="IncredibleLeverage_SPXL", symbol="A", price=1e9)
            with pytest.raises(grpc.RpcError, match="needs"):
                stub.BuyAll(request, metadata=tuple(sampled(trace_id).items()), timeout=ANSWER_S)

        trade(new_trace())
        one.wait_for_line("traces_not_sent")
        for _ in range(5):
            trade(new_trace())
        with running_collector(port) as collector:

            def arrived() -> list[Span]:
                trace_id = new_trace()
                trade(trace_id)
                return collector.spans

            wait_until(arrived, 30, "spans arrive when the collector is back")
            one.wait_for_line("traces_sent_again")
    about_traces = [line for line in one.output().splitlines() if "traces_not_sent" in line]
    assert len(about_traces) == 1
    assert "opentelemetry" not in one.output()


def test_a_collector_that_never_answers_holds_up_neither_the_routers_stop_nor_the_strategys(
    router: StartRouter,
    watched: Watched,
    database_url: str,
    nobody: int,
    price_folder: Path,
    tmp_path: Path,
) -> None:
    endpoint = f"http://127.0.0.1:{nobody}"
    one = router(database_url, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, **SOON)
    request = BuyAllRequest(strategy_name="IncredibleLeverage_SPXL", symbol="A", price=1)
    metadata = tuple(sampled(new_trace()).items())
    began = time.monotonic()
    with grpc.insecure_channel(one.address) as channel:
        OrderServiceStub(channel).BuyAll(request, metadata=metadata, timeout=ANSWER_S)
    assert time.monotonic() - began < 8  # OpenTelemetry waits for 10 s by itself
    began = time.monotonic()
    one.send(signal.SIGTERM)
    assert one.wait(20) == 0
    assert time.monotonic() - began < 15  # and for 30 s at its end
    with strategy(watched, price_folder, tmp_path / "strategy.log", endpoint) as running:
        assert running.wait(20) == 0


NOT_IMPORTED = """
import sys
import services.portfolio.__main__, SureshotSDK.Scheduler
from SureshotSDK import PortfolioClient, UnavailableError
try:
    PortfolioClient("127.0.0.1:1", retry_for_s=0).invested("S")
except UnavailableError:
    pass
print([name for name in sys.modules if name.startswith("opentelemetry")])
"""
WITHOUT_THE_EXTRA = """
import logging, sys
logging.basicConfig(level=logging.WARNING)
sys.modules["opentelemetry"] = None
from SureshotSDK import PortfolioClient, UnavailableError
for _ in range(2):
    try:
        PortfolioClient("127.0.0.1:1", retry_for_s=0).invested("S")
    except UnavailableError:
        pass
"""


def run(code: str, **environ: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={"PATH": "", "PYTHONPATH": str(Path(__file__).parents[2]), **environ},
    )
    return done.stdout + done.stderr


def test_without_an_endpoint_nothing_of_opentelemetry_is_imported() -> None:
    assert run(NOT_IMPORTED) == "[]\n"


def test_without_the_extra_the_sdk_says_so_once_and_works() -> None:
    said = run(WITHOUT_THE_EXTRA, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1")
    assert said.count("install the extra `tracing`") == 1


@pytest.mark.parametrize(
    "header",
    [
        "",
        "nonsense",
        f"00-{'0' * 32}-{'1' * 16}-01",
        f"00-{'1' * 32}-{'0' * 16}-01",
        f"ff-{'1' * 32}-{'1' * 16}-01",
        f"00-{'1' * 32}-{'1' * 16}-01-more",
        f"00-{'A' * 32}-{'1' * 16}-01",
        f"00-{'1' * 31}-{'1' * 16}-01",
    ],
)
def test_a_traceparent_that_is_not_valid_is_none(header: str) -> None:
    assert parent_of(header) is None


@pytest.mark.parametrize(
    ("flags", "is_sampled"), [("01", True), ("00", False), ("03", True), ("02", False)]
)
def test_a_traceparent_names_the_trace_and_whether_it_is_sampled(
    flags: str, *, is_sampled: bool
) -> None:
    parent = parent_of(f"00-{'a' * 32}-{'b' * 16}-{flags}")
    assert parent is not None
    assert (parent.trace_id, parent.span_id, parent.sampled) == ("a" * 32, "b" * 16, is_sampled)
    later = parent_of(f"01-{'a' * 32}-{'b' * 16}-{flags}-what-comes-later")
    assert later is not None
    assert later.trace_id == parent.trace_id

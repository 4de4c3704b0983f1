"""Log lines: they name the trace and the caller, and never a secret."""

import asyncio
import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest
import requests
from structlog.testing import capture_logs

from services.mesh.envoy import Envoy
from services.mesh.tokens import key_set, new_key, token
from services.portfolio.batch import Batch
from services.portfolio.caller import TRACE_ID
from services.portfolio.logs import with_call
from services.portfolio.ports import Needs
from services.portfolio.storage.memory import MemoryLedger
from services.portfolio.writer import Writer
from tests.support.process import Process
from tests.support.router import Router
from tests.support.waiting import wait_until
from tests.telemetry.collector import running_collector
from tests.telemetry.conftest import SOON
from tests.telemetry.test_trace import new_trace, sampled
from tests.writer.desks import rules

ANSWER_S = 10
SPXL, HOOD = "IncredibleLeverage_SPXL", "IncredibleLeverage_HOOD"
StartRouter = Callable[..., Router]


@dataclass(frozen=True)
class Faulty:
    """A command with a fault of ours in it."""

    request_id: str = ""

    def needs(self) -> Needs:
        return Needs()

    def run(self, batch: Batch) -> None:
        raise ZeroDivisionError(f"of {batch.desk.now}")


async def test_a_fault_in_a_batch_names_the_traces_that_it_touched() -> None:
    writer = Writer(MemoryLedger(), rules())
    traces = [new_trace() for _ in range(3)]

    async def submit(trace_id: str) -> None:
        TRACE_ID.set(trace_id)
        with pytest.raises(ZeroDivisionError):
            await writer.submit(Faulty())

    with capture_logs(processors=[with_call]) as lines:
        await asyncio.gather(*map(submit, traces))
        await writer.stop()
    (together,) = (line for line in lines if line["event"] == "batch_failed")
    assert together["traces"] == traces
    alone = [line for line in lines if line["event"] == "command_failed"]
    assert [line["traces"] for line in alone] == [[trace_id] for trace_id in traces]


def test_lines_name_trace_and_caller_and_no_log_of_a_run_holds_a_secret(
    database_url: str, router: StartRouter, price_folder: Path, tmp_path: Path
) -> None:
    key = new_key()
    (tmp_path / "keys.json").write_bytes(key_set([key]))
    domain = "spiffe://efficientfrontier"
    own = token(key, f"{domain}/strategy/{SPXL}")
    forged = token(new_key(), f"{domain}/operator/mallory")
    (tmp_path / "token").write_text(own)
    password, header = secrets.token_hex(12), secrets.token_hex(12)
    parts = urlsplit(database_url)
    host = parts.netloc.rpartition("@")[2]
    with_password = urlunsplit(parts._replace(netloc=f"{parts.username}:{password}@{host}"))
    with running_collector() as collector:
        one = router(
            with_password,
            AUTH="token",
            TOKEN_KEYS=str(tmp_path / "keys.json"),
            LOG_LEVEL="DEBUG",
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
            OTEL_EXPORTER_OTLP_HEADERS=f"api-key={header}",
            **SOON,
        )
        envoy = Envoy(0, [one.address], tmp_path / "envoy", tmp_path, collector=collector.endpoint)
        trace_id = new_trace()
        try:
            envoy.start()
            envoy.wait_ready(30)
            environ = {
                "PORTFOLIO_ADDRESS": f"127.0.0.1:{envoy.port}",
                "TOKEN_FILE": str(tmp_path / "token"),
                "PRICE_FEED": f"csv:{price_folder}",
                "SMA_WINDOW": "3",
                "INTERVAL_S": "0.02",
                "STOP_AT_END": "1",
                "LOG_FORMAT": "json",
                "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
                "OTEL_EXPORTER_OTLP_HEADERS": f"api-key={header}",
                **SOON,
            }
            log = tmp_path / "strategy.log"
            with Process.of_module(
                "services.strategy", "spxl", log=log, environ=environ
            ) as strategy:
                assert strategy.wait() == 0

            def buy(bearer: str, name: str) -> int:
                return requests.post(
                    f"http://127.0.0.1:{envoy.port}/orders/buy_all?strategy_name={name}",
                    json={"symbol": "SPXL", "price": 1.0},
                    headers={"authorization": f"Bearer {bearer}", **sampled(trace_id)},
                    timeout=ANSWER_S,
                ).status_code

            assert buy(own, HOOD) == 403
            assert buy(forged, SPXL) == 401
            assert buy(f"{own}x", SPXL) == 401
            wait_until(lambda: (tmp_path / "envoy.log").read_text().count(trace_id) == 3, 20)
        finally:
            envoy.stop()
            one.stop()
    lines = [json.loads(line) for line in one.output().splitlines()]
    order = next(line for line in lines if line.get("method") == "BuyAll")
    assert (order["event"], order["actor"]) == ("call", f"strategy/{SPXL}")
    said = [json.loads(line) for line in log.read_text().splitlines()]
    assert order["trace"] == next(line["trace"] for line in said if line["event"] == "order")
    refused = [line for line in lines if line["event"] == "refused"]
    assert {line["trace"] for line in refused} == {trace_id}
    assert refused[0]["actor"] == f"strategy/{SPXL}"
    assert "actor" not in refused[1]  # whoever shows a forged token is nobody
    logs = [path for path in tmp_path.rglob("*.log") if path.is_file()]
    assert len(logs) >= 3
    for path in logs:
        text = path.read_text()
        for secret in (password, header, own, forged, own.rpartition(".")[2]):
            assert secret not in text, path

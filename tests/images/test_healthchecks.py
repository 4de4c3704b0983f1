"""The commands by which a container's health is looked at, outside of one."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from services.mesh.ports import free_port
from services.strategy import healthcheck
from services.strategy.__main__ import main
from SureshotSDK._clock import Stop
from SureshotSDK.Scheduler import Scheduler
from SureshotSDK.testing import InMemoryPortfolio, ManualClock, prices_feed, run_over
from tests.images.workshop import ROOT
from tests.support.router import Router

PRICES = [1.0, 2.0, 3.0]


class Watcher(Scheduler):
    """Looks, and does nothing."""

    name = "Watcher_SPXL"

    def on_data(self, price: float) -> None:
        pass


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "health"
    monkeypatch.setenv("HEALTH_FILE", str(path))
    return path


@pytest.fixture
def sick_server() -> Iterator[str]:
    """A server that says NOT_SERVING."""
    server = grpc.server(futures.ThreadPoolExecutor(1))
    servicer = health.HealthServicer()
    servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


def ask(**environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "services.portfolio.healthcheck"],
        cwd=ROOT,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_a_router_that_serves_is_healthy(
    router: Callable[..., Router], database_url: str, sick_server: str
) -> None:
    address = router(database_url).address
    assert ask(ROUTER_ADDRESS=f"0.0.0.0:{address.rpartition(':')[2]}").returncode == 0
    assert ask(ROUTER_ADDRESS=sick_server, HEALTH_ADDRESS=address).returncode == 0


def test_a_router_that_is_draining_or_away_is_not(sick_server: str) -> None:
    draining = ask(ROUTER_ADDRESS=sick_server)
    assert (draining.returncode, draining.stderr) == (1, f"{sick_server} is NOT_SERVING.\n")
    away = ask(ROUTER_ADDRESS=f"127.0.0.1:{free_port()}")
    assert away.returncode == 1
    assert "UNAVAILABLE" in away.stderr


def test_a_strategy_is_healthy_until_two_minutes_after_its_loop_should_be_back(file: Path) -> None:
    assert "has not started" in (healthcheck.main() or "")
    run_over(Watcher(sma_window=2, interval_s=60), PRICES)
    assert healthcheck.main() is None
    assert 170 < file.stat().st_mtime - time.time() <= 180
    os.utime(file, (0, time.time() - 5))
    assert healthcheck.main() == "The strategy's loop is 5 s late."


def test_a_strategy_whose_history_has_ended_stays_healthy(file: Path) -> None:
    class ClockOfThreeWaits(ManualClock):
        waits = 0

        def wait(self, stop: Stop, timeout_s: float | None) -> None:
            assert timeout_s is not None
            self.waits += 1
            assert healthcheck.main() is None
            file.unlink()  # so that only the next beat brings it back
            if self.waits == 3 + len(PRICES):
                stop.wish()

    strategy = Watcher(InMemoryPortfolio(), sma_window=1, clock=ClockOfThreeWaits(), interval_s=1)
    strategy.portfolio.upsert_portfolio(strategy.name)  # type: ignore[attr-defined]
    strategy.feed = prices_feed({"SPY": PRICES, "SPXL": PRICES})
    strategy.run(stop_at_end=False)


def test_a_health_file_that_cannot_be_written_is_refused_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEALTH_FILE", str(tmp_path / "nowhere" / "health"))
    with pytest.raises(ValueError, match=r"HEALTH_FILE .*nowhere.* cannot be written"):
        run_over(Watcher(sma_window=2), PRICES)


def test_without_a_health_file_there_is_nothing_to_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HEALTH_FILE", raising=False)
    assert "not set" in (healthcheck.main() or "")


def test_without_a_name_the_strategy_is_the_environments(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STRATEGY", "gold")
    assert main([]) == 2
    assert "'gold'" in capsys.readouterr().err

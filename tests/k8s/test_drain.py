"""Envoy leaves without losing a call: the very drain.sh, on the real Envoy, under load."""

import itertools
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import grpc
import psutil
import pytest
import requests

from efficientfrontier.v1.order_service_pb2 import BuyAllRequest, SellAllRequest
from efficientfrontier.v1.order_service_pb2_grpc import OrderServiceStub
from efficientfrontier.v1.portfolio_service_pb2 import ResumeStrategyRequest
from efficientfrontier.v1.portfolio_service_pb2_grpc import PortfolioServiceStub
from services.mesh.envoy import ACTIVE, Envoy
from tests.envoy.door import Replica
from tests.k8s.manifests import K8S, ROOT, rendered, workload
from tests.k8s.service import Service
from tests.support.database import psql
from tests.support.process import Process
from tests.support.router import Router
from tests.support.waiting import wait_until

SCRIPT = K8S / "base" / "scripts" / "drain.sh"
CALLERS = 6


class Load:
    """Callers who buy and sell in turn, until `over`. None tries again what has failed.

    (gRPC itself sends on another connection what it had not sent on one that says goodbye.)
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.over = threading.Event()
        self._starting = threading.Barrier(CALLERS + 1)
        self._pool = ThreadPoolExecutor(CALLERS)
        self._callers = [self._pool.submit(self._trade, number) for number in range(CALLERS)]
        self._starting.wait(30)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self._pool.shutdown()

    def check(self) -> None:
        """Raises what a caller met, if one has ended."""
        for caller in self._callers:
            if caller.done():
                caller.result()

    def answered(self) -> list[str]:
        """Ends it; the ids of all orders answered."""
        self.over.set()
        return [order_id for caller in self._callers for order_id in caller.result(20)]

    def _trade(self, number: int) -> list[str]:
        name = f"Drain_{number}"
        wish = {"strategy_name": name, "cash": 10_000}
        made = requests.post(f"http://{self.address}/portfolio", json=wish, timeout=10)
        assert made.status_code == 200, made.text
        self._starting.wait(30)
        return list(self._over_grpc(name) if number % 2 else self._over_rest(name))

    def _over_rest(self, name: str) -> Iterator[str]:
        wish = {"strategy_name": name, "symbol": "SPXL", "price": 10}
        with requests.Session() as session:
            for verb in itertools.cycle(("buy_all", "sell_all")):
                url = f"http://{self.address}/orders/{verb}"
                answer = session.post(url, json=wish, timeout=10)
                assert answer.status_code == 200, answer.text
                yield str(answer.json()["order_id"])
                if self.over.is_set():
                    return

    def _over_grpc(self, name: str) -> Iterator[str]:
        with grpc.insecure_channel(self.address) as channel:
            stub = OrderServiceStub(channel)
            while not self.over.is_set():
                buy = BuyAllRequest(strategy_name=name, symbol="SPXL", price=10)
                yield stub.BuyAll(buy, timeout=10).order_id
                sell = SellAllRequest(strategy_name=name, symbol="SPXL", price=10)
                yield stub.SellAll(sell, timeout=10).order_id


def drain(envoy: Envoy, folder: Path, settle_s: float, calls_s: int) -> Process:
    """Runs the script beside an Envoy, as Kubernetes runs it inside the container."""
    environ = {
        "ADMIN_PORT": str(envoy.admin_port),
        "SETTLE_S": str(settle_s),
        "CALLS_S": str(calls_s),
    }
    return Process("drain", ["bash", str(SCRIPT)], folder / "drain.log", environ)


def test_the_door_closes_under_load_and_no_call_fails(
    database_url: str, router: Callable[..., Router], tmp_path: Path
) -> None:
    one = router(database_url)
    leaving, staying = (
        Envoy(0, [one.address], tmp_path / name, tmp_path / name) for name in ("leaving", "staying")
    )
    with ExitStack() as stack:
        for envoy in (leaving, staying):
            stack.callback(envoy.stop, drain_s=0)
            envoy.start()
            envoy.wait_ready(30)
        service = stack.enter_context(Service())
        service.endpoints = [leaving.port]  # the worst case: who is sent away comes back
        load = stack.enter_context(Load(service.address))
        wait_for_calls(leaving, 200, load)

        with drain(leaving, tmp_path, settle_s=2, calls_s=20) as script:
            wait_for_calls(leaving, 50, load)  # the nodes hear of it a while after it has begun
            service.endpoints = [staying.port]
            assert script.wait(60) == 0, script.output()
            assert script.output() == ""
        leaving.stop(drain_s=0)  # SIGTERM, at which Envoy cuts all
        wait_for_calls(staying, 200, load)
        answered = load.answered()
        audit = requests.get(f"http://127.0.0.1:{staying.port}/audit", timeout=30).json()

    assert audit["balanced"] is True
    kept = psql(database_url, "SELECT order_id FROM orders").splitlines()
    assert sorted(kept) == sorted(answered)  # each once, and none that nobody heard of


def total(envoy: Envoy) -> int:
    """The calls that it has taken until now."""
    return envoy._gauge("http.door.downstream_rq_total")


def wait_for_calls(envoy: Envoy, count: int, load: Load) -> None:
    """Waits until it has taken so many more; raises at once what a caller met."""
    goal = total(envoy) + count

    def taken() -> bool:
        load.check()
        return total(envoy) >= goal

    wait_until(taken, what=f"{count} calls through the Envoy on {envoy.port}")


@pytest.fixture
def door(tmp_path: Path) -> Iterator[tuple[Envoy, Replica]]:
    """An Envoy in front of one upstream whose answers can be held back."""
    upstream = ROOT / "tests" / "envoy" / "upstream.py"
    process = subprocess.Popen([sys.executable, upstream], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    replica = Replica(process, int(process.stdout.readline()))
    envoy = Envoy(0, [replica.address], tmp_path, tmp_path)
    try:
        envoy.start()
        envoy.wait_ready(30)
        yield envoy, replica
    finally:
        envoy.stop(drain_s=0)
        replica.kill()


def test_a_call_that_takes_its_time_is_waited_for(
    door: tuple[Envoy, Replica], tmp_path: Path
) -> None:
    envoy, replica = door
    url = f"http://127.0.0.1:{envoy.port}"
    with ThreadPoolExecutor() as pool:
        call = pool.submit(requests.get, f"{url}/portfolio/Stuck", timeout=30)
        wait_until(lambda: envoy._gauge(ACTIVE) == 1)
        with drain(envoy, tmp_path, settle_s=0, calls_s=30) as script:
            wait_until(lambda: requests.get(f"{url}/readyz", timeout=10).status_code == 503)
            assert script.exit_code() is None
            with grpc.insecure_channel(replica.address) as channel:
                PortfolioServiceStub(channel).ResumeStrategy(ResumeStrategyRequest(), timeout=10)
            assert call.result(20).status_code == 200
            assert script.wait(20) == 0

    assert call.result().headers["connection"] == "close"


def test_a_watch_that_never_ends_is_waited_for_no_longer_than_said(
    door: tuple[Envoy, Replica], tmp_path: Path
) -> None:
    envoy, _ = door
    url = f"http://127.0.0.1:{envoy.port}/orders:watch?strategy_name=A"
    with requests.get(url, stream=True, timeout=30) as watch:
        assert watch.status_code == 200
        with drain(envoy, tmp_path, settle_s=0, calls_s=1) as script:
            assert script.wait(15) == 0


def test_where_no_envoy_answers_the_script_ends_too(tmp_path: Path) -> None:
    nowhere = Envoy(0, ["127.0.0.1:1"], tmp_path, tmp_path)
    nowhere.admin_port = 1

    with drain(nowhere, tmp_path, settle_s=0, calls_s=1) as script:
        assert script.wait(15) == 0


def test_envoy_runs_in_the_cluster_as_it_runs_here(door: tuple[Envoy, Replica]) -> None:
    def settings(words: list[str]) -> dict[str, str]:
        pairs = itertools.zip_longest(words, words[1:], fillvalue="--")
        return {
            word: "" if after.startswith("--") else after
            for word, after in pairs
            if word.startswith("--")
        }

    there = settings(
        workload(rendered("base"), "efficientfrontier-envoy").container("envoy")["args"]
    )
    here = settings(psutil.Process(door[0].pid).cmdline()[1:])

    of_a_place = {"--config-path", "--concurrency", "--admin-address-path"}
    assert {k: v for k, v in there.items() if k not in of_a_place} == {
        k: v for k, v in here.items() if k not in of_a_place
    }

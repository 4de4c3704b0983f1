"""A mesh on more than one machine: three routers, two Envoys, a replicated database; and its load.

The load is what the mesh is for: strategies that order and look through the SDK and over REST, at
both Envoys, and keep what they were answered, so that it can be compared with the tables.
"""

import itertools
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import requests

from services.mesh.envoy import Envoy
from services.mesh.health import is_serving
from services.mesh.ports import free_port
from SureshotSDK import PortfolioClient
from tests.support.database import psql
from tests.support.process import Process
from tests.support.replicated import Replicated
from tests.support.router import Router
from tests.support.waiting import wait_until

READY_S = 60
ANSWER_S = 30
STRATEGIES = [f"Load_{number}" for number in range(6)]
CASH = 1_000_000
HEALTHY = "cluster.router.membership_healthy"
LASTING_S = 90.0  # how long a caller that counts on repeating repeats a call


@dataclass
class Mesh:
    """All of it, running."""

    database: Replicated
    routers: list[Router]
    envoys: list[Envoy]

    @property
    def addresses(self) -> list[str]:
        """Both doors, as "host:port"."""
        return [f"127.0.0.1:{envoy.port}" for envoy in self.envoys]

    def rest(self, door: int = 0) -> str:
        """The URL of a door."""
        return f"http://{self.addresses[door]}"

    def roll(self) -> None:
        """Stops each router as Kubernetes does, one after another, and starts it again."""
        for router in self.routers:
            router.terminate()
            assert router.wait() == 0
            router.start()
            self.wait_whole()

    def wait_whole(self) -> None:
        """Waits until both doors find every router healthy."""
        for envoy in self.envoys:
            envoy.wait_ready(READY_S)
        wait_until(self._is_whole, READY_S, "every router is healthy to both doors")

    def _is_whole(self) -> bool:
        return all(envoy._gauge(HEALTHY) == len(self.routers) for envoy in self.envoys)

    def assert_kept(self, load: "Load") -> None:
        """Every answered order is in the table, once, and is what was answered; books balance."""
        rows = psql(self.url, "SELECT request_id, order_id FROM orders").splitlines()
        stored = [tuple(row.split("|")) for row in rows]
        twice = [rid for rid, count in Counter(rid for rid, _ in stored).items() if count > 1]
        assert not twice, f"doubled: {twice}"
        lost = dict(load.answered.items() - set(stored))
        assert not lost, f"answered, and not in the table: {lost}"
        audit = requests.get(f"{self.rest()}/audit", timeout=ANSWER_S)
        assert audit.json()["balanced"], audit.text

    @property
    def url(self) -> str:
        """The database's address."""
        return self.database.url


@contextmanager
def running(
    database: Replicated, folder: Path, environ: Mapping[str, str] | None = None, routers: int = 3
) -> Iterator[Mesh]:
    """Starts routers and Envoys on a database, with strategies that have cash."""
    settings = {"DRAIN_S": "2", "LOG_LEVEL": "INFO", **(environ or {})}
    made = [Router(database.url, folder / f"router-{i}.log", settings) for i in range(routers)]
    envoys = [
        Envoy(
            free_port(), [one.address for one in made], folder / f"envoy-{i}", folder / f"envoy-{i}"
        )
        for i in range(2)
    ]
    try:
        for router in made:
            Process.start(router)  # together; each is waited for below
        for envoy in envoys:
            envoy.start()
        for router in made:
            wait_until(lambda one=router: is_serving(one.address), READY_S, "a router serves")  # type: ignore[misc]
        mesh = Mesh(database, made, envoys)
        mesh.wait_whole()
        for name in STRATEGIES:
            wish = {"strategy_name": name, "cash": CASH, "requested_mode": "PAPER"}
            told = requests.post(f"{mesh.rest()}/portfolio", json=wish, timeout=ANSWER_S)
            assert told.status_code == 200, told.text
        yield mesh
    finally:
        for envoy in envoys:
            envoy.stop(0)
        for router in made:
            router.stop()


@dataclass
class Load:
    """Callers at work. `patient` callers repeat what fails, as the SDK does; others do not."""

    mesh: Mesh
    patient: bool
    answered: dict[str, str] = field(default_factory=dict)  # order_id by request_id
    reads: int = 0
    failed: list[str] = field(default_factory=list)
    times: list[float] = field(default_factory=list)  # of answered orders
    over: threading.Event = field(default_factory=threading.Event)

    def callers(self) -> list[Callable[[], None]]:
        """Through each door: two that order by the SDK, one that orders by REST, two that read."""
        return [
            caller
            for door in range(2)
            for caller in (
                lambda door=door: self.order_by_sdk(door, STRATEGIES[door]),
                lambda door=door: self.order_by_sdk(door, STRATEGIES[2]),  # both doors meet on it
                lambda door=door: self.order_by_rest(door, STRATEGIES[3 + door]),
                lambda door=door: self.read_by_sdk(door),
                lambda door=door: self.read_by_rest(door),
            )
        ]

    def client(self, door: int) -> PortfolioClient:
        """A client that knows both doors, and begins with this one."""
        first, other = self.mesh.addresses[door], self.mesh.addresses[1 - door]
        return PortfolioClient(
            f"ipv4:{first},{other}", retry_for_s=LASTING_S if self.patient else 0
        )

    def order_by_sdk(self, door: int, strategy: str) -> None:
        """Orders one after another."""
        with self.client(door) as client:
            while not self.over.is_set():
                request_id = str(uuid.uuid4())
                with self.counted(f"order, {strategy}"):
                    order = client.create_order(
                        strategy, "SPXL", "BUY", 1, 1.0, request_id=request_id
                    )
                    self.keep(request_id, order.order_id)

    def order_by_rest(self, door: int, strategy: str) -> None:
        """Orders one after another; a patient caller repeats a 503 or 504, as README says."""
        wish = {"strategy_name": strategy, "symbol": "SPXL", "side": "BUY", "price": 1.0}
        with requests.Session() as session:
            while not self.over.is_set():
                request_id = str(uuid.uuid4())
                with self.counted(f"order by REST, {strategy}"):
                    body = {**wish, "quantity": 1, "request_id": request_id}
                    told = self.repeated(session, "POST", door, "/orders", body)
                    self.keep(request_id, told["order_id"])

    def read_by_sdk(self, door: int) -> None:
        """Asks what a strategy holds."""
        with self.client(door) as client:
            while not self.over.is_set():
                with self.counted("invested"):
                    client.invested(STRATEGIES[5])
                    self.reads += 1

    def read_by_rest(self, door: int) -> None:
        """Lists orders."""
        with requests.Session() as session:
            while not self.over.is_set():
                with self.counted("list by REST"):
                    self.repeated(session, "GET", door, "/orders?page_size=5", None)
                    self.reads += 1

    def repeated(
        self, session: requests.Session, method: str, door: int, path: str, body: object
    ) -> dict[str, str]:
        """The answer to a REST call, through the other door when this one is gone."""
        give_up = time.monotonic() + (LASTING_S if self.patient else 0)
        while True:
            try:
                told = session.request(
                    method, f"{self.mesh.rest(door)}{path}", json=body, timeout=ANSWER_S
                )
                if told.status_code == 200:
                    answer: dict[str, str] = told.json()
                    return answer
                why = f"{told.status_code} {told.text}"
                assert told.status_code in (503, 504), why
            except requests.ConnectionError as error:
                why = str(error)
                door = 1 - door
            assert time.monotonic() < give_up, why
            self.over.wait(0.02)

    def keep(self, request_id: str, order_id: str) -> None:
        """Notes an answered order."""
        self.times.append(time.monotonic())
        self.answered[request_id] = order_id

    @contextmanager
    def counted(self, what: str) -> Iterator[None]:
        """Notes a call that failed."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - whatever it is, it is a failed call
            self.failed.append(f"{what}: {error!r}")
            self.over.wait(0.02)

    def until_more(self, orders: int = 40) -> None:
        """Waits until so many more orders are answered."""
        goal = len(self.answered) + orders
        wait_until(lambda: len(self.answered) >= goal, 60, f"{orders} more orders; {self.failed}")

    def longest_pause_s(self) -> float:
        """The longest time in which no order was answered."""
        times = sorted(self.times)
        return max(later - earlier for earlier, later in itertools.pairwise(times))


@contextmanager
def under_load(mesh: Mesh, *, patient: bool) -> Iterator[Load]:
    """Load, from before the block until after it."""
    load = Load(mesh, patient)
    callers = load.callers()
    with ThreadPoolExecutor(len(callers)) as pool:
        at_work: list[Future[None]] = [pool.submit(caller) for caller in callers]
        try:
            load.until_more()
            yield load
            load.until_more()
        finally:
            load.over.set()
        for caller in at_work:
            caller.result(timeout=LASTING_S + ANSWER_S)

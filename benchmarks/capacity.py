"""What an order costs each part of the mesh, and what more replicas and a standby change.

python -m benchmarks.capacity [--seconds 4]     two minutes; prints the tables of k8s/CAPACITY.md

On a machine where everything shares two cores, more replicas answer no more orders a second. What
carries over to other machines is the CPU time of each part for an order, the bytes, the
connections, and the ratios within this one run.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import grpc
import psutil
from rich.console import Console
from rich.table import Table

from benchmarks import plan, systems
from benchmarks.drivers import BenchmarkError, Sample, drive_grpc, drive_sql, missing_drivers
from services.mesh.child import Child
from services.mesh.envoy import Envoy
from services.mesh.ports import free_port
from tests.support.replicated import STANDBY, Server
from tests.support.waiting import wait_until

HERE = Path(__file__).resolve().parent
READY_S = 60
CALLERS = 64
FEW, MANY = 5, 1000  # strategies, for the memory of a replica
OURS = "application_name LIKE 'efficientfrontier%'"


@dataclass(frozen=True)
class Cost:
    """What one run saw: answers a second, and what each answered order cost."""

    what: str
    sample: Sample
    router_us: float  # CPU microseconds, of all replicas together
    envoy_us: float
    postgres_us: float
    wal_bytes: float


@dataclass(frozen=True)
class Replicas:
    """Routers behind an Envoy, on a server."""

    server: Server
    database: systems.Database
    routers: Sequence[Child]
    addresses: Sequence[str]
    envoy: Envoy

    def cost(self, what: str, strategies: int, seconds: int) -> Cost:
        """Loads the door with orders of so many strategies."""
        url = f"http://127.0.0.1:{self.envoy.port}{plan.CREATE_ORDER}"
        crews = plan.crews_that(plan.order_of, strategies, CALLERS, 0)
        orders, log = self.database.orders(), self._wal()
        before = self._cpu_s()
        sample = drive_grpc(url, crews, seconds=seconds)
        after = self._cpu_s()
        written = self.database.orders() - orders
        if not sample.done <= written <= sample.done + CALLERS:
            raise BenchmarkError(f"{sample.done} orders were answered, but {written} written.")
        router, envoy, postgres = (
            (end - begin) / written * 1e6 for begin, end in zip(before, after, strict=True)
        )
        return Cost(what, sample, router, envoy, postgres, (self._wal() - log) / written)

    def connections(self) -> float:
        """Sessions on the database for each replica."""
        sessions = self.database.ask(f"SELECT count(*) FROM pg_stat_activity WHERE {OURS}")
        return int(sessions) / len(self.routers)

    def memory_mib(self) -> float:
        """Of a replica, resident."""
        return mean(psutil.Process(one.pid).memory_info().rss for one in self.routers) / 2**20

    def _cpu_s(self) -> tuple[float, float, float]:
        """CPU time until now of the routers, Envoy, and the server."""
        return (
            cpu_s(one.pid for one in self.routers),
            cpu_s([self.envoy.pid]),
            cpu_s([self.server.pid]),
        )

    def _wal(self) -> float:
        """Bytes of log that the server has written."""
        return float(self.database.ask("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn"))


def main() -> int:
    """Measures and prints; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.capacity", description=__doc__)
    parser.add_argument("--seconds", type=int, default=4, help="of each run of a driver")
    asked = parser.parse_args()
    console = Console(width=110)
    if missing := missing_drivers():
        console.print(f"The load drivers are missing: apt-get install {' '.join(missing)}")
        return 2
    with tempfile.TemporaryDirectory(prefix=".data-bench-", dir=HERE.parent) as folder:
        try:
            measure(Path(folder), asked.seconds, console)
        except BenchmarkError as error:
            console.print(str(error), style="red", markup=False, highlight=False)
            return 1
    return 0


def measure(folder: Path, seconds: int, console: Console) -> None:
    """All of it, on one server."""
    with ExitStack() as running:
        server = Server(folder / "primary")
        running.callback(server.stop)
        server.make()
        server.start()
        main_database = systems.Database(server.url)
        costs = []
        for count in (1, 2, 3):
            database = main_database.create(f"replicas_{count}")
            with replicas(server, database, folder, count) as ones:
                costs.append(ones.cost(f"{count} x router", plan.STRATEGIES, seconds))
                costs.append(ones.cost(f"{count} x router, one strategy", 1, seconds))
                console.print(f"{count} x router: {ones.connections():.1f} sessions a replica")
                if count == 1:
                    console.print(f"Disk: {disk_bytes(database):,.0f} bytes an order")
        console.print(table_of(costs))
        measure_notify(main_database, folder, seconds, console)
        measure_memory(server, main_database, folder, seconds, console)
        measure_standby(server, main_database, folder, seconds, console)


def measure_notify(
    main_database: systems.Database, folder: Path, seconds: int, console: Console
) -> None:
    """What telling the replicas costs the database, whose NOTIFY takes one lock at each commit."""
    database = main_database.create("notify")
    with systems.router(database, folder) as address:
        plan.prepare_router(address)
    rates = [
        drive_sql(
            database.url, strategies=plan.STRATEGIES, callers=CALLERS, seconds=seconds, tells=tells
        ).rate
        for tells in (False, True)
    ]
    console.print(
        f"Transactions of one order each, pgbench: {rates[0]:,.0f}/s; with NOTIFY {rates[1]:,.0f}/s"
        f" ({rates[1] / rates[0]:.2f})"
    )


def measure_memory(
    server: Server, main_database: systems.Database, folder: Path, seconds: int, console: Console
) -> None:
    """A replica's memory after a load on few strategies, and on many."""
    database = main_database.create("memory")
    with replicas(server, database, folder, 1, strategies=FEW) as ones:
        ones.cost("few", FEW, seconds)
        few = ones.memory_mib()
        prepare(ones.addresses[0], MANY)
        ones.cost("many", MANY, seconds)
        console.print(
            f"Memory of a replica: {few:.0f} MiB at {FEW} strategies, "
            f"{ones.memory_mib():.0f} MiB at {MANY:,}"
        )


def measure_standby(
    server: Server, main_database: systems.Database, folder: Path, seconds: int, console: Console
) -> None:
    """One router on a primary that is alone, that has a standby, and that waits for it."""
    costs = []
    with ExitStack() as running:
        ones = running.enter_context(replicas(server, main_database.create("pair"), folder, 1))
        costs.append(ones.cost("no standby", plan.STRATEGIES, seconds))
        standby = Server(folder / "standby")
        running.callback(standby.stop)
        standby.copy(server)
        standby.start()
        wait_until(lambda: replication(main_database) == "async", READY_S, "it streams")
        costs.append(ones.cost("standby, asynchronous", plan.STRATEGIES, seconds))
        main_database.ask(f"ALTER SYSTEM SET synchronous_standby_names = '{STANDBY}'")
        main_database.ask("SELECT pg_reload_conf()")
        wait_until(lambda: replication(main_database) == "sync", READY_S, "it is waited for")
        costs.append(ones.cost("standby, synchronous", plan.STRATEGIES, seconds))
        main_database.ask("ALTER SYSTEM RESET synchronous_standby_names")
        main_database.ask("SELECT pg_reload_conf()")
    console.print(table_of(costs))


@contextmanager
def replicas(
    server: Server,
    database: systems.Database,
    folder: Path,
    count: int,
    strategies: int = plan.STRATEGIES,
) -> Iterator[Replicas]:
    """So many routers with their usual settings behind one Envoy, and strategies with cash."""
    addresses = [f"127.0.0.1:{free_port()}" for _ in range(count)]
    name = database.url.rpartition("/")[2]
    routers = [
        Child(
            f"router {number}",
            [sys.executable, "-m", "services.portfolio"],
            folder / f"{name}-router-{number}.log",
            {
                "DATABASE_URL": database.url,
                "ROUTER_ADDRESS": address,
                "METRICS_PORT": "0",
                "LOG_LEVEL": "WARNING",
                "TRADING_MODE": "PAPER",
                "DRAIN_S": "0",
            },
        )
        for number, address in enumerate(addresses)
    ]
    envoy = Envoy(0, addresses, folder / f"{name}-envoy", folder / f"{name}-envoy", concurrency=2)
    try:
        for router, address in zip(routers, addresses, strict=True):
            router.start()
            wait_until(lambda at=address: systems.is_serving(at), READY_S, "a router serves")  # type: ignore[misc]
        envoy.start()
        envoy.wait_ready(READY_S)
        prepare(addresses[0], strategies)
        yield Replicas(server, database, routers, addresses, envoy)
    finally:
        envoy.stop(0)
        for router in routers:
            router.stop()


def prepare(address: str, strategies: int) -> None:
    """Gives so many strategies cash."""
    with grpc.insecure_channel(address) as channel:
        for name in plan.names(strategies):
            plan.create_strategy(channel, name)


def replication(database: systems.Database) -> str:
    """How the standby follows: async, sync; empty when it does not."""
    return database.ask(
        f"SELECT sync_state FROM pg_stat_replication WHERE application_name = '{STANDBY}'"
    )


def disk_bytes(database: systems.Database) -> float:
    """Of tables and indexes for each order that there is."""
    size = "SELECT pg_database_size(current_database())"
    grown = int(database.ask(size)) - int(
        database.ask("SELECT pg_database_size(oid) FROM pg_database WHERE datname = 'template1'")
    )
    return grown / max(database.orders(), 1)


def cpu_s(pids: Iterable[int]) -> float:
    """CPU time of processes until now, with that of their children, ended ones too."""
    used_s = 0.0
    for pid in pids:
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                used_s += sum(one.cpu_times()[: 4 if one is process else 2])
    return used_s


def table_of(costs: Sequence[Cost]) -> Table:
    """The runs, each beside the first."""
    table = Table(
        "", "orders/s", "ratio", "p50 ms", "router us", "Envoy us", "PostgreSQL us", "WAL"
    )
    for cost in costs:
        table.add_row(
            cost.what,
            f"{cost.sample.rate:,.0f}",
            f"{cost.sample.rate / costs[0].sample.rate:.2f}",
            f"{cost.sample.p50_ms:.1f}",
            f"{cost.router_us:.0f}",
            f"{cost.envoy_us:.0f}",
            f"{cost.postgres_us:.0f}",
            f"{cost.wal_bytes:,.0f}",
        )
    return table


if __name__ == "__main__":
    sys.exit(main())

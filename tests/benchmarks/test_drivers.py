"""What the drivers print is read as it is meant; the samples were printed by the real ones."""

import asyncio
import subprocess
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from uuid_utils.compat import uuid7

from benchmarks import drivers
from benchmarks.drivers import BenchmarkError
from benchmarks.systems import Database
from services.portfolio.brokers.paper import PaperBroker
from services.portfolio.commands import UpsertPortfolio
from services.portfolio.domain.order import Mode
from services.portfolio.storage import database as storage
from services.portfolio.storage.ledger import PostgresLedger
from services.portfolio.storage.reads import PostgresReads
from services.portfolio.writer import Rules, Writer

H2LOAD = """\
Stopped all clients for thread #0

finished in 2.00s, 8407.00 req/s, 525.93KB/s
requests: 16814 total, 16818 started, 16814 done, 16814 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 16814 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 1.03MB (1077114) total, 49.55KB (50742) headers (space savings 96.27%), \
82.10KB (84070) data
                     min         max         mean         sd        +/- sd
time for request:      136us     11.11ms       465us       226us    94.94%
"""

WRK = """\
Running 4s test @ http://127.0.0.1:50998
  1 threads and 16 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency    56.23ms   52.68ms 349.07ms   84.62%
    Req/Sec   291.90     36.57   360.00     72.50%
  1167 requests in 4.01s, 740.68KB read
Requests/sec:    290.96
Transfer/sec:    184.67KB
{"done": 1167, "seconds": 4.010829, "p50_us": 46783, "p99_us": 208841, "refused": 0, "broken": 0}
"""

PGBENCH = """\
pgbench (18.4)
transaction type: order.sql
scaling factor: 1
query mode: prepared
number of clients: 64
number of threads: 1
maximum number of tries: 1
duration: 4 s
number of transactions actually processed: 13777
number of failed transactions: 0 (0.000%)
latency average = 18.066 ms
initial connection time = 181.394 ms
tps = 3542.473035 (without initial connection time)
"""


def test_h2load_log_lines_are_calls_with_start_and_end() -> None:
    log = "1795359940846283\t200\t4364\n1795359940846327\t200\t4597\n"

    calls = drivers.read_h2load_log(log)

    assert calls == [
        (1795359940846283, 1795359940846283 + 4364),
        (1795359940846327, 1795359940846327 + 4597),
    ]


@pytest.mark.parametrize("log", ["", "1795359940846283\t503\t10\n", "1795359940846283\t-1\t10\n"])
def test_a_crew_without_answers_or_with_a_refusal_fails_the_benchmark(log: str) -> None:
    with pytest.raises(BenchmarkError):
        drivers.read_h2load_log(log)


def test_h2load_data_bytes_are_read_exactly() -> None:
    assert drivers.read_h2load_data_bytes(H2LOAD) == 84070


def test_only_calls_that_end_while_all_crews_work_count() -> None:
    early = [(0, 1_000), (1_000, 2_000), (2_000, 3_000)]
    late = [(1_500, 2_500), (2_500, 3_500)]

    sample = drivers.sample_of_calls([early, late], share=0.1)

    assert sample.rate == pytest.approx(3 / (3_000 - 1_500) * 1e6)
    assert (sample.p50_ms, sample.p99_ms) == (1, 1)
    assert sample.done == 5


def test_crews_that_never_work_together_fail_the_benchmark() -> None:
    with pytest.raises(BenchmarkError, match="same time"):
        drivers.sample_of_calls([[(0, 10)], [(20, 30)]], share=0)


def test_wrk_figures_come_from_the_line_of_its_script() -> None:
    sample = drivers.read_wrk(WRK, share=0.02)

    assert sample.rate == pytest.approx(1167 / 4.010829)
    assert (sample.p50_ms, sample.p99_ms) == (46.783, 208.841)
    assert (sample.done, sample.driver_share) == (1167, 0.02)


@pytest.mark.parametrize("trouble", ['"refused": 1', '"broken": 20'])
def test_a_rest_request_that_failed_fails_the_benchmark(trouble: str) -> None:
    name = trouble.split(":", maxsplit=1)[0]
    with pytest.raises(BenchmarkError, match="failed"):
        drivers.read_wrk(WRK.replace(f"{name}: 0", trouble), share=0)


def test_pgbench_figures_come_from_its_summary_and_logs() -> None:
    logs = [
        "0 1 18000 0 1795360000 100\n0 2 20000 0 1795360000 200\n",
        "1 1 19000 0 1795360000 1\n",
    ]

    sample = drivers.read_pgbench(PGBENCH, logs, share=0.2)

    assert sample.rate == 3542.473035
    assert (sample.p50_ms, sample.p99_ms) == (19, 20)
    assert sample.done == 13777


def test_pgbench_transactions_that_failed_fail_the_benchmark() -> None:
    failing = PGBENCH.replace("transactions: 0 (0.000%)", "transactions: 3 (0.022%)")
    with pytest.raises(BenchmarkError, match="failed"):
        drivers.read_pgbench(failing, ["0 1 18000 0 1795360000 100"], share=0)


def test_a_percentile_is_a_value_that_was_seen() -> None:
    hundred = list(range(1, 101))

    assert drivers.percentile(hundred, 50) == 50
    assert drivers.percentile(hundred, 99) == 99
    assert drivers.percentile([7], 99) == 7


def test_a_driver_that_fails_is_named_with_its_last_words() -> None:
    with pytest.raises(BenchmarkError, match="no such thing"):
        drivers.run([["sh", "-c", "echo no such thing; exit 3"]])


@pytest.fixture(params=[0, 1], ids=["tells nobody", "tells"])
async def prepared(request: pytest.FixtureRequest, database_url: str) -> tuple[str, int]:
    """A database with strategy Bench_001, and whether orders are told of."""
    database = Database(database_url)
    if int(database.ask("SHOW server_version_num")) < 180_000:
        pytest.skip("the order makes ids with uuidv7(), which PostgreSQL has from 18 on")
    ledger_database = await storage.Database.connect(database_url)
    rules = Rules({Mode.PAPER: PaperBroker()}, lambda: datetime.now(UTC), uuid7)
    writer = Writer(PostgresLedger(ledger_database), rules)
    await writer.submit(UpsertPortfolio("Bench_001", Decimal(1_000_000)))
    await writer.stop()
    await ledger_database.close()
    return database_url, request.param


async def test_the_pgbench_order_leaves_what_the_routers_order_leaves(
    prepared: tuple[str, int],
) -> None:
    url, tells = prepared
    database = Database(url)
    folder = Path(drivers.__file__).parent / "pgbench"
    command = [drivers.pgbench(), "-n", "-Mprepared", "-t5", "-c2", "-Dstrategies=1"]

    what = [f"-Dtells={tells}", f"-f{folder / 'order.sql'}", url]
    await asyncio.to_thread(subprocess.run, [*command, *what], check=True)

    assert database.orders() == 10
    assert database.ask("SELECT count(*), sum(value) FROM fills") == "10|10.00000000"
    assert database.ask("SELECT quantity, cost FROM positions") == "10.00000000|10.00000000"
    assert database.ask("SELECT cash, version FROM books") == "999990.00000000|11"
    ledger_database = await storage.Database.connect(url)
    assert await PostgresReads(ledger_database).audit() == (1, [])
    await ledger_database.close()


async def test_pgbench_is_driven_and_counted(prepared: tuple[str, int]) -> None:
    url, tells = prepared

    sample = drivers.drive_sql(url, strategies=1, callers=2, seconds=1, tells=bool(tells))

    assert sample.done == Database(url).orders() > 0

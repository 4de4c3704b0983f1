"""How long a full allocation takes on one core: `python -m benchmarks.allocation`.

A thousand strategies with five years of daily closes, in a real database: the process is started,
loads its libraries, reads a million closes, shrinks the covariance, finds the weights and twelve
points of the frontier, and answers. The curves follow a random factor model.
"""

import argparse
import asyncio
import os
import resource
import tempfile
import time
from decimal import Decimal
from pathlib import Path

import asyncpg
import numpy as np

from benchmarks import systems
from services.portfolio.allocation.optimiser import Optimiser
from services.portfolio.allocation.request import Request
from services.portfolio.domain.capital import AllocationPolicy, Bound, Method
from services.portfolio.domain.order import Mode
from services.portfolio.storage.curves import Connection
from services.portfolio.storage.database import Database

HERE = Path(__file__).resolve().parent
FACTORS = 8
LIMIT_S = 60.0
CURVES = """
WITH made AS (
    INSERT INTO strategies (strategy_name, requested_mode, mode, state, halt_reason, update_time)
    VALUES ($1, 'AUTO', 'PAPER', 'ACTIVE', '', now())
    RETURNING strategy_name
), book AS (
    INSERT INTO books (strategy_name, mode, version, cash, reserved_cash, update_time)
    SELECT strategy_name, 'PAPER', 1, 100, 0, now() FROM made
    RETURNING strategy_name, mode
)
INSERT INTO valuations (strategy_name, mode, number, session, kind, book_version, cash,
                        positions_value, flow, growth, time)
SELECT strategy_name, mode, day, date '2020-01-01' + day::int, 'CLOSE', 1, 100, 0, 0, growth, now()
FROM book, unnest($2::float8[]) WITH ORDINALITY AS closes (growth, day)
"""


def main() -> None:
    """Measures and prints; an exit code of 1 says that an allocation took too long."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.allocation", description=__doc__)
    parser.add_argument("--strategies", type=int, default=1000)
    parser.add_argument("--days", type=int, default=1260)
    asked = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix=".data-bench-", dir=HERE.parent) as folder,
        systems.postgres(Path(folder)) as server,
    ):
        # The database has the other core: it would have its own machine.
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        longest = asyncio.run(measure(server.url, asked.strategies, asked.days))
    raise SystemExit(longest > LIMIT_S)


async def measure(url: str, strategies: int, days: int) -> float:
    """The seconds that the slowest method took."""
    names = [f"strategy-{number:04}" for number in range(strategies)]
    database = await Database.connect(url)
    await database.close()
    connection = await asyncpg.connect(url)
    await fill(connection, names, days)
    await connection.close()
    longest = 0.0
    for method in Method:
        policy = AllocationPolicy(
            method,
            bounds=tuple(
                Bound(name, max_weight=Decimal("0.05"), fixed_weight=Decimal("0.0005"))
                for name in names
            ),
            cash_floor=Decimal("0.05"),
            max_turnover=Decimal("0.4"),
            lookback_days=days,
        )
        current = dict.fromkeys(names, round(Decimal(1) / strategies, 8))
        start = time.monotonic()
        solution = await Optimiser(url).solve(Request(policy, Mode.PAPER, current))
        took = time.monotonic() - start
        longest = max(longest, took)
        memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        print(
            f"{method}: {took:.1f} s, {len(solution.frontier)} points of the frontier, at most "
            f"{memory:.0f} MiB so far, Sharpe ratio {solution.sharpe_ratio:.3f} {solution.because}"
        )
    return longest


async def fill(connection: Connection, names: list[str], days: int) -> None:
    """Stores a curve for each name: factors that all share, and a part of its own."""
    random = np.random.default_rng(1)
    factors = random.normal(0.0002, 0.008, (days, FACTORS))
    for name in names:
        own = random.normal(0.0002, random.uniform(0.003, 0.02), days)
        returns = factors @ random.normal(0.2, 0.4, FACTORS) + own
        await connection.execute(CURVES, name, np.cumprod(1 + returns).tolist())
    await connection.execute("ANALYZE valuations")


if __name__ == "__main__":
    main()

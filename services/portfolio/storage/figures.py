"""The reading for the metrics: a few statements, cheap for a thousand strategies."""

import time

import asyncpg

from services.portfolio.domain.order import Mode, Status
from services.portfolio.storage.database import Database, PooledConnection
from services.portfolio.storage.rows import Row
from services.portfolio.storage.statements import MARKET_PRICE
from services.portfolio.telemetry.ports import Connections, Reading, Standbys, StrategyFigures

STRATEGIES = f"""
SELECT s.strategy_name, s.mode, s.state = 'HALTED' OR s.portfolio_halted AS halted, s.silent,
       b.cash::float8 AS cash, now.equity::float8 AS equity,
       (SELECT extract(epoch FROM max(time))::float8 FROM marks seen
        WHERE seen.strategy_name = s.strategy_name) AS seen,
       (s.limits ->> 'max_drawdown')::float8 AS max_drawdown,
       coalesce(v.number, 0) AS number,
       CASE WHEN v.number IS NULL THEN 1 WHEN v.base <= 0 THEN v.growth
            ELSE round(v.growth * now.equity / v.base, 18) END AS growth
FROM strategies s JOIN books b USING (strategy_name, mode)
CROSS JOIN LATERAL (
    SELECT b.cash + coalesce(sum(round(p.quantity * {MARKET_PRICE}, 8)), 0) AS equity
    FROM positions p LEFT JOIN marks m USING (strategy_name, symbol)
    WHERE p.strategy_name = s.strategy_name AND p.mode = s.mode AND p.quantity > 0
) now
LEFT JOIN LATERAL (
    SELECT number, growth, cash + positions_value + flow AS base FROM valuations own
    WHERE own.strategy_name = s.strategy_name AND own.mode = s.mode
    ORDER BY own.number DESC LIMIT 1
) v ON true
WHERE s.strategy_name <> 'RESERVE'
ORDER BY s.strategy_name
"""  # noqa: S608 - no value is spliced in

# `orders_status_not_executed_ix` holds these alone.
OPEN_ORDERS = """
SELECT mode, status, count(*) AS orders,
       extract(epoch FROM clock_timestamp() - min(update_time))::float8 AS oldest
FROM orders WHERE status IN ('PENDING', 'UNKNOWN') AND twin_of IS NULL
GROUP BY mode, status
"""

# One row, whether or not there was ever a comparison, or a halt.
WHOLE = """
SELECT coalesce((SELECT halted FROM portfolio_state), false) AS halted,
       extract(epoch FROM account.time)::float8 AS compared,
       (account.cash - account.strategies_cash)::float8 AS unallocated
FROM (SELECT 1) AS one LEFT JOIN broker_account account ON true
"""

RESERVE = "SELECT mode, cash::float8 AS cash FROM books WHERE strategy_name = 'RESERVE'"

# Who may not see all of it sees how many there are.
STANDBYS = """
SELECT count(*) AS standbys, current_setting('synchronous_standby_names') <> '' AS waited_for,
       max(CASE WHEN state IS NOT NULL
                THEN coalesce(extract(epoch FROM replay_lag), 0) END)::float8 AS lag
FROM pg_stat_replication
"""


class PostgresFigures:
    """Reads from PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def reading(self) -> Reading:
        """The ledger, one figure a moment after another.

        Raises:
            UnavailableError: The database is away.
        """
        async with self._database.hot() as connection:
            began = time.perf_counter()
            await connection.fetchval("SELECT 1")
            ping_s = time.perf_counter() - began
            strategies = [_strategy(row) for row in await connection.fetch(STRATEGIES)]
            whole = await connection.fetchrow(WHOLE)
            reserve = await connection.fetch(RESERVE)
            open_orders = await connection.fetch(OPEN_ORDERS)
            standbys = await _standbys(connection)
        assert whole is not None  # noqa: S101 - it is one row
        return Reading(
            strategies,
            whole["halted"],
            {Mode(row["mode"]): row["cash"] for row in reserve},
            {(Mode(row["mode"]), Status(row["status"])): row["orders"] for row in open_orders},
            max((row["oldest"] for row in open_orders if row["status"] == "UNKNOWN"), default=0.0),
            whole["compared"],
            whole["unallocated"],
            standbys,
            ping_s,
        )

    def connections(self) -> Connections:
        """The pool's connections."""
        pool = self._database.pool
        idle = pool.get_idle_size()
        return Connections(pool.get_size() - idle, idle)


def _strategy(row: Row) -> StrategyFigures:
    return StrategyFigures(
        row["strategy_name"],
        Mode(row["mode"]),
        row["halted"],
        row["silent"],
        row["cash"],
        row["equity"],
        row["seen"],
        row["max_drawdown"],
        row["number"],
        row["growth"],
    )


async def _standbys(connection: PooledConnection) -> Standbys | None:
    try:
        row = await connection.fetchrow(STANDBYS)
    except (
        asyncpg.UndefinedTableError,
        asyncpg.UndefinedColumnError,
        asyncpg.UndefinedObjectError,
    ):
        return None  # an engine that replicates in a way of its own
    assert row is not None  # noqa: S101 - it is one row
    return Standbys(row["standbys"], row["waited_for"], row["lag"])

"""Reads for reviews, on PostgreSQL."""

from collections.abc import Collection, Sequence
from datetime import datetime
from uuid import UUID

from services.portfolio.analysis.statistics import Day, possible_growth
from services.portfolio.domain.book import RequestedMode
from services.portfolio.domain.order import Mode
from services.portfolio.domain.promotion import Decision
from services.portfolio.promotion.ports import MOST_CLOSES, MOST_TRADES, Footing, Record
from services.portfolio.storage.database import Database
from services.portfolio.storage.ledger import first_id, strategy_of
from services.portfolio.storage.rows import Row, decision_of

FOOTINGS = """
SELECT s.strategy_name, s.requested_mode, s.mode, s.promoted, s.session,
       b.reserved_cash = 0 AND NOT EXISTS (
           SELECT FROM positions p
           WHERE p.strategy_name = s.strategy_name AND p.mode = s.mode
             AND (p.quantity > 0 OR p.reserved_quantity > 0)
       ) AS is_flat,
       EXISTS (
           SELECT FROM books l WHERE l.strategy_name = s.strategy_name AND l.mode = 'LIVE'
       ) AS has_live_book
FROM strategies s JOIN books b USING (strategy_name, mode)
WHERE s.strategy_name <> 'RESERVE' AND ($1::text[] IS NULL OR s.strategy_name = ANY($1))
ORDER BY s.strategy_name
"""

# A strategy, and since when it counts: since it went LIVE, or since it came back from there. That
# TRADING_MODE was PAPER for a while does not count as coming back.
STRATEGY = """
SELECT s.*, (SELECT max(time) FROM marks m WHERE m.strategy_name = s.strategy_name) AS price_time,
       CASE WHEN s.mode = 'LIVE' THEN s.live_since ELSE (
           SELECT time FROM decisions d
           WHERE d.strategy_name = s.strategy_name AND d.outcome = 'CHANGED'
             AND d.to_mode = 'PAPER' AND d.rule <> 'trading_mode'
           ORDER BY d.decision_id DESC LIMIT 1
       ) END AS since
FROM strategies s WHERE s.strategy_name = $1 AND s.strategy_name <> 'RESERVE'
"""

CLOSES = """
SELECT number, session, growth::float8 AS growth, (cash + positions_value)::float8 AS equity,
       positions_value::float8 AS positions_value
FROM valuations
WHERE strategy_name = $1 AND mode = $2 AND kind = 'CLOSE'
  AND ($3::timestamptz IS NULL OR time >= $3)
ORDER BY session DESC LIMIT $4
"""

# The growth that the first of the closes is measured by: at the close before it, or as it was at
# the last valuation before it all began.
GROWTH_BEFORE = """
SELECT growth::float8 FROM valuations
WHERE strategy_name = $1 AND mode = $2 AND number < $3 AND (kind = 'CLOSE' OR time < $4)
ORDER BY number DESC LIMIT 1
"""

# Orders that were filled, but no more than are asked for: a book may have millions.
TRADES = """
SELECT count(*) FROM (
    SELECT FROM orders
    WHERE strategy_name = $1 AND mode = $2 AND filled_quantity > 0 AND order_id >= $3
    ORDER BY order_id DESC LIMIT $4
) newest
"""

DECISIONS = """
SELECT * FROM decisions WHERE decision_id < $1 ORDER BY decision_id DESC LIMIT $2
"""

DECISIONS_OF = """
SELECT * FROM decisions WHERE strategy_name = $3 AND decision_id < $1
ORDER BY decision_id DESC LIMIT $2
"""

FIRST, LAST = UUID(int=0), UUID(int=(1 << 128) - 1)  # all ids are between these


class PostgresPromotionReads:
    """Reads from PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def footings(self, names: Collection[str] | None = None) -> list[Footing]:
        """Strategies by name; all of them unless named. Without the reserve."""
        async with self._database.hot() as connection:
            rows = await connection.fetch(FOOTINGS, None if names is None else list(names))
        return [
            Footing(name, RequestedMode(requested), Mode(mode), *more)
            for name, requested, mode, *more in rows
        ]

    async def record(self, strategy_name: str) -> Record | None:
        """What a strategy has done; None when there is none of this name."""
        async with (
            self._database.hot() as connection,
            # One moment: the closes are of the mode that the strategy has.
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            row = await connection.fetchrow(STRATEGY, strategy_name)
            if row is None:
                return None
            book = (strategy_name, row["mode"])
            since: datetime | None = row["since"]
            closes = await connection.fetch(CLOSES, *book, since, MOST_CLOSES)
            base = None
            if closes:
                first = closes[-1]["number"]
                base = await connection.fetchval(GROWTH_BEFORE, *book, first, since)
            first_order = first_id(since) if since else FIRST
            trades: int = await connection.fetchval(TRADES, *book, first_order, MOST_TRADES)
            last = await connection.fetchrow(DECISIONS_OF, LAST, 1, strategy_name)
        strategy = strategy_of(row)
        last_decision = None if last is None else decision_of(last)
        return Record(strategy, last_decision, _days(closes, base), trades, row["price_time"])

    async def decisions(
        self, strategy_name: str | None, before: UUID | None, limit: int
    ) -> list[Decision]:
        """The newest decisions older than `before`, newest first; of all unless named."""
        async with self._database.hot() as connection:
            page = (before or LAST, limit)
            if strategy_name is None:
                rows = await connection.fetch(DECISIONS, *page)
            else:
                rows = await connection.fetch(DECISIONS_OF, *page, strategy_name)
        return [decision_of(row) for row in rows]


def _days(newest_first: Sequence[Row], base: float | None) -> list[Day]:
    """The closes as days of a curve of its own, oldest first."""
    return [
        Day(
            row["session"],
            possible_growth(row["growth"] / (base or 1.0)),
            row["equity"],
            row["positions_value"] / row["equity"] if row["equity"] else 0.0,
        )
        for row in reversed(newest_first)
    ]

"""Reads of risk control: how strategies stand, what growth is judged by, limits and events."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import select

from services.portfolio.domain.book import State
from services.portfolio.domain.order import Mode
from services.portfolio.domain.risk import (
    ONE,
    Heights,
    Part,
    RiskEvent,
    RiskEventKind,
    Step,
    StrategyLimits,
    Whole,
    heights_of_whole,
)
from services.portfolio.ports import BookKey
from services.portfolio.risk.ports import Standing, WholeHeights
from services.portfolio.storage.database import Database, translated
from services.portfolio.storage.rows import Row, limits_of, valuation_of, whole_of
from services.portfolio.storage.statements import MARKET_PRICE, WHOLE
from services.portfolio.storage.tables import risk_events

HALTING = "limits ->> 'max_drawdown' IS NOT NULL OR limits ->> 'max_daily_loss' IS NOT NULL"

# Strategies that are to be looked at: with what they are worth, and their books' last valuations.
STANDINGS = f"""
SELECT s.strategy_name, s.mode, s.state, s.portfolio_halted, s.limits, s.silent, s.flattening,
       (SELECT max(time) FROM marks seen WHERE seen.strategy_name = s.strategy_name) AS seen_time,
       b.cash + coalesce(held.value, 0) AS equity,
       v.number, v.session, v.kind, v.book_version, v.cash, v.positions_value, v.flow, v.growth,
       v.time
FROM strategies s JOIN books b USING (strategy_name, mode)
CROSS JOIN LATERAL (
    SELECT sum(round(p.quantity * {MARKET_PRICE}, 8)) AS value
    FROM positions p LEFT JOIN marks m USING (strategy_name, symbol)
    WHERE p.strategy_name = s.strategy_name AND p.mode = s.mode AND p.quantity > 0
) held
LEFT JOIN LATERAL (
    SELECT * FROM valuations own
    WHERE own.strategy_name = s.strategy_name AND own.mode = s.mode
    ORDER BY own.number DESC LIMIT 1
) v ON true
WHERE s.strategy_name <> 'RESERVE' AND (
    s.silent OR s.flattening OR s.limits ->> 'lease_s' IS NOT NULL
    OR s.limits ->> 'max_drawdown' IS NOT NULL OR s.limits ->> 'max_daily_loss' IS NOT NULL
    OR (SELECT {HALTING} FROM portfolio_state)
)
ORDER BY s.strategy_name
"""  # noqa: S608 - no value is spliced in

# The highest growth of each book, and the growth at its last close, since its strategy was resumed:
# a resume values the book, with which they begin anew.
HEIGHTS = """
SELECT k.strategy_name, k.mode, v.*, r.begun IS NOT NULL AS resumed
FROM unnest($1::text[], $2::text[]) AS k (strategy_name, mode)
CROSS JOIN LATERAL (
    SELECT max(time) AS begun FROM risk_events e
    WHERE e.strategy_name = k.strategy_name AND e.kind = 'RESUME'
) r
CROSS JOIN LATERAL (
    SELECT max(number) AS number, max(growth) AS high,
           (array_agg(growth ORDER BY number))[1] AS first,
           (array_agg(growth ORDER BY number DESC) FILTER (WHERE kind = 'CLOSE'))[1] AS close
    FROM valuations own
    WHERE own.strategy_name = k.strategy_name AND own.mode = k.mode
      AND own.time >= coalesce(r.begun, '-infinity')
) v
WHERE v.number IS NOT NULL
"""

# The valuations of all books in force are parted at each close, and at the resume with which the
# heights begin. A part is worth its first row, and what came or left in it: the sum of the flows
# until the next part begins, which two running sums tell. First come the sessions with what their
# closes did, then the last part of each book.
HEIGHTS_OF_WHOLE = """
WITH begun AS (
    SELECT max(time) AS time FROM risk_events WHERE strategy_name = '' AND kind = 'RESUME'
), valued AS (
    SELECT v.strategy_name, v.mode, v.number, v.session, v.growth AS close,
           v.cash + v.positions_value AS equity,
           v.kind = 'CLOSE' OR v.time = begun.time OR row_number() OVER own = 1 AS parts,
           sum(v.flow) OVER own - v.flow AS flows_before,
           sum(v.flow) OVER whole_book AS flows, last_value(v.number) OVER whole_book AS last
    FROM begun, strategies s JOIN valuations v USING (strategy_name, mode)
    WHERE s.strategy_name <> 'RESERVE' AND v.time >= coalesce(begun.time, '-infinity')
    WINDOW own AS (PARTITION BY v.strategy_name, v.mode ORDER BY v.number),
           whole_book AS (own ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING)
), parts AS (
    SELECT strategy_name, mode, last AS number, session, close,
           greatest(equity + lead(flows_before, 1, flows) OVER own - flows_before, 0) AS base,
           row_number() OVER own AS place, lead(number) OVER own AS next
    FROM valued WHERE parts
    WINDOW own AS (PARTITION BY strategy_name, mode ORDER BY number)
), steps AS (
    SELECT *, lag(base) OVER own AS base_before, lag(close) OVER own AS close_before
    FROM parts WINDOW own AS (PARTITION BY strategy_name, mode ORDER BY place)
)
SELECT NULL AS strategy_name, NULL AS mode, NULL AS number, NULL AS base, NULL AS close, session,
       sum(base_before * coalesce(close / nullif(close_before, 0) - 1, 0)) AS gained,
       sum(CASE WHEN place = 2 THEN base_before ELSE 0 END) AS entered,
       sum(base - base_before) AS changed
FROM steps WHERE place > 1 GROUP BY session
UNION ALL
SELECT strategy_name, mode, number, base, close, NULL, NULL, NULL, NULL
FROM steps WHERE next IS NULL
ORDER BY session NULLS LAST
"""

LIMITS = """
SELECT '' AS strategy_name, limits FROM portfolio_state
UNION ALL
SELECT strategy_name, limits FROM strategies WHERE strategy_name <> 'RESERVE'
ORDER BY strategy_name
"""


class PostgresRiskReads:
    """Reads from PostgreSQL. Raises UnavailableError when it is away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def standings(self) -> tuple[Whole, Sequence[Standing]]:
        """The whole, and the strategies that are to be looked at, by name."""
        async with self._database.hot() as connection:
            whole = whole_of(await connection.fetchrow(WHOLE))
            rows = await connection.fetch(STANDINGS)
        return whole, [_standing(row) for row in rows]

    async def heights(self, books: Collection[BookKey]) -> Mapping[BookKey, tuple[int, Heights]]:
        """The heights of these books, as of which valuation; those never valued are left out."""
        async with self._database.hot() as connection:
            rows = await connection.fetch(
                HEIGHTS, [name for name, _ in books], [mode.value for _, mode in books]
            )
        return {
            (row["strategy_name"], Mode(row["mode"])): (row["number"], _heights(row))
            for row in rows
        }

    async def heights_of_whole(self) -> WholeHeights:
        """The heights of the whole, of all books in force; they begin with its last resume."""
        async with self._database.hot() as connection:
            rows = await connection.fetch(HEIGHTS_OF_WHOLE)
        steps = [
            Step(row["gained"], row["entered"], row["changed"])
            for row in rows
            if row["strategy_name"] is None
        ]
        parts = {
            (row["strategy_name"], Mode(row["mode"])): Part(
                row["number"], row["base"], row["close"]
            )
            for row in rows
            if row["strategy_name"] is not None
        }
        return WholeHeights(heights_of_whole(steps), parts)

    async def limits(self) -> Sequence[StrategyLimits]:
        """The limits of the whole, then of every strategy by name."""
        async with self._database.hot() as connection:
            rows = await connection.fetch(LIMITS)
        found = [StrategyLimits(row["strategy_name"], limits_of(row["limits"])) for row in rows]
        if not found or found[0].strategy_name:
            found.insert(0, StrategyLimits("", limits_of(None)))
        return found

    async def events(
        self, strategy_name: str | None, before: UUID | None, limit: int
    ) -> Sequence[RiskEvent]:
        """The newest events older than `before`, newest first; of one strategy, or all."""
        query = select(risk_events).order_by(risk_events.c.event_id.desc()).limit(limit)
        if strategy_name is not None:
            query = query.where(risk_events.c.strategy_name == strategy_name)
        if before is not None:
            query = query.where(risk_events.c.event_id < before)
        with translated():
            async with self._database.engine.connect() as connection:
                rows = (await connection.execute(query)).mappings().all()
        return [
            RiskEvent(
                row["event_id"],
                row["strategy_name"],
                RiskEventKind(row["kind"]),
                row["reason"],
                row["actor"],
                row["time"],
            )
            for row in rows
        ]


def _standing(row: Row) -> Standing:
    seen_time: datetime | None = row["seen_time"]
    return Standing(
        row["strategy_name"],
        Mode(row["mode"]),
        limits_of(row["limits"]),
        row["portfolio_halted"] or State(row["state"]) is State.HALTED,
        row["silent"],
        row["flattening"],
        seen_time,
        row["equity"],
        None if row["number"] is None else valuation_of(row),
    )


def _heights(row: Row) -> Heights:
    if row["resumed"]:
        return Heights(row["high"], row["first"] if row["close"] is None else row["close"])
    return Heights(max(row["high"], ONE), ONE if row["close"] is None else row["close"])

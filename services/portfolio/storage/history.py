"""Reads of the equity history: windows over valuations, so that a page is all that leaves SQL."""

import asyncio
from bisect import bisect_left
from collections.abc import Sequence
from datetime import date, datetime
from decimal import Decimal

from services.portfolio.domain.money import ZERO
from services.portfolio.domain.order import Mode
from services.portfolio.domain.valuation import ONE, growth_of
from services.portfolio.history.ports import Close, Reality, Trades
from services.portfolio.ports import BookKey
from services.portfolio.storage.database import Database
from services.portfolio.storage.rows import Row, valuation_of

STRATEGY = """
SELECT mode, live_since FROM strategies WHERE strategy_name = $1 AND strategy_name <> 'RESERVE'
"""

# What flowed in all, at each valuation. What a book was worth when it was first valued flowed in
# before that: nothing, but for books that are older than valuations.
_FLOWED = "sum(flow + CASE WHEN number = 1 THEN cash + positions_value ELSE 0 END)"

CLOSES = f"""
WITH facts AS (
    SELECT number, kind, session, cash, positions_value, growth,
           {_FLOWED} OVER (ORDER BY number) AS flowed
    FROM valuations WHERE strategy_name = $1 AND mode = $2
), closes AS (
    SELECT session, cash, positions_value,
           flowed - coalesce(lag(flowed) OVER earlier, 0) AS flow,
           growth::float8 AS growth,
           coalesce(lag(growth) OVER earlier, 1)::float8 AS growth_before,
           greatest(max(growth) OVER earlier, 1)::float8 AS highest_growth
    FROM facts WHERE kind = 'CLOSE'
    WINDOW earlier AS (ORDER BY number)
)
SELECT * FROM closes WHERE $3::date IS NULL OR session < $3 ORDER BY session DESC LIMIT $4
"""  # noqa: S608 - no value is spliced in

# Each close brings what its book has more, or less, than at its close before: summed up, that is
# the whole, with everyone who did not close counted as before. `base` is what the gain is made on:
# the whole before, and what flowed since. A base of nothing gains nothing; once all is lost, growth
# stays 0. The chain of returns is a sum of logarithms.
CLOSES_OF_ALL = """
WITH shown AS (
    SELECT strategy_name, coalesce($1, mode) AS mode FROM strategies
    WHERE strategy_name <> 'RESERVE'
), flows AS (
    SELECT strategy_name, next.number,
           sum(flow + CASE WHEN v.number = 1 THEN cash + positions_value ELSE 0 END) AS flow
    FROM valuations v JOIN shown USING (strategy_name, mode)
    CROSS JOIN LATERAL (
        SELECT number FROM valuations later
        WHERE later.strategy_name = v.strategy_name AND later.mode = v.mode
              AND later.number >= v.number AND kind = 'CLOSE'
        ORDER BY number LIMIT 1
    ) AS next
    WHERE kind = 'FLOW' OR v.number = 1
    GROUP BY strategy_name, next.number
), closes AS (
    SELECT strategy_name, number, session, cash, positions_value, growth::float8 AS growth,
           lag(cash, 1, 0::numeric) OVER book AS cash_before,
           lag(positions_value, 1, 0::numeric) OVER book AS value_before,
           lag(growth, 1, 1::numeric) OVER book AS growth_before
    FROM valuations JOIN shown USING (strategy_name, mode)
    WHERE kind = 'CLOSE'
    WINDOW book AS (PARTITION BY strategy_name ORDER BY number)
), days AS (
    SELECT session, sum(cash - cash_before) AS more_cash,
           sum(positions_value - value_before) AS more_value, coalesce(sum(flow), 0) AS flow,
           sum((cash_before + value_before + coalesce(flow, 0))::float8
               * (growth / growth_before::float8 - 1)) FILTER (WHERE growth_before > 0) AS gain
    FROM closes LEFT JOIN flows USING (strategy_name, number)
    GROUP BY session
), whole AS (
    SELECT session, flow, gain,
           sum(more_cash) OVER until AS cash, sum(more_value) OVER until AS positions_value,
           (sum(more_cash + more_value) OVER until - more_cash - more_value + flow)::float8 AS base
    FROM days
    WINDOW until AS (ORDER BY session)
), factors AS (
    SELECT *, CASE WHEN base > 0 THEN greatest(1 + coalesce(gain, 0) / base, 0) ELSE 1 END AS factor
    FROM whole
), grown AS (
    SELECT *, CASE WHEN min(factor) OVER until = 0 THEN 0
                   ELSE exp(sum(ln(nullif(factor, 0))) OVER until) END AS growth
    FROM factors
    WINDOW until AS (ORDER BY session)
), curve AS (
    SELECT session, cash, positions_value, flow, growth,
           coalesce(lag(growth) OVER until, 1) AS growth_before,
           greatest(max(growth) OVER until, 1) AS highest_growth
    FROM grown
    WINDOW until AS (ORDER BY session)
)
SELECT * FROM curve ORDER BY session DESC
"""

# A close comes with a new session of its strategy, and never else: while these stay, so does the
# whole.
SESSIONS = """
SELECT md5(string_agg(concat_ws(' ', strategy_name, mode, session), ',' ORDER BY strategy_name))
FROM strategies
"""

# Orders hold the sums of their fills; the audit sees to that.
TRADES = """
SELECT coalesce(sum(filled_value), 0) AS value,
       count(*) FILTER (WHERE filled_quantity > 0) AS orders,
       coalesce(sum(commission), 0) AS commission,
       coalesce(sum((filled_value - filled_quantity * price)
                    * CASE side WHEN 'BUY' THEN 1 ELSE -1 END), 0) AS slippage
FROM orders o JOIN strategies s USING (strategy_name)
WHERE o.mode = coalesce($2, s.mode) AND ($1::text IS NULL OR strategy_name = $1)
"""

# Each book at a moment when it was flat: its last valuation until then, and its cash.
BOOKS_AT = """
SELECT b.mode AS book_mode, last.*,
       (SELECT coalesce(sum(amount), 0) FROM cash_entries c
        WHERE c.strategy_name = b.strategy_name AND c.mode = b.mode AND c.time <= $2) AS cash_then
FROM books b
LEFT JOIN LATERAL (
    SELECT * FROM valuations v
    WHERE v.strategy_name = b.strategy_name AND v.mode = b.mode AND v.time <= $2
    ORDER BY number DESC LIMIT 1
) last ON true
WHERE b.strategy_name = $1
"""

# The growth of both books at the last session that both closed since then, and how many there are.
CLOSED_BY_BOTH = """
SELECT live.growth AS live, paper.growth AS paper, count(*) OVER () AS days
FROM valuations live JOIN valuations paper USING (strategy_name, session)
WHERE strategy_name = $1 AND live.time > $2 AND paper.time > $2
      AND live.mode = 'LIVE' AND paper.mode = 'PAPER'
      AND live.kind = 'CLOSE' AND paper.kind = 'CLOSE'
ORDER BY session DESC LIMIT 1
"""


class PostgresHistory:
    """Reads the equity history from PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._database = database
        # The whole by mode, newest first, and the sessions it was read at: of 1,000 strategies over
        # five years it takes PostgreSQL 3 s, and a page of it is asked for again and again.
        self._whole: dict[Mode | None, tuple[str, list[Close]]] = {}
        self._reading = asyncio.Lock()

    async def strategy(self, name: str) -> tuple[Mode, datetime | None] | None:
        """A strategy's mode in force, and when it last went LIVE; None: there is no such one."""
        rows = await self._fetch(STRATEGY, name)
        return (Mode(rows[0]["mode"]), rows[0]["live_since"]) if rows else None

    async def closes(self, book: BookKey, before: date | None, limit: int | None) -> list[Close]:
        """The newest closes of a book before a session, newest first."""
        return [_close(row) for row in await self._fetch(CLOSES, *book, before, limit)]

    async def closes_of_all(
        self, mode: Mode | None, before: date | None, limit: int | None
    ) -> list[Close]:
        """The newest closes of the whole, newest first."""
        async with self._reading:
            sessions = (await self._fetch(SESSIONS))[0]["md5"]
            known = self._whole.get(mode)
            if known is None or known[0] != sessions:
                closes = [_close(row) for row in await self._fetch(CLOSES_OF_ALL, mode)]
                known = self._whole[mode] = (sessions, closes)
        start = 0
        if before is not None:
            start = bisect_left(known[1], True, key=lambda close: close.session < before)
        return known[1][start:][:limit]

    async def trades(self, strategy_name: str | None, mode: Mode | None) -> Trades:
        """What was traded, by one strategy or by all, in this mode or in those in force."""
        (row,) = await self._fetch(TRADES, strategy_name, mode)
        return Trades(row["value"], row["orders"], row["commission"], row["slippage"])

    async def reality(self, strategy_name: str, since: datetime) -> Reality:
        """What both books of a strategy have returned since a moment when both were flat."""
        began = {
            Mode(row["book_mode"]): _growth_then(row)
            for row in await self._fetch(BOOKS_AT, strategy_name, since)
        }
        rows = await self._fetch(CLOSED_BY_BOTH, strategy_name, since)
        if not rows:
            return Reality(since, 0, 0.0, 0.0)
        return Reality(
            since,
            rows[0]["days"],
            return_between(began[Mode.LIVE], rows[0]["live"]),
            return_between(began[Mode.PAPER], rows[0]["paper"]),
        )

    async def _fetch(self, query: str, *values: object) -> Sequence[Row]:
        async with self._database.hot() as connection:
            rows: Sequence[Row] = await connection.fetch(query, *values)
            return rows


def return_between(before: Decimal, after: Decimal) -> float:
    """The return from one growth to another; 0 once all was lost."""
    return float(after / before - 1) if before > ZERO else 0.0


def _close(row: Row) -> Close:
    return Close(
        row["session"],
        row["cash"],
        row["positions_value"],
        row["flow"],
        row["growth"],
        row["growth_before"],
        row["highest_growth"],
    )


def _growth_then(row: Row) -> Decimal:
    """A flat book's growth at a moment: cash is all its equity."""
    return ONE if row["number"] is None else growth_of(valuation_of(row), row["cash_then"])

"""Equity curves: the growth of books from close to close, as one matrix for many of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TypeAlias

import asyncpg
import numpy as np
import numpy.typing as npt

from services.portfolio.domain.order import Mode

Matrix = npt.NDArray[np.float64]
Days = npt.NDArray[np.int64]
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

EPOCH = date(2000, 1, 1)

# Of each book its newest closes by the index, one more than wanted: the growth before the first.
# Arrays of doubles: a million rows would be a million objects.
CLOSES = """
SELECT name, closes.days, closes.growths
FROM unnest($2::text[]) AS name
CROSS JOIN LATERAL (
    SELECT array_agg(day ORDER BY day) AS days, array_agg(growth ORDER BY day) AS growths
    FROM (
        SELECT session - $4::date AS day, growth::float8 AS growth
        FROM valuations
        WHERE strategy_name = name AND mode = $1 AND kind = 'CLOSE'
        ORDER BY session DESC
        LIMIT $3
    ) AS newest
) AS closes
WHERE closes.days IS NOT NULL
"""


@dataclass(frozen=True, slots=True)
class Curves:
    """Time-weighted growth of N books over T sessions.

    Row 0 of `growth` is before the first session, row t + 1 at the close of sessions[t]. A book
    begins with 1 one row before its first close; earlier there is NaN. A session that a book has
    no close of carries its growth on.
    """

    names: tuple[str, ...]
    sessions: tuple[date, ...]
    growth: Matrix  # (T + 1, N)

    @property
    def returns(self) -> Matrix:
        """Simple returns (T, N) of the sessions; NaN before a book's first."""
        with np.errstate(divide="ignore", invalid="ignore"):
            returns: Matrix = self.growth[1:] / self.growth[:-1] - 1
        # Growth that came down to 0 (all was lost) stays there: what follows is no return at all.
        returns[self.growth[:-1] == 0] = 0.0
        return returns


async def read_curves(
    connection: Connection,
    mode: Mode,
    names: Sequence[str],
    lookback_days: int,
) -> Curves:
    """Reads the curves of these books over the last `lookback_days` sessions any of them closed."""
    rows = await connection.fetch(CLOSES, mode, list(names), lookback_days + 1, EPOCH)
    closes = {
        row["name"]: (np.array(row["days"], np.int64), np.array(row["growths"], np.float64))
        for row in rows
    }
    every = np.unique(np.concatenate([days for days, _ in closes.values()] or [np.zeros(0, int)]))
    sessions = every[-lookback_days:]
    growth = np.full((len(sessions) + 1, len(names)), np.nan)
    for column, name in enumerate(names):
        if name in closes:
            growth[:, column] = _carried(sessions, *closes[name])
    return Curves(tuple(names), tuple(EPOCH + timedelta(days=int(day)) for day in sessions), growth)


def _carried(sessions: Days, days: Days, growths: Matrix) -> Matrix:
    """One book's growth (T + 1,) before the sessions and at the close of each."""
    newest = np.searchsorted(days, sessions, side="right") - 1  # -1: before its first close
    before = np.searchsorted(days, sessions[:1], side="left") - 1
    places = np.concatenate([before, newest])
    growth = np.where(places >= 0, growths[places], np.nan)
    first = int(np.argmax(places >= 0))
    if first > 0:
        growth[first - 1] = 1.0
    return growth

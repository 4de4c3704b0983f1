"""What the equity history needs of storage."""

from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Protocol

from services.portfolio.domain.order import Mode
from services.portfolio.ports import BookKey


@dataclass(frozen=True, slots=True)
class Close:
    """A book, or the whole, at the end of a session, in USD; growth is of 1 USD.

    Money is exact. Growth is a float: it is a result, and nothing is booked from it.
    """

    session: date
    cash: Decimal
    positions_value: Decimal
    flow: Decimal  # what came (above 0) or left since the close before; all of it at the first
    growth: float
    growth_before: float  # at the close before; 1 at the first
    highest_growth: float  # until now, and at least 1

    @property
    def equity(self) -> Decimal:
        """Cash and positions together."""
        return self.cash + self.positions_value

    @property
    def daily_return(self) -> float:
        """The time-weighted return since the close before; 0 once all is lost."""
        return self.growth / self.growth_before - 1 if self.growth_before > 0 else 0.0

    @property
    def drawdown(self) -> float:
        """How far growth is below its highest; 0 to 1."""
        return min(1 - self.growth / self.highest_growth, 1.0)


@dataclass(frozen=True, slots=True)
class Trades:
    """What was traded in all, in USD, corrections included."""

    value: Decimal  # purchases and sales together
    orders: int  # filled in whole or in part
    commission: Decimal
    slippage: Decimal  # what fills were worse than the prices seen; below 0 when better


@dataclass(frozen=True, slots=True)
class Reality:
    """A LIVE book beside its paper twin, since the strategy last went LIVE."""

    since: datetime
    days: int  # sessions that both were closed at
    live_return: float
    paper_return: float


class HistoryReads(Protocol):
    """Reads valuations and trades. Raises UnavailableError when the database is away."""

    async def strategy(self, name: str) -> tuple[Mode, datetime | None] | None:
        """A strategy's mode in force, and when it last went LIVE; None: there is no such one."""

    async def closes(self, book: BookKey, before: date | None, limit: int | None) -> list[Close]:
        """The newest closes of a book before a session, newest first."""

    async def closes_of_all(
        self, mode: Mode | None, before: date | None, limit: int | None
    ) -> list[Close]:
        """The newest closes of the whole, newest first: of every book in this mode.

        None: of each strategy the book in force. Who has no close of a session counts with the one
        before. The return is that of the books, each weighted by its equity at its close before and
        what flowed since, so that what moves from one to another is no gain.
        """

    async def trades(self, strategy_name: str | None, mode: Mode | None) -> Trades:
        """What was traded, by one strategy or by all, in this mode or in those in force."""

    async def reality(self, strategy_name: str, since: datetime) -> Reality:
        """What both books of a strategy have returned since a moment when both were flat."""

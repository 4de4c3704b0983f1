"""The equity history as callers ask for it: closes by page, and the figures of the whole curve."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime

from services.portfolio.analysis.statistics import (
    Day,
    Performance,
    Trading,
    performance,
    possible_growth,
)
from services.portfolio.domain.errors import StrategyNotFoundError
from services.portfolio.domain.order import Mode
from services.portfolio.history.ports import Close, HistoryReads, Reality


@dataclass(frozen=True, slots=True)
class Report:
    """How a book, or the whole, has done."""

    mode: Mode | None  # None: of each strategy the book in force
    performance: Performance
    reality: Reality | None  # only of a strategy that is LIVE


class History:
    """Answers questions about the past."""

    def __init__(self, reads: HistoryReads) -> None:
        self._reads = reads

    async def closes(
        self, strategy_name: str, mode: Mode | None, before: date | None, limit: int | None
    ) -> Sequence[Close]:
        """The newest closes before a session, newest first; of the whole without a name.

        Without a mode: of the book in force. Without a limit: all of them.

        Raises:
            StrategyNotFoundError: There is none of this name.
        """
        if not strategy_name:
            return await self._reads.closes_of_all(mode, before, limit)
        mode = mode or (await self._strategy(strategy_name))[0]
        return await self._reads.closes((strategy_name, mode), before, limit)

    async def report(self, strategy_name: str, mode: Mode | None) -> Report:
        """The figures of all closes, and of all that was traded; of the whole without a name.

        Raises:
            StrategyNotFoundError: There is none of this name.
        """
        reality = None
        if strategy_name:
            in_force, live_since = await self._strategy(strategy_name)
            mode = mode or in_force
            closes = await self._reads.closes((strategy_name, mode), None, None)
            if in_force is Mode.LIVE and live_since is not None:
                reality = await self._reads.reality(strategy_name, live_since)
        else:
            closes = await self._reads.closes_of_all(mode, None, None)
        trades = await self._reads.trades(strategy_name or None, mode)
        trading = Trading(
            float(trades.value), trades.orders, float(trades.commission), float(trades.slippage)
        )
        return Report(mode, performance(days_of(closes), trading), reality)

    async def _strategy(self, name: str) -> tuple[Mode, datetime | None]:
        found = await self._reads.strategy(name)
        if found is None:
            raise StrategyNotFoundError(name)
        return found


def days_of(closes: Sequence[Close]) -> list[Day]:
    """Closes, newest first, as the statistics have them: oldest first.

    A LIVE book that owes more than it has counts as having lost all.
    """
    return [
        Day(
            close.session,
            possible_growth(close.growth),
            float(close.equity),
            float(close.positions_value / close.equity) if close.equity else 0.0,
        )
        for close in reversed(closes)
    ]

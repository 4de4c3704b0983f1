"""Reads for reviews, on a ledger in memory."""

from collections.abc import Collection, Sequence
from datetime import datetime
from uuid import UUID

from services.portfolio.analysis.statistics import Day, possible_growth
from services.portfolio.domain.book import Strategy
from services.portfolio.domain.capital import RESERVE
from services.portfolio.domain.order import Mode
from services.portfolio.domain.promotion import TRADING_MODE, Decision, Outcome
from services.portfolio.domain.valuation import Valuation, ValuationKind
from services.portfolio.promotion.ports import MOST_CLOSES, MOST_TRADES, Footing, Record
from services.portfolio.storage.memory import MemoryLedger


class MemoryPromotionReads:
    """Reads what a ledger in memory has committed."""

    def __init__(self, ledger: MemoryLedger) -> None:
        self._ledger = ledger

    async def footings(self, names: Collection[str] | None = None) -> list[Footing]:
        """Strategies by name; all of them unless named. Without the reserve."""
        tables = self._ledger.tables
        wanted = sorted(set(tables.strategies if names is None else names) - {RESERVE})
        return [
            Footing(
                name,
                strategy.requested_mode,
                strategy.mode,
                strategy.promoted,
                strategy.session,
                tables.book((name, strategy.mode)).is_flat,
                (name, Mode.LIVE) in tables.books,
            )
            for name in wanted
            if (strategy := tables.strategies.get(name)) is not None
        ]

    async def record(self, strategy_name: str) -> Record | None:
        """What a strategy has done; None when there is none of this name."""
        tables = self._ledger.tables
        strategy = tables.strategies.get(strategy_name)
        if strategy is None or strategy_name == RESERVE:
            return None
        decisions = await self.decisions(strategy_name, None, len(tables.decisions))
        since = _since(strategy, decisions)
        trades = sum(
            (order.strategy_name, order.mode) == (strategy_name, strategy.mode)
            and order.filled_quantity > 0
            and (since is None or order.create_time >= since)
            for order in tables.orders.values()
        )
        own = [
            valuation
            for (key, _), valuation in sorted(tables.valuations.items())
            if key == (strategy_name, strategy.mode)
        ]
        return Record(
            strategy,
            decisions[0] if decisions else None,
            _days(own, since),
            min(trades, MOST_TRADES),
            max(
                (mark.time for (name, _), mark in tables.marks.items() if name == strategy_name),
                default=None,
            ),
        )

    async def decisions(
        self, strategy_name: str | None, before: UUID | None, limit: int
    ) -> list[Decision]:
        """The newest decisions older than `before`, newest first; of all unless named."""
        found = [
            decision
            for decision_id, decision in sorted(self._ledger.tables.decisions.items(), reverse=True)
            if (before is None or decision_id < before)
            and strategy_name in (None, decision.strategy_name)
        ]
        return found[:limit]


def _since(strategy: Strategy, newest_first: Sequence[Decision]) -> datetime | None:
    """Since when it counts: since it went LIVE, or since it came back from there."""
    if strategy.mode is Mode.LIVE:
        return strategy.live_since
    came_back = (
        each.time
        for each in newest_first
        if (each.outcome, each.to_mode) == (Outcome.CHANGED, Mode.PAPER)
        and each.rule != TRADING_MODE
    )
    return next(came_back, None)


def _days(valuations: Sequence[Valuation], since: datetime | None) -> list[Day]:
    """The closes of a book as days of a curve of its own."""
    closes = [
        each
        for each in valuations
        if each.kind is ValuationKind.CLOSE and (since is None or each.time >= since)
    ][-MOST_CLOSES:]
    before = [
        float(each.growth)
        for each in valuations
        if closes
        and each.number < closes[0].number
        and (each.kind is ValuationKind.CLOSE or (since is not None and each.time < since))
    ]
    base = (before[-1] if before else 0) or 1.0
    return [
        Day(
            each.session,
            possible_growth(float(each.growth) / base),
            float(each.equity),
            float(each.positions_value) / float(each.equity) if each.equity else 0.0,
        )
        for each in closes
        if each.session is not None
    ]

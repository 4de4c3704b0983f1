"""What risk control reads, of a ledger in memory."""

from collections.abc import Collection, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from uuid import UUID

from services.portfolio.domain.book import Strategy
from services.portfolio.domain.capital import RESERVE
from services.portfolio.domain.money import EXACT, ZERO
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
from services.portfolio.domain.valuation import Valuation, ValuationKind
from services.portfolio.ports import BookKey
from services.portfolio.risk.ports import Standing, WholeHeights
from services.portfolio.storage.memory import MemoryLedger, Tables


class MemoryRiskReads:
    """Reads what a ledger in memory has committed."""

    def __init__(self, ledger: MemoryLedger) -> None:
        self._ledger = ledger

    async def standings(self) -> tuple[Whole, Sequence[Standing]]:
        """The whole, and the strategies that are to be looked at, by name."""
        tables = self._ledger.tables
        found = [
            _standing(tables, strategy)
            for strategy in _strategies(tables)
            if tables.whole.limits.may_halt
            or strategy.limits.may_halt
            or strategy.limits.lease_s is not None
            or strategy.silent
            or strategy.flattening
        ]
        return tables.whole, found

    async def heights(self, books: Collection[BookKey]) -> Mapping[BookKey, tuple[int, Heights]]:
        """The heights of these books, as of which valuation; those never valued are left out."""
        tables = self._ledger.tables
        found: dict[BookKey, tuple[int, Heights]] = {}
        for key in books:
            begun = _begun(tables, key[0])
            rows = _valuations(tables, key, begun)
            if rows:
                closes = [row.growth for row in rows if row.kind is ValuationKind.CLOSE]
                high = max(row.growth for row in rows)
                first = rows[0].growth if begun else ONE
                heights = Heights(
                    high if begun else max(high, ONE), closes[-1] if closes else first
                )
                found[key] = (rows[-1].number, heights)
        return found

    async def heights_of_whole(self) -> WholeHeights:
        """The heights of the whole, of all books in force; they begin with its last resume."""
        tables = self._ledger.tables
        begun = _begun(tables, "")
        sessions: dict[date | None, list[Step]] = {}
        last: dict[BookKey, Part] = {}
        for strategy in _strategies(tables):
            key = (strategy.name, strategy.mode)
            before: Part | None = None
            for place, (session, part) in enumerate(_parts(tables, key, begun)):
                if before is not None:
                    sessions.setdefault(session, []).append(_step(before, part, first=place == 1))
                before = last[key] = part
        ordered = sorted(sessions.items(), key=lambda each: (each[0] is None, each[0] or date.min))
        return WholeHeights(heights_of_whole(_sum(steps) for _, steps in ordered), last)

    async def limits(self) -> Sequence[StrategyLimits]:
        """The limits of the whole, then of every strategy by name."""
        tables = self._ledger.tables
        own = [StrategyLimits(each.name, each.limits) for each in _strategies(tables)]
        return [StrategyLimits("", tables.whole.limits), *own]

    async def events(
        self, strategy_name: str | None, before: UUID | None, limit: int
    ) -> Sequence[RiskEvent]:
        """The newest events older than `before`, newest first; of one strategy, or all."""
        found = [
            event
            for event_id, event in sorted(self._ledger.tables.risk_events.items(), reverse=True)
            if strategy_name in (None, event.strategy_name)
            and (before is None or event_id < before)
        ]
        return found[:limit]


def _strategies(tables: Tables) -> list[Strategy]:
    return [tables.strategies[name] for name in sorted(tables.strategies) if name != RESERVE]


def _standing(tables: Tables, strategy: Strategy) -> Standing:
    key = (strategy.name, strategy.mode)
    view = tables.portfolio_view(strategy.name)
    return Standing(
        *key,
        strategy.limits,
        strategy.is_halted,
        strategy.silent,
        strategy.flattening,
        view.seen_time,
        view.equity,
        tables.last_valuations([strategy.name]).get(key),
    )


def _begun(tables: Tables, name: str) -> datetime | None:
    """When the strategy, or without a name the whole, was last resumed."""
    resumes = [
        event.time
        for event in tables.risk_events.values()
        if event.strategy_name == name and event.kind is RiskEventKind.RESUME
    ]
    return max(resumes, default=None)


def _valuations(tables: Tables, key: BookKey, begun: datetime | None) -> list[Valuation]:
    """A book's valuations since then, in order."""
    own = [row for (owner, _), row in sorted(tables.valuations.items()) if owner == key]
    return [row for row in own if begun is None or row.time >= begun]


def _parts(tables: Tables, key: BookKey, begun: datetime | None) -> list[tuple[date | None, Part]]:
    """A book's valuations, parted at each close and where the whole began anew."""
    parts: list[list[Valuation]] = []
    for row in _valuations(tables, key, begun):
        if not parts or row.kind is ValuationKind.CLOSE or row.time == begun:
            parts.append([])
        parts[-1].append(row)
    return [
        (
            rows[0].session,
            Part(
                rows[-1].number,
                max(rows[0].equity + sum((row.flow for row in rows), ZERO), ZERO),
                rows[0].growth,
            ),
        )
        for rows in parts
    ]


def _step(before: Part, after: Part, *, first: bool) -> Step:
    ratio = EXACT.divide(after.close, before.close) if before.close else ONE
    gained = EXACT.multiply(before.base, ratio - ONE)
    return Step(gained, before.base if first else ZERO, after.base - before.base)


def _sum(steps: Sequence[Step]) -> Step:
    def total(amounts: list[Decimal]) -> Decimal:
        return sum(amounts, ZERO)

    return Step(
        total([step.gained for step in steps]),
        total([step.entered for step in steps]),
        total([step.changed for step in steps]),
    )

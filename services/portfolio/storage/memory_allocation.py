"""Reads of the allocation from a ledger in memory, for tests of what stands on them."""

from collections.abc import Sequence
from datetime import date
from uuid import UUID

from services.portfolio.domain.capital import RESERVE, AllocationPolicy, Plan
from services.portfolio.domain.money import ZERO
from services.portfolio.domain.order import Mode
from services.portfolio.domain.transfers import Purse, purse_of
from services.portfolio.domain.valuation import ValuationKind
from services.portfolio.storage.memory import MemoryLedger


class MemoryAllocationReads:
    """Reads what a ledger in memory has committed."""

    def __init__(self, ledger: MemoryLedger) -> None:
        self._ledger = ledger

    async def policy(self) -> AllocationPolicy:
        """The policy that is set; the default one before that."""
        return self._ledger.tables.policy or AllocationPolicy()

    async def purses(self, mode: Mode) -> Sequence[Purse]:
        """Books from which or to which anything is due, and the reserve's, by name."""
        tables = self._ledger.tables
        return [
            purse_of(tables.book(key), ZERO)
            for key, book in sorted(tables.books.items())
            if key[1] is mode and (book.due or key[0] == RESERVE)
        ]

    async def plans(self, before: UUID | None, limit: int) -> Sequence[Plan]:
        """The newest plans that were made before one, newest first."""
        plans = sorted(self._ledger.tables.plans.items(), reverse=True)
        return [plan for plan_id, plan in plans if before is None or plan_id < before][:limit]

    async def last_plan(self, mode: Mode) -> Plan | None:
        """The plan that was carried out last."""
        carried = [
            (plan.carry_out_time, plan)
            for plan in self._ledger.tables.plans.values()
            if plan.mode is mode and plan.carry_out_time is not None
        ]
        return max(carried, key=lambda pair: pair[0])[1] if carried else None

    async def newest_session(self) -> date | None:
        """The newest session that a strategy's prices are of."""
        strategies = self._ledger.tables.strategies.values()
        return max((each.session for each in strategies if each.session), default=None)

    async def closed_sessions(self, mode: Mode) -> tuple[date, date] | None:
        """The oldest and the newest closed session of any strategy in this mode."""
        tables = self._ledger.tables
        closed = [
            valuation.session
            for valuation in tables.valuations.values()
            if valuation.kind is ValuationKind.CLOSE
            and valuation.mode is mode
            and valuation.session is not None
            and tables.strategies[valuation.strategy_name].mode is mode
        ]
        return (min(closed), max(closed)) if closed else None

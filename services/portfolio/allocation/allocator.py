"""The allocator: makes plans and has them carried out; what the transport calls."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import cast
from uuid import UUID

from services.portfolio.allocation.commands import CarryOut, KeepPlan, NotMadeError, SetPolicy
from services.portfolio.allocation.planning import Holding, Standing, plan_of, request_of
from services.portfolio.allocation.ports import AllocationReads, Solver
from services.portfolio.domain.book import State
from services.portfolio.domain.capital import RESERVE, AllocationPolicy, Plan
from services.portfolio.domain.money import ZERO
from services.portfolio.domain.order import Mode
from services.portfolio.domain.transfers import Purse
from services.portfolio.live.ports import BrokerReads
from services.portfolio.ports import Clock, NewId, Reads
from services.portfolio.writer import Writer


@dataclass(frozen=True, slots=True)
class Allocation:
    """How the capital of a mode is shared, in USD."""

    policy: AllocationPolicy
    mode: Mode
    capital: Decimal
    reserve: Decimal
    holdings: tuple[Holding, ...]
    last_plan: Plan | None


@dataclass(frozen=True, slots=True)
class Rules:
    """What the allocator is composed of besides what it calls."""

    clock: Clock
    new_id: NewId
    trading_mode: Mode
    live_capital: Decimal  # the most that LIVE strategies share, in USD


class Allocator:
    """Shares the capital. Without a mode, that of TRADING_MODE is meant."""

    def __init__(
        self,
        writer: Writer,
        reads: Reads,
        books: AllocationReads,
        broker: BrokerReads,
        solver: Solver,
        rules: Rules,
    ) -> None:
        self._writer = writer
        self._reads = reads
        self._books = books
        self._broker = broker
        self._solver = solver
        self._rules = rules

    async def allocation(self, mode: Mode | None = None) -> Allocation:
        """How the capital is shared now."""
        standing = await self._standing(mode)
        return Allocation(
            await self._books.policy(),
            standing.mode,
            standing.total,
            standing.reserve.spare,
            standing.holdings(),
            await self._books.last_plan(standing.mode),
        )

    async def set_policy(self, policy: AllocationPolicy, request_id: str) -> Allocation:
        """Sets the policy, whole.

        Raises:
            RequestIdReusedError: The request_id belongs to another call.
        """
        since = await self._books.newest_session()
        await self._writer.submit(SetPolicy(policy, request_id, since))
        return await self.allocation()

    async def plan(self, policy: AllocationPolicy | None = None, mode: Mode | None = None) -> Plan:
        """Makes a plan by this policy, or by the one that is set, and keeps it. Moves nothing.

        Raises:
            UnavailableError: ALLOCATION_BUSY or ALLOCATION_FAILED.
        """
        if policy is None:
            policy = await self._books.policy()
        standing = await self._standing(mode)
        request = request_of(standing, policy)
        solution = await self._solver.solve(request) if request else None
        rules = self._rules
        plan = plan_of(standing, policy, solution, rules.new_id(), rules.clock())
        await self._writer.submit(KeepPlan(plan))
        return plan

    async def rebalance(
        self, plan_id: UUID | None = None, mode: Mode | None = None, request_id: str = ""
    ) -> Plan:
        """Carries out a plan, or makes one and carries it out.

        Raises:
            PlanNotFoundError: There is no such plan.
            PlanOutdatedError: It cannot be carried out any more.
            RequestIdReusedError: The request_id belongs to another call.
            UnavailableError: As plan().
        """
        asked = CarryOut(plan_id, mode, request_id)
        if plan_id is None:
            if request_id and (answered := await self._answered(asked)):
                return answered
            made = await self.plan(mode=mode)
            asked = CarryOut(None, mode, request_id, made.plan_id)
        return cast("Plan", await self._writer.submit(asked))

    async def may_give(self, mode: Mode) -> bool:
        """Whether there is a strategy in this mode that is not halted."""
        portfolios = await self._reads.portfolios()
        return any(each.mode is mode and each.state is State.ACTIVE for each in portfolios)

    async def plans(self, before: UUID | None, limit: int) -> Sequence[Plan]:
        """The newest plans that were made before one, newest first."""
        return await self._books.plans(before, limit)

    async def _answered(self, asked: CarryOut) -> Plan | None:
        """What this request_id was answered before; a plan is not made for nothing."""
        try:
            return cast("Plan", await self._writer.submit(asked))
        except NotMadeError:
            return None

    async def _standing(self, mode: Mode | None) -> Standing:
        mode = mode or self._rules.trading_mode
        portfolios = [each for each in await self._reads.portfolios() if each.mode is mode]
        purses = {purse.strategy_name: purse for purse in await self._books.purses(mode)}
        return Standing(
            mode,
            tuple(sorted(portfolios, key=lambda each: each.strategy_name)),
            purses.pop(RESERVE, Purse(RESERVE, ZERO, ZERO)),
            {name: purse.due for name, purse in purses.items()},
            await self._most(mode),
        )

    async def _most(self, mode: Mode) -> Decimal | None:
        """The most that may be shared; None: all there is."""
        if mode is Mode.PAPER:
            return None
        worth = (await self._broker.reconciliation()).net_liquidation
        most = self._rules.live_capital
        return most if worth is None else min(most, worth)

"""Planning: what there is to share, what is asked of the optimiser, and the plan that follows."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from functools import cached_property
from uuid import UUID

from services.portfolio.allocation.request import Request, Solution
from services.portfolio.domain.book import State
from services.portfolio.domain.capital import (
    RESERVE,
    AllocationPolicy,
    Bound,
    Plan,
    PlanRow,
    PlanState,
)
from services.portfolio.domain.money import EXACT, ZERO, per_share, plain
from services.portfolio.domain.order import Mode
from services.portfolio.domain.transfers import Move, Purse, targets_of, transfers
from services.portfolio.views import PortfolioView

WEIGHT_STEP = Decimal("1e-12")  # finer digits of an optimiser's float are noise
NOBODY = "No strategy may get anything: each is HALTED, or has a max_weight of 0."


@dataclass(frozen=True, slots=True)
class Holding:
    """What one strategy has, in USD."""

    strategy_name: str
    equity: Decimal
    weight: Decimal  # of the capital
    due: Decimal


@dataclass(frozen=True)  # without slots: of 1,000 strategies, each weight asks for the capital
class Standing:
    """What there is to share in a mode: its strategies, by name, and the reserve; in USD."""

    mode: Mode
    portfolios: tuple[PortfolioView, ...]
    reserve: Purse
    dues: Mapping[str, Decimal]
    cap: Decimal | None = None  # the most that may be shared

    @cached_property
    def total(self) -> Decimal:
        """What all have together."""
        return sum((each.equity for each in self.portfolios), self.reserve.spare)

    @cached_property
    def capital(self) -> Decimal:
        """What is shared: all, or as much as may be. Never below 0."""
        most = self.total if self.cap is None else min(self.total, self.cap)
        return max(most, ZERO)

    def weight(self, amount: Decimal) -> Decimal:
        """An amount as a share of the capital; 0 when there is none."""
        return per_share(amount, self.capital) if self.capital else ZERO

    def holdings(self) -> tuple[Holding, ...]:
        """What each strategy has and is due."""
        return tuple(
            Holding(
                each.strategy_name,
                each.equity,
                self.weight(each.equity),
                self.dues.get(each.strategy_name, ZERO),
            )
            for each in self.portfolios
        )

    def purses(self) -> list[Purse]:
        """The strategies' purses. What was due before a plan is not counted."""
        return [
            Purse(each.strategy_name, each.equity, each.cash - each.reserved_cash)
            for each in self.portfolios
        ]


def request_of(standing: Standing, policy: AllocationPolicy) -> Request | None:
    """What the optimiser is asked; None when there is nothing to ask.

    Who may get nothing has an upper bound of 0. Bounds of others than the strategies there are do
    not reach it.
    """
    bounds = tuple(_bound(each, policy) for each in standing.portfolios)
    if not standing.capital or not any(bound.max_weight for bound in bounds):
        return None
    current = {
        each.strategy_name: max(standing.weight(each.equity), ZERO) for each in standing.portfolios
    }
    return Request(replace(policy, bounds=bounds), standing.mode, current)


def plan_of(
    standing: Standing,
    policy: AllocationPolicy,
    solution: Solution | None,
    plan_id: UUID,
    now: datetime,
) -> Plan:
    """The plan by which each strategy gets its weight of the capital; all 0 without a solution."""
    found = solution.weights if solution else {}
    weights = {
        each.strategy_name: _weight(found.get(each.strategy_name, 0.0))
        for each in standing.portfolios
    }
    targets = targets_of(weights, standing.capital, policy.cash_floor)
    moves = transfers(targets, standing.purses(), standing.reserve)
    rows = [
        _row(standing, policy, solution, each, targets[each.strategy_name], moves)
        for each in standing.portfolios
    ]
    rows.append(_reserve_row(standing, policy, sum(targets.values(), ZERO), moves[RESERVE]))
    return Plan(
        plan_id,
        PlanState.PLANNED,
        standing.mode,
        now,
        policy,
        solution.method if solution else policy.method,
        solution.because if solution else _why_nothing(standing),
        standing.capital,
        tuple(rows),
        solution.current if solution else None,
        solution.proposed if solution else None,
        solution.frontier if solution else (),
    )


def _bound(portfolio: PortfolioView, policy: AllocationPolicy) -> Bound:
    """A strategy's bound, which is 0 while it is halted."""
    bound = policy.bound(portfolio.strategy_name)
    if portfolio.state is State.HALTED:
        return replace(bound, min_weight=ZERO, max_weight=ZERO)
    return bound


def _weight(found: float) -> Decimal:
    return Decimal(repr(found)).quantize(WEIGHT_STEP, context=EXACT)


def _row(
    standing: Standing,
    policy: AllocationPolicy,
    solution: Solution | None,
    portfolio: PortfolioView,
    target: Decimal,
    moves: Mapping[str, Move],
) -> PlanRow:
    name = portfolio.strategy_name
    move = moves.get(name, Move(ZERO, ZERO))
    return PlanRow(
        name,
        portfolio.equity,
        target,
        standing.weight(portfolio.equity),
        standing.weight(target),
        move.now,
        move.later,
        _why(standing, policy, solution, portfolio, target),
        solution.strategies.get(name) if solution else None,
    )


def _why(
    standing: Standing,
    policy: AllocationPolicy,
    solution: Solution | None,
    portfolio: PortfolioView,
    target: Decimal,
) -> str:
    """Why a strategy gets what it gets."""
    if portfolio.state is State.HALTED:
        because = f" ({portfolio.halt_reason})" if portfolio.halt_reason else ""
        return f"It is HALTED{because}, and who is gets nothing."
    if not policy.bound(portfolio.strategy_name).max_weight:
        return "Its max_weight is 0, which takes what it has."
    if solution is None:
        return "There is no capital to share."
    share, has = _percent(standing.weight(target)), _percent(standing.weight(portfolio.equity))
    note = solution.notes.get(portfolio.strategy_name, "")
    note = f" {note[0].upper()}{note[1:]}." if note else ""
    return f"{solution.method} gives it {share} of the capital; it has {has}.{note}"


def _reserve_row(
    standing: Standing, policy: AllocationPolicy, shared: Decimal, move: Move
) -> PlanRow:
    """The reserve gets what the others leave, down to the last decimal."""
    target = standing.total - shared
    why = [
        f"Cash that no strategy gets: a floor of {_percent(policy.cash_floor)}, and what is left."
    ]
    if standing.total > standing.capital:
        why.append(
            f"Of {plain(standing.total)} USD, {plain(standing.capital)} USD may be shared: "
            "LIVE_CAPITAL and the account's net liquidation value are the most."
        )
    known = {each.strategy_name for each in standing.portfolios}
    why += [
        f"{bound.strategy_name} has a bound and is not a strategy in {standing.mode}."
        for bound in policy.bounds
        if bound.strategy_name not in known
    ]
    equity = standing.reserve.spare
    return PlanRow(
        RESERVE,
        equity,
        target,
        standing.weight(equity),
        standing.weight(target),
        move.now,
        move.later,
        " ".join(why),
    )


def _why_nothing(standing: Standing) -> str:
    return NOBODY if standing.capital and standing.portfolios else "There is no capital to share."


def _percent(weight: Decimal) -> str:
    return f"{(100 * weight).quantize(Decimal('0.01'))} %"

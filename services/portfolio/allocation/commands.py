"""The commands of the allocation: set the policy, keep a plan, carry one out, settle dues."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from decimal import Decimal
from uuid import UUID

from services.portfolio.batch import Batch
from services.portfolio.domain import ledger
from services.portfolio.domain.book import (
    Book,
    CashEntry,
    RequestedMode,
    State,
    Strategy,
    new_book,
)
from services.portfolio.domain.capital import RESERVE, AllocationPolicy, Plan, PlanState
from services.portfolio.domain.errors import LedgerError, PlanOutdatedError
from services.portfolio.domain.invariants import check_transfers
from services.portfolio.domain.money import ZERO, plain
from services.portfolio.domain.order import Mode
from services.portfolio.domain.transfers import (
    Move,
    Purse,
    purse_of,
    scaled,
    settlement,
    transfers,
)
from services.portfolio.ports import Needs

GOOD_FOR = timedelta(hours=1)
MOST_CHANGE = Decimal("0.1")  # of the capital, since a plan was made


@dataclass(frozen=True, slots=True)
class SetPolicy:
    """Set the policy, whole. `since` is the newest session now: its schedule begins after it."""

    policy: AllocationPolicy
    request_id: str = ""
    since: date | None = field(default=None, compare=False)

    def needs(self) -> Needs:  # noqa: D102 - as in Command
        return Needs()

    def run(self, batch: Batch) -> None:  # noqa: D102 - as in Command
        batch.record_policy(replace(self.policy, since=self.since))


@dataclass(frozen=True, slots=True)
class KeepPlan:
    """Keep a plan as it was made."""

    plan: Plan
    request_id: str = ""

    def needs(self) -> Needs:  # noqa: D102 - as in Command
        return Needs()

    def run(self, batch: Batch) -> None:  # noqa: D102 - as in Command
        batch.record_plan(self.plan)


@dataclass(frozen=True, slots=True)
class CarryOut:
    """Carry out a plan: free cash moves now, the rest is due. Earlier dues count no more.

    `plan_id` is the one that was asked for, or None for a new one of this mode, whose id is `made`.
    A repetition gets the first answer, whatever was made for it.
    """

    plan_id: UUID | None
    mode: Mode | None
    request_id: str = ""
    made: UUID | None = field(default=None, compare=False)

    def needs(self) -> Needs:  # noqa: D102 - as in Command
        wanted = self.plan_id or self.made
        if wanted is None:
            return Needs()
        return Needs(everyone=True, valued=True, plans=(wanted,))

    def run(self, batch: Batch) -> Plan:  # noqa: D102 - as in Command
        wanted = self.plan_id or self.made
        if wanted is None:
            raise NotMadeError
        plan = batch.plan(wanted)
        books = {
            strategy.name: batch.book((strategy.name, plan.mode))
            for strategy in batch.strategies()
            if strategy.mode is plan.mode
        }
        purses = [
            purse_of(book, book.cash + batch.positions_value(book)) for book in books.values()
        ]
        held = _find_reserve(batch, plan.mode)
        reserve = purse_of(held, held.cash)
        moves = _moves(batch, plan, purses, reserve)
        _forget_dues(batch, plan, moves)
        if len(moves) > 1:
            _open_reserve(batch, plan.mode)
        _book(batch, plan.mode, moves, plan.plan_id)
        carried = _carried_out(batch, plan, moves)
        batch.record_plan(carried)
        return carried


@dataclass(frozen=True, slots=True)
class SettleDue:
    """Move what is due and can move now, among these strategies and the reserve.

    `plan_id` is the plan that it is due by.
    """

    mode: Mode
    strategy_names: tuple[str, ...]
    plan_id: UUID
    request_id: str = ""

    def needs(self) -> Needs:  # noqa: D102 - as in Command
        return Needs(strategies=(*self.strategy_names, RESERVE), valued=True)

    def run(self, batch: Batch) -> None:  # noqa: D102 - as in Command
        found = (batch.find_book((name, self.mode)) for name in self.strategy_names)
        purses = [purse_of(book, ZERO) for book in found if book is not None and book.due]
        moves = settlement(purses, purse_of(_find_reserve(batch, self.mode), ZERO))
        _book(batch, self.mode, moves, self.plan_id)


class NotMadeError(LedgerError):
    """A new plan is wanted, and must be made first. Never leaves the allocator."""

    def __init__(self) -> None:
        super().__init__("There is no plan to carry out yet.")


def _moves(batch: Batch, plan: Plan, purses: list[Purse], reserve: Purse) -> dict[str, Move]:
    """The moves of a plan, by what the books have now.

    Raises:
        PlanOutdatedError: It was carried out before, or is too old, or the capital is another, or
            who is to get cash is halted.
    """
    name, age = str(plan.plan_id), batch.desk.now - plan.create_time
    if plan.state is PlanState.CARRIED_OUT:
        raise PlanOutdatedError(name, "was carried out before")
    if age > GOOD_FOR:
        raise PlanOutdatedError(
            name, f"is {age.total_seconds() / 60:.0f} minutes old, and 60 are allowed"
        )
    halted = {strategy.name for strategy in batch.strategies() if strategy.is_halted}
    for row in plan.rows:
        if row.target_equity > row.equity and row.strategy_name in halted:
            raise PlanOutdatedError(name, f"gives cash to {row.strategy_name}, which is HALTED now")
    total = sum((purse.equity for purse in purses), reserve.equity)
    if abs(total - plan.total) > plan.total * MOST_CHANGE:
        raise PlanOutdatedError(
            name,
            f"shares {plain(plan.total)} USD, and there are {plain(total)} USD now: a change of "
            "more than a tenth",
            planned=plain(plan.total),
            now=plain(total),
        )
    targets = {
        row.strategy_name: row.target_equity for row in plan.rows if row.strategy_name != RESERVE
    }
    purses = [purse for purse in purses if purse.strategy_name in targets]  # others keep theirs
    shared = sum((purse.equity for purse in purses), reserve.equity)
    capital = shared if plan.capital == plan.total else min(plan.capital, shared)
    return transfers(scaled(targets, plan.capital, capital), purses, reserve)


def _forget_dues(batch: Batch, plan: Plan, moves: Mapping[str, Move]) -> None:
    """Nothing stays due to or from books that the plan does not move."""
    for strategy in batch.strategies():
        book = batch.find_book((strategy.name, plan.mode))
        if book is not None and book.due and strategy.name not in moves:
            desk = batch.desk
            after, _ = ledger.transfer(book, ZERO, ZERO, "", desk.now, desk.actor)
            batch.record_cash(after, ())


def _find_reserve(batch: Batch, mode: Mode) -> Book:
    """The reserve's book; an empty one before its first transfer."""
    return batch.find_book((RESERVE, mode)) or new_book(RESERVE, mode, batch.desk.now)


def _open_reserve(batch: Batch, mode: Mode) -> None:
    """Makes the reserve, and its book in this mode, unless they are there."""
    desk = batch.desk
    if batch.find_strategy(RESERVE) is None:
        why = "holds the cash that no strategy has"
        batch.record_strategy(
            Strategy(RESERVE, RequestedMode.PAPER, Mode.PAPER, State.HALTED, why, desk.now)
        )
    if batch.find_book((RESERVE, mode)) is None:
        book, entries = ledger.open_book(RESERVE, mode, ZERO, "", desk.now, desk.actor)
        batch.record_cash(book, entries)


def _book(batch: Batch, mode: Mode, moves: Mapping[str, Move], plan_id: UUID) -> None:
    """Books the moves: one entry a book, and all of them sum to zero."""
    desk, reason = batch.desk, f"plan {plan_id}"
    booked: list[tuple[Book, tuple[CashEntry, ...]]] = []
    for name in sorted(moves):
        book = batch.find_book((name, mode))
        if book is not None:  # the reserve's, before the first transfer
            move = moves[name]
            after, entries = ledger.transfer(
                book, move.now, move.later, reason, desk.now, desk.actor
            )
            booked += [(after, entries)] if after != book else []
    check_transfers([entry for _, entries in booked for entry in entries])
    for after, entries in booked:
        batch.record_cash(after, entries)


def _carried_out(batch: Batch, plan: Plan, moves: Mapping[str, Move]) -> Plan:
    """The plan with what really moved, and what is left to move."""
    nothing = Move(ZERO, ZERO)
    rows = ((row, moves.get(row.strategy_name, nothing)) for row in plan.rows)
    return replace(
        plan,
        state=PlanState.CARRIED_OUT,
        carry_out_time=batch.desk.now,
        rows=tuple(replace(row, moves_now=move.now, moves_later=move.later) for row, move in rows),
    )

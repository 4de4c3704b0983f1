"""What every AllocationReads promises. Subclass it where pytest finds it."""

from dataclasses import replace
from datetime import date
from decimal import Decimal
from uuid import UUID

from services.portfolio.domain.book import Book
from services.portfolio.domain.capital import (
    RESERVE,
    AllocationPolicy,
    Bound,
    Method,
    Plan,
    PlanRow,
    PlanState,
    RiskReturn,
    Schedule,
)
from services.portfolio.domain.money import ZERO
from services.portfolio.domain.order import Mode
from services.portfolio.domain.transfers import Purse
from services.portfolio.domain.valuation import Valuation, ValuationKind
from services.portfolio.ports import Changes, Needs
from tests.ledger.values import d, new_id
from tests.ports.makers import LIVE, PAPER, at, opened, position, save, strategy
from tests.ports.stores import Store

EXACT = d("99999999999999999999.99999999")
POLICY = AllocationPolicy(
    Method.MAXIMUM_SHARPE,
    Method.FIXED,
    Schedule.WEEKLY,
    (Bound("A", d("0.1"), d("0.5"), d("0.25")),),
    d("0.05"),
    d("0.3"),
    500,
    20,
    date(2024, 5, 6),
)


def plan(plan_id: UUID, mode: Mode = PAPER) -> Plan:
    """A plan in which every field is told."""
    row = PlanRow(
        "A", EXACT, d("1.25"), d("0.1"), d("0.2"), -EXACT, d("0.01"), "why", RiskReturn(0.1, -0.2)
    )
    return Plan(
        plan_id,
        PlanState.PLANNED,
        mode,
        at(1),
        POLICY,
        Method.EQUAL,
        "too little history",
        EXACT,
        (row, replace(row, strategy_name=RESERVE, own=None)),
        RiskReturn(0.1, 0.2),
        None,
        (RiskReturn(0.3, 0.4),),
    )


def carried_out(one: Plan, seconds: float) -> Plan:
    """The plan, carried out then."""
    return replace(one, state=PlanState.CARRIED_OUT, carry_out_time=at(seconds))


def close(name: str, session: str, number: int, mode: Mode = PAPER) -> Valuation:
    """A close of a book with nothing in it."""
    day = date.fromisoformat(session)
    kind = ValuationKind.CLOSE
    return Valuation(name, mode, number, day, kind, 1, ZERO, ZERO, ZERO, Decimal(1), at(number))


class AllocationContract:
    """Reads of the allocation on any store."""

    async def test_there_is_a_default_policy_until_one_is_set(self, store: Store) -> None:
        assert await store.allocation.policy() == AllocationPolicy()
        await save(store.ledger, Changes(policy=POLICY))
        assert await store.allocation.policy() == POLICY
        await save(store.ledger, Changes(policy=AllocationPolicy()))
        assert await store.allocation.policy() == AllocationPolicy()

    async def test_plans_read_back_exactly_newest_first(self, store: Store) -> None:
        one, two, three = (plan(new_id()) for _ in range(3))
        await save(store.ledger, Changes(plans={p.plan_id: p for p in (two, one, three)}))
        assert await store.allocation.plans(None, 9) == [three, two, one]
        assert await store.allocation.plans(None, 2) == [three, two]
        assert await store.allocation.plans(two.plan_id, 9) == [one]
        async with store.ledger.transaction() as transaction:
            found = await transaction.load(Needs(plans={two.plan_id, new_id()}))
        assert found.plans == {two.plan_id: two}

    async def test_the_last_plan_is_the_one_that_was_carried_out_last(self, store: Store) -> None:
        one, two, live, new = (plan(new_id()), plan(new_id()), plan(new_id(), LIVE), plan(new_id()))
        assert await store.allocation.last_plan(PAPER) is None
        await save(store.ledger, Changes(plans={p.plan_id: p for p in (one, two, live, new)}))
        assert await store.allocation.last_plan(PAPER) is None
        for seconds, carried in ((2, two), (3, one), (4, live)):
            done = carried_out(carried, seconds)
            await save(store.ledger, Changes(plans={done.plan_id: done}))
        assert await store.allocation.last_plan(PAPER) == carried_out(one, 3)
        assert await store.allocation.last_plan(LIVE) == carried_out(live, 4)

    async def test_purses_are_of_those_with_dues_and_of_the_reserve(self, store: Store) -> None:
        assert await store.allocation.purses(PAPER) == []
        held = position("SPXL", 3, 9)
        await save(store.ledger, opened("B", 100, PAPER, held), opened("A", 50), opened("C", 7))
        await save(store.ledger, opened("D", 60), opened("L", 5, LIVE), opened(RESERVE, 30))
        invested = Book("B", PAPER, 3, d(100), d(20), {"SPXL": held}, at(3), d("-40.5"))
        reserved = Book("D", PAPER, 3, d(60), d(1), {}, at(3), d(1))
        await save(
            store.ledger,
            Changes(
                books={
                    ("B", PAPER): invested,
                    ("D", PAPER): reserved,
                    ("A", PAPER): Book("A", PAPER, 3, d(50), ZERO, {}, at(3), d("40.5")),
                    ("L", LIVE): Book("L", LIVE, 3, d(5), ZERO, {}, at(3), d(2)),
                }
            ),
        )
        assert await store.allocation.purses(PAPER) == [
            Purse("A", ZERO, d(50), d("40.5")),
            Purse("B", ZERO, d(80), d("-40.5"), is_flat=False),
            Purse("D", ZERO, d(59), d(1), is_flat=False),
            Purse(RESERVE, ZERO, d(30)),
        ]
        assert await store.allocation.purses(LIVE) == [Purse("L", ZERO, d(5), d(2))]

    async def test_sessions_are_those_of_strategies_in_their_mode(self, store: Store) -> None:
        assert await store.allocation.newest_session() is None
        assert await store.allocation.closed_sessions(PAPER) is None
        await save(store.ledger, opened("A"), opened("B"), opened("L", 5, LIVE))
        assert await store.allocation.newest_session() is None
        assert await store.allocation.closed_sessions(PAPER) is None
        flow = replace(close("B", "2024-01-01", 1), kind=ValuationKind.FLOW, flow=d(5))
        await save(
            store.ledger,
            Changes(
                strategies={
                    "A": replace(strategy("A"), session=date(2024, 3, 4)),
                    "B": replace(strategy("B"), session=date(2024, 3, 1)),
                },
                valuations=[
                    close("A", "2024-02-01", 1),
                    close("A", "2024-03-01", 2),
                    flow,
                    close("B", "2024-01-31", 2),
                    close("L", "2024-05-01", 1, LIVE),
                ],
            ),
        )
        assert await store.allocation.newest_session() == date(2024, 3, 4)
        closed = await store.allocation.closed_sessions(PAPER)
        assert closed == (date(2024, 1, 31), date(2024, 3, 1))
        assert await store.allocation.closed_sessions(LIVE) == (date(2024, 5, 1),) * 2

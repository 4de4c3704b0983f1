"""Plans to the cent: targets, moves and settlements, whatever the weights and the books are."""

import time
from datetime import date
from decimal import Decimal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.portfolio.allocation.planning import Standing, plan_of, request_of
from services.portfolio.allocation.request import Solution
from services.portfolio.domain.book import RequestedMode, State
from services.portfolio.domain.capital import (
    RESERVE,
    AllocationPolicy,
    Bound,
    Method,
    Plan,
    RiskReturn,
    Schedule,
    period_begun,
)
from services.portfolio.domain.order import Mode
from services.portfolio.domain.transfers import (
    CENT,
    Move,
    Purse,
    cents_below,
    scaled,
    settlement,
    targets_of,
    transfers,
)
from services.portfolio.views import PortfolioView
from tests.ledger.values import NOW, d

PLAN_ID = UUID(int=7)
EXACT = st.integers(0, 10**15).map(lambda units: Decimal(units).scaleb(-8))
CENTS = st.integers(0, 10**9).map(lambda cents: Decimal(cents).scaleb(-2))
SHARE = st.integers(0, 10**6).map(lambda millionth: Decimal(millionth).scaleb(-6))


@st.composite
def sharing(draw: st.DrawFn) -> tuple[dict[str, Decimal], Decimal, list[Purse], Purse]:
    """Weights that sum to 1 at most, a cash floor, books of any worth, and the reserve."""
    names = [f"S{number}" for number in range(draw(st.integers(1, 8)))]
    purses = []
    for name in names:
        cash, shares, due = draw(EXACT), draw(EXACT), draw(CENTS) - draw(CENTS)
        purses.append(Purse(name, cash + shares, cash, due, not shares))
    parts = {name: draw(SHARE) for name in names}
    floor, total = draw(SHARE), sum(parts.values()) or d(1)
    weights = {name: part / total * (1 - floor) for name, part in parts.items()}
    cash = draw(CENTS)
    return weights, floor, purses, Purse(RESERVE, cash, cash)


def capital_of(purses: list[Purse], reserve: Purse) -> Decimal:
    """All that there is."""
    return sum((purse.equity for purse in purses), reserve.spare)


@given(sharing())
def test_moves_sum_to_zero_keep_the_floor_and_take_no_more_than_is_there(
    shared: tuple[dict[str, Decimal], Decimal, list[Purse], Purse],
) -> None:
    weights, floor, purses, reserve = shared
    capital = capital_of(purses, reserve)
    targets = targets_of(weights, capital, floor)
    assert sum(targets.values()) <= capital * (1 - floor)
    moves = transfers(targets, purses, reserve)
    assert sum(move.now for move in moves.values()) == 0
    assert sum(move.later for move in moves.values()) == 0
    for purse in purses:
        move = moves.get(purse.strategy_name, Move(d(0), d(0)))
        missing = targets[purse.strategy_name] - purse.equity
        assert move.now * move.later >= 0
        assert move.now == cents_below(move.now)
        assert abs(move.now + move.later - missing) <= CENT * (len(purses) + 1)
        assert purse.spare + move.now >= 0
        if move.now + move.later < 0:
            assert move.later == 0 or purse.spare + move.now < CENT
    left = reserve.spare + moves[RESERVE].now
    nominal = capital - sum(targets.values())
    assert left >= 0
    # Receivers never take the reserve below what is to stay in it, neither now nor later.
    others = [move for name, move in moves.items() if name != RESERVE]
    assert left >= nominal or not any(move.now > 0 for move in others)
    in_the_end = left + moves[RESERVE].later
    assert in_the_end >= nominal or not any(move.now + move.later > 0 for move in others)
    assert in_the_end > nominal - CENT * len(purses)  # parts of a cent stay where they are


@given(sharing())
def test_when_everybody_is_flat_all_have_their_targets_at_once(
    shared: tuple[dict[str, Decimal], Decimal, list[Purse], Purse],
) -> None:
    weights, floor, purses, reserve = shared
    flat = [Purse(p.strategy_name, p.spare, p.spare) for p in purses]
    targets = targets_of(weights, capital_of(flat, reserve), floor)
    moves = transfers(targets, flat, reserve)
    assert all(move.later == 0 for move in moves.values())
    for purse in flat:
        now = purse.equity + moves.get(purse.strategy_name, Move(d(0), d(0))).now
        assert abs(now - targets[purse.strategy_name]) <= CENT * (len(flat) + 1)


@given(sharing())
def test_a_settlement_sums_to_zero_and_takes_no_more_than_is_there(
    shared: tuple[dict[str, Decimal], Decimal, list[Purse], Purse],
) -> None:
    _, _, purses, reserve = shared
    reserve = Purse(RESERVE, reserve.equity, reserve.spare, -sum((p.due for p in purses), d(0)))
    moves = settlement(purses, reserve)
    assert sum(move.now for move in moves.values()) == 0
    by_name = {purse.strategy_name: purse for purse in (*purses, reserve)}
    for name, move in moves.items():
        assert by_name[name].spare + move.now >= 0
        if name != RESERVE:
            assert abs(move.later) <= abs(by_name[name].due)
            assert move.later * by_name[name].due >= 0
    if moves:
        after = {name: by_name[name].spare + move.now for name, move in moves.items()}
        again = [
            Purse(name, d(0), after.get(name, p.spare), _due_after(moves, p), p.is_flat)
            for name, p in by_name.items()
        ]
        assert not settlement(again[:-1], again[-1])  # done once, it is done


def _due_after(moves: dict[str, Move], purse: Purse) -> Decimal:
    return moves[purse.strategy_name].later if purse.strategy_name in moves else purse.due


def test_what_is_available_is_shared_in_proportion_and_no_cent_is_lost() -> None:
    # A and B are to get 10.00 and 20.01; 10.00 is free, the rest is in C's shares.
    purses = [
        Purse("A", d(0), d(0)),
        Purse("B", d(0), d(0)),
        Purse("C", d("30.01"), d("10.00"), is_flat=False),
    ]
    moves = transfers(
        {"A": d("10"), "B": d("20.01"), "C": d(0)}, purses, Purse(RESERVE, d(0), d(0))
    )
    assert moves == {
        "C": Move(d("-10.00"), d("-20.01")),
        "A": Move(d("3.33"), d("6.67")),
        "B": Move(d("6.67"), d("13.34")),
        RESERVE: Move(d(0), d(0)),
    }


def test_who_owes_pays_once_it_is_flat_or_has_all_of_it_in_cash() -> None:
    reserve = Purse(RESERVE, d(0), d(0))
    wants = Purse("B", d(0), d(0), d(20))
    invested = Purse("A", d(0), d("19.99"), d(-20), is_flat=False)
    assert settlement([invested, wants], reserve) == {}
    bought_again = Purse("A", d(0), d("20"), d(-20), is_flat=False)
    assert settlement([bought_again, wants], reserve)["B"] == Move(d(20), d(0))
    flat = Purse("A", d(0), d("25"), d(-20))
    assert settlement([flat, wants], reserve) == {
        "A": Move(d(-20), d(0)),
        "B": Move(d(20), d(0)),
        RESERVE: Move(d(0), d(0)),
    }


def test_who_is_flat_and_has_lost_what_it_owes_owes_nothing_more() -> None:
    moves = settlement(
        [Purse("A", d(0), d("5.129"), d(-20)), Purse("B", d(0), d(0), d(20))],
        Purse(RESERVE, d(100), d(100)),
    )
    assert moves == {
        "A": Move(d("-5.12"), d(0)),
        "B": Move(d("5.12"), d("14.88")),
        RESERVE: Move(d(0), d(0)),
    }


def test_the_reserve_fills_up_before_others_get_anything() -> None:
    moves = settlement(
        [Purse("A", d(0), d(20), d(-20)), Purse("B", d(0), d(0), d(15))],
        Purse(RESERVE, d(0), d(0), d(5)),
    )
    assert moves["B"] == Move(d(15), d(0))
    assert moves[RESERVE] == Move(d(5), d(0))
    moves = settlement([Purse("A", d(0), d(3), d(-3))], Purse(RESERVE, d(0), d(0), d(5)))
    assert moves[RESERVE] == Move(d(3), d(2))


@given(CENTS, CENTS)
def test_the_same_capital_leaves_targets_as_they_were(target: Decimal, capital: Decimal) -> None:
    assert scaled({"A": target}, capital, capital) == {"A": target}


@pytest.mark.parametrize(
    ("schedule", "since", "first", "newest", "period"),
    [
        (Schedule.MONTHLY, None, "2013-01-31", "2013-02-01", "2013-02"),
        (Schedule.MONTHLY, None, "2013-02-01", "2013-02-28", ""),  # there was no month before
        (Schedule.MONTHLY, "2013-02-15", "2013-01-31", "2013-02-28", ""),  # set within the month
        (Schedule.MONTHLY, "2013-02-15", "2013-01-31", "2013-03-01", "2013-03"),
        (Schedule.MONTHLY, "2013-02-15", "2013-01-31", "2013-04-30", "2013-04"),  # one was missed
        (Schedule.WEEKLY, None, "2012-12-28", "2012-12-31", "2013-W01"),
        (Schedule.QUARTERLY, None, "2013-03-28", "2013-04-01", "2013-Q2"),
        (Schedule.QUARTERLY, None, "2013-04-01", "2013-06-28", ""),
        (Schedule.ON_REQUEST, None, "2012-01-01", "2013-06-28", ""),
    ],
)
def test_a_period_begins_with_the_first_close_in_it(
    schedule: Schedule, since: str | None, first: str, newest: str, period: str
) -> None:
    policy = AllocationPolicy(schedule=schedule, since=date.fromisoformat(since) if since else None)
    begun = period_begun(policy, date.fromisoformat(first), date.fromisoformat(newest))
    assert begun == period


def portfolio(
    name: str, cash: str, shares: str = "0", state: State = State.ACTIVE
) -> PortfolioView:
    """A strategy with cash and shares worth that much."""
    return PortfolioView(
        strategy_name=name,
        mode=Mode.PAPER,
        requested_mode=RequestedMode.AUTO,
        state=state,
        cash=d(cash),
        reserved_cash=d(0),
        positions_value=d(shares),
        positions_cost=d(shares),
        realized_pnl=d(0),
        invested=shares != "0",
        total_equity=d(0),
        update_time=NOW,
        halt_reason="drawdown" if state is State.HALTED else "",
    )


def planned(
    standing: Standing, policy: AllocationPolicy, weights: dict[str, float], **known: RiskReturn
) -> Plan:
    """The plan by these weights."""
    solution = Solution(
        weights, Method.EQUAL, "", {"B": "new: 3 of 60 days"}, 0, None, None, known, ()
    )
    return plan_of(standing, policy, solution, PLAN_ID, NOW)


def standing(*portfolios: PortfolioView, reserve: str = "0", cap: str | None = None) -> Standing:
    """These strategies and a reserve."""
    cash = d(reserve)
    return Standing(
        Mode.PAPER, portfolios, Purse(RESERVE, d(0), cash), {}, None if cap is None else d(cap)
    )


def test_a_plan_says_who_gets_what_and_why() -> None:
    there = standing(
        portfolio("A", "100.005", "900"),
        portfolio("B", "0"),
        portfolio("C", "50", "0", State.HALTED),
    )
    own = RiskReturn(0.2, 0.1)
    bounds = (Bound("Gone", d("0.1")),)
    plan = planned(there, AllocationPolicy(bounds=bounds), {"A": 0.5, "B": 0.5, "C": 0.0}, A=own)
    assert plan.capital == d("1050.005")
    assert sum(row.target_equity for row in plan.rows) == plan.capital
    figures = [(r.strategy_name, r.target_equity, r.moves_now, r.moves_later) for r in plan.rows]
    assert figures == [
        ("A", d("525.00"), d("-100.00"), d("-375.00")),
        ("B", d("525.00"), d("149.99"), d("375.00")),
        ("C", d("0.00"), d("-50.00"), d("0.00")),
        (RESERVE, d("0.005"), d("0.01"), d("0.00")),
    ]
    a, b, c, reserve = plan.rows
    assert a.told == (
        "EQUAL gives it 50.00 % of the capital; it has 95.24 %. "
        "It gives 375.00 USD more when it is flat."
    )
    assert b.told == (
        "EQUAL gives it 50.00 % of the capital; it has 0.00 %. New: 3 of 60 days. "
        "375.00 USD of it come when others are flat."
    )
    assert c.told == "It is HALTED (drawdown), and who is gets nothing."
    assert "Gone has a bound and is not a strategy in PAPER." in reserve.why
    assert (a.own, b.own) == (own, None)


def test_the_optimiser_is_asked_for_those_there_are_and_nothing_for_the_halted() -> None:
    there = standing(portfolio("A", "75"), portfolio("C", "25", "0", State.HALTED))
    policy = AllocationPolicy(bounds=(Bound("C", d("0.2"), d("0.9")), Bound("Gone")))
    request = request_of(there, policy)
    assert request is not None
    assert request.policy.bounds == (Bound("A"), Bound("C", d(0), d(0)))
    assert request.current == {"A": d("0.75"), "C": d("0.25")}


def test_a_plan_for_thousands_holds_nobody_up() -> None:
    names = [f"S{number:05}" for number in range(3000)]
    policy = AllocationPolicy(bounds=tuple(Bound(name) for name in names))
    there = standing(*(portfolio(name, "100") for name in names))
    began = time.process_time()
    request_of(there, policy)
    plan = planned(there, policy, dict.fromkeys(names, 1 / len(names)))
    assert len(plan.rows) == len(there.holdings()) + 1
    assert time.process_time() - began < 1.5  # the router's loop waits for it; squared, it took 10


def test_nothing_is_asked_when_nobody_may_get_anything() -> None:
    halted = standing(portfolio("C", "25", "0", State.HALTED))
    assert request_of(halted, AllocationPolicy()) is None
    plan = plan_of(halted, AllocationPolicy(), None, PLAN_ID, NOW)
    assert [row.target_equity for row in plan.rows] == [d(0), d(25)]
    assert "HALTED" in plan.fallback_reason
    nothing = standing(portfolio("A", "0"))
    assert request_of(nothing, AllocationPolicy()) is None
    empty = plan_of(nothing, AllocationPolicy(), None, PLAN_ID, NOW)
    assert (empty.capital, empty.fallback_reason) == (d(0), "There is no capital to share.")


def test_what_is_above_the_cap_goes_to_the_reserve() -> None:
    there = standing(portfolio("A", "600"), portfolio("B", "400"), reserve="50", cap="500")
    plan = planned(there, AllocationPolicy(), {"A": 0.5, "B": 0.5})
    assert (plan.capital, plan.total) == (d(500), d(1050))
    assert [row.target_equity for row in plan.rows] == [d(250), d(250), d(550)]
    assert "Of 1050.00 USD, 500.00 USD may be shared" in plan.rows[-1].why


def test_a_removed_strategy_gives_all_that_it_has_free() -> None:
    there = standing(portfolio("A", "100"), portfolio("B", "30", "70"))
    policy = AllocationPolicy(bounds=(Bound("B", d(0), d(0)),))
    plan = planned(there, policy, {"A": 1.0, "B": 0.0})
    b = plan.rows[1]
    assert (b.moves_now, b.moves_later) == (d(-30), d(-70))
    assert b.why.startswith("Its max_weight is 0")

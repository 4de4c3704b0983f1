"""What the broker says, in any order and any number of times, comes to the same in the end."""

from dataclasses import dataclass, replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.portfolio.batch import Batch, Desk
from services.portfolio.commands import Command, CreateOrder
from services.portfolio.domain import ledger
from services.portfolio.domain.book import CashKind
from services.portfolio.domain.errors import (
    IllegalFillError,
    InsufficientSharesError,
    LedgerError,
    OrderNotFoundError,
)
from services.portfolio.domain.order import Execution, FillKind, Mode, Order, Side, Status
from services.portfolio.live.commands import BookCommission, EndOrder
from services.portfolio.ports import PriceMark, Snapshot
from tests.ledger.amounts import PROPERTY, exactly
from tests.ledger.live_desk import LiveDesk, desk_with, executed, placed
from tests.ledger.values import ACTOR, LATER, NAME, book_with, buy, d, fill, half_even, new_id


def end(order: Order, status: Status = Status.CANCELLED, reason: str = "Cancelled.") -> EndOrder:
    return EndOrder(order.order_id, status, reason)


def charge(order: Order, commission: str, execution_id: str = "e1.01") -> BookCommission:
    return BookCommission(order.order_id, execution_id, d(commission))


# -- fills --


def test_a_live_order_is_an_intent_that_reserves_its_buffer_and_commission() -> None:
    desk = desk_with()
    order = placed(desk)
    assert (order.status, order.reserved_cash) == (Status.PENDING, 1021)
    assert desk.intents == [order.order_id]
    assert desk.book.free_cash == 8979


def test_partial_fills_add_up_and_the_last_executes_the_order() -> None:
    desk = desk_with()
    order = placed(desk)
    half = desk.order(executed(order, "e1.01", 5, 101))
    assert (half.status, half.filled_quantity) == (Status.PENDING, 5)
    assert half.reserved_cash == desk.book.reserved_cash == d("510.5")
    whole = desk.order(executed(order, "e2.01", 5, 99, commission=1))
    assert (whole.status, whole.average_fill_price, whole.commission) == (Status.EXECUTED, 100, 1)
    assert (desk.book.cash, desk.book.reserved_cash, desk.held.quantity) == (8999, 0, 10)
    assert desk.fills[0].time == executed(order).execution.time


def test_the_same_execution_twice_is_booked_once() -> None:
    desk = desk_with()
    order = placed(desk)
    once = desk.order(executed(order, quantity=4))
    assert desk.submit(executed(order, quantity=4), executed(order, quantity=4)) == [once, once]
    assert len(desk.fills) == 1


def test_the_same_execution_twice_in_one_batch_is_booked_once() -> None:
    desk = desk_with()
    order = placed(desk)
    desk.submit(executed(order, quantity=4), executed(order, quantity=4))
    assert desk.orders[order.order_id].filled_quantity == 4


def test_a_fill_above_what_was_reserved_is_booked_truthfully_even_below_zero() -> None:
    desk = desk_with(1021)
    desk.order(executed(placed(desk), price=110))
    assert (desk.book.cash, desk.book.reserved_cash) == (-79, 0)


def test_an_unknown_order_takes_fills_and_the_complete_one_is_executed() -> None:
    desk = desk_with()
    order = placed(desk)
    desk.order(end(order, Status.UNKNOWN, "The broker is silent."))
    assert desk.order(executed(order, "e1.01", 4)).status is Status.UNKNOWN
    whole = desk.order(executed(order, "e2.01", 6))
    assert (whole.status, whole.reason) == (Status.EXECUTED, "")


@pytest.mark.parametrize("status", [Status.CANCELLED, Status.REJECTED])
def test_a_late_fill_of_an_ended_order_is_booked_and_told(status: Status) -> None:
    desk = desk_with()
    order = placed(desk)
    desk.order(end(order, status, "So it was said."))
    assert desk.book.reserved_cash == 0
    late = desk.order(executed(order, "e1.01", 4))
    assert (late.status, late.filled_quantity, late.reserved_cash) == (status, 4, 0)
    assert late.reason == "So it was said. After it was said to have ended: 4 of 10 filled."
    later = desk.order(executed(order, "e2.01", 6))
    assert later.reason == "So it was said. After it was said to have ended: 10 of 10 filled."
    assert (later.status, desk.book.cash, desk.held.quantity) == (status, 9000, 10)


def test_a_late_sale_takes_shares_that_no_other_order_is_selling() -> None:
    desk = desk_with(0, shares=10, cost=500)
    order = placed(desk, Side.SELL)
    desk.order(end(order))
    other = placed(desk, Side.SELL, 8)
    with desk.refused(InsufficientSharesError) as error:
        desk.order(executed(order, "e1.01", 3))
    assert error.value.figures == {"symbol": "SPXL", "wanted": "3", "held": "10", "free": "2"}
    desk.order(executed(order, "e2.01", 2))
    desk.order(end(other))
    desk.order(executed(order, "e1.01", 3))
    assert (desk.held.quantity, desk.held.realized_pnl, desk.book.cash) == (5, 250, 500)


def test_what_does_not_fit_is_refused_with_its_figures() -> None:
    desk = desk_with()
    order = placed(desk)
    desk.order(executed(order, "e1.01", 8))
    with desk.refused(IllegalFillError) as error:
        desk.order(executed(order, "e2.01", 3))
    assert error.value.figures == {"open": "2", "fill": "3"}
    desk.order(end(order))
    with desk.refused(IllegalFillError):
        desk.order(executed(order, "e2.01", 3))
    with desk.refused(OrderNotFoundError):
        desk.order(BookCommission(new_id(), "e1.01", d(1)))


@pytest.mark.parametrize("wrong", [{"symbol": "AVL"}, {"side": Side.SELL}])
def test_an_execution_of_another_symbol_or_side_is_refused(wrong: dict[str, Any]) -> None:
    desk = desk_with()
    command = executed(placed(desk))
    with desk.refused(IllegalFillError) as error:
        desk.order(replace(command, execution=replace(command.execution, **wrong)))
    assert error.value.figures == {"execution_id": "e1.01"}


# -- corrections and commissions --


def test_a_correction_books_the_difference_under_its_own_id() -> None:
    desk = desk_with()
    order = placed(desk)
    desk.order(executed(order, "e1.01", 5, 100, commission="1"))
    corrected = desk.order(executed(order, "e1.02", 4, 101))
    assert (corrected.filled_quantity, corrected.filled_value, corrected.commission) == (4, 404, 1)
    assert corrected.reserved_cash == d("612.6")  # as much a share as before
    change = desk.fills[-1]
    assert (change.kind, change.execution_id) == (FillKind.CORRECTION, "e1.02")
    assert (change.quantity, change.value, change.price) == (-1, -96, 101)
    assert (desk.held.quantity, desk.held.cost, desk.held.last_price) == (4, 404, 101)
    assert desk.book.cash == 10_000 - 404 - 1


def test_a_correction_can_complete_an_order() -> None:
    desk = desk_with()
    order = placed(desk)
    desk.order(executed(order, "e1.01", 9))
    whole = desk.order(executed(order, "e1.02", 10))
    assert (whole.status, desk.book.reserved_cash) == (Status.EXECUTED, 0)


def test_an_execution_that_a_correction_has_replaced_changes_nothing() -> None:
    desk = desk_with()
    order = placed(desk)
    corrected = desk.order(executed(order, "e1.02", 4, 101))
    assert desk.order(executed(order, "e1.01", 5, 100)) == corrected


def test_a_trade_that_is_taken_back_leaves_nothing_but_its_commission() -> None:
    desk = desk_with()
    order = placed(desk)
    desk.order(executed(order, "e1.01", 10, 100, commission=1))
    undone = desk.order(executed(order, "e1.02", 0, 0))
    assert (undone.status, undone.filled_quantity, undone.average_fill_price) == (
        Status.EXECUTED,
        0,
        0,
    )
    assert (desk.book.cash, desk.held.quantity, desk.held.cost) == (9999, 0, 0)
    assert desk.held.last_price == 100
    again = desk.order(executed(order, "e1.03", 10, 99))
    assert (again.filled_value, desk.book.cash) == (990, 9009)


def test_a_correction_beyond_the_order_is_refused() -> None:
    desk = desk_with()
    order = placed(desk)
    desk.order(executed(order, "e1.01", 9))
    with desk.refused(IllegalFillError) as error:
        desk.order(executed(order, "e1.02", 11))
    assert error.value.figures == {"quantity": "10", "booked": "9", "corrected": "11"}


def test_a_correction_of_a_buy_that_was_sold_meanwhile_changes_what_was_realised() -> None:
    desk = desk_with()
    order = placed(desk)
    desk.order(executed(order, "e1.01", 10, 100))
    sale = placed(desk, Side.SELL)
    desk.order(executed(sale, "s1.01", 10, 110))
    assert desk.held.realized_pnl == 100
    desk.order(executed(order, "e1.02", 10, 102))
    assert (desk.held.realized_pnl, desk.held.cost, desk.book.cash) == (80, 0, 10_080)


def test_a_correction_takes_no_shares_that_are_gone_or_being_sold() -> None:
    desk = desk_with()
    order = placed(desk)
    desk.order(executed(order, "e1.01", 10, 100))
    placed(desk, Side.SELL, 7)
    with desk.refused(InsufficientSharesError) as error:
        desk.order(executed(order, "e1.02", 6, 100))
    assert error.value.figures == {"symbol": "SPXL", "wanted": "4", "held": "10", "free": "3"}


def test_a_correction_that_takes_more_value_than_is_left_goes_on_to_what_was_realised() -> None:
    desk = desk_with()
    order = placed(desk)
    desk.order(executed(order, "e1.01", 10, 100))
    desk.order(executed(placed(desk, Side.SELL, 9), "s1.01", 9, 100))
    desk.order(executed(order, "e1.02", 10, 80))
    assert (desk.held.cost, desk.held.realized_pnl, desk.book.cash) == (0, 100, 10_100)


@pytest.mark.parametrize(
    ("quantity", "price", "held", "cost", "profit", "cash"),
    [
        (6, 70, 4, 200, 120, 420),  # the price alone
        (5, 60, 5, 250, 50, 300),  # fewer sold: one comes back at its cost
        (8, 60, 2, 100, 80, 480),  # more sold
        (10, 60, 0, 0, 100, 600),
    ],
)
def test_a_corrected_sale_keeps_cost_and_profit_apart(
    quantity: int, price: int, held: int, cost: int, profit: int, cash: int
) -> None:
    desk = desk_with(0, shares=10, cost=500)
    order = placed(desk, Side.SELL)
    desk.order(executed(order, "e1.01", 6, 60))
    desk.order(executed(order, "e1.02", quantity, price))
    assert (desk.held.quantity, desk.held.cost) == (held, cost)
    assert (desk.held.realized_pnl, desk.book.cash) == (profit, cash)
    assert desk.held.reserved_quantity == held  # the order is open still


def test_shares_that_come_back_to_a_flat_position_cost_what_they_did_not_bring() -> None:
    desk = desk_with(0, shares=10, cost=500)
    order = placed(desk, Side.SELL)
    desk.order(executed(order, "e1.01", 10, 60))
    desk.order(executed(order, "e1.02", 8, 60))
    assert (desk.held.quantity, desk.held.cost, desk.held.realized_pnl) == (2, 120, 100)
    assert desk.held.reserved_quantity == 0


def test_a_late_commission_is_charged_once_and_a_changed_one_by_its_difference() -> None:
    desk = desk_with()
    order = placed(desk)
    desk.order(executed(order))
    charged = desk.order(charge(order, "1.25"))
    assert (charged.commission, charged.status) == (d("1.25"), Status.EXECUTED)
    assert desk.order(charge(order, "1.25")) == charged
    assert desk.order(executed(order, commission="1.25")) == charged
    assert desk.order(charge(order, "1.00")).commission == 1
    assert (desk.book.cash, desk.held.realized_pnl) == (8999, -1)
    assert [e.amount for e in desk.entries if e.kind is CashKind.COMMISSION] == [
        d("-1.25"),
        d("0.25"),
    ]
    assert [f.execution_id for f in desk.fills] == [
        "e1.01",
        "e1.01:commission",
        "e1.01:commission-2",
    ]


def test_the_commission_of_a_correction_replaces_that_of_the_execution() -> None:
    for reports in (("e1.01", "e1.02"), ("e1.02", "e1.01")):
        desk = desk_with()
        order = placed(desk)
        desk.submit(executed(order, "e1.01", 4), executed(order, "e1.02", 5))
        for execution_id in reports:
            desk.order(charge(order, "2" if execution_id == "e1.01" else "0", execution_id))
        assert desk.orders[order.order_id].commission == 0


def test_the_commission_of_an_execution_that_is_not_booked_is_refused() -> None:
    desk = desk_with()
    order = placed(desk)
    with desk.refused(IllegalFillError) as error:
        desk.order(charge(order, "1"))
    assert error.value.figures == {"execution_id": "e1.01"}
    desk.order(executed(order, "e1.01", 4))
    with desk.refused(IllegalFillError):
        desk.order(charge(order, "1", "e1.02"))


# -- ends --


def test_ending_a_partly_filled_order_releases_the_rest() -> None:
    desk = desk_with(1021, shares=10, cost=500)
    buy, sell = placed(desk), placed(desk, Side.SELL)
    desk.submit(executed(buy, "e1.01", 4), executed(sell, "e2.01", 3))
    desk.submit(end(buy), end(sell, Status.REJECTED))
    assert (desk.book.reserved_cash, desk.held.reserved_quantity) == (0, 0)
    assert desk.held.quantity == 11


def test_an_order_that_has_ended_is_answered_as_it_is() -> None:
    desk = desk_with()
    order = placed(desk)
    ended = desk.order(end(order))
    for status in (Status.CANCELLED, Status.REJECTED, Status.UNKNOWN):
        assert desk.order(end(order, status, "Another reason.")) == ended
    version = desk.book.version
    unknown = placed(desk)
    desk.order(end(unknown, Status.UNKNOWN, "One."))
    assert desk.order(end(unknown, Status.UNKNOWN, "Two.")).reason == "One."
    assert desk.book.version == version + 2


# -- any order --


@dataclass(frozen=True)
class Leg:
    """One execution and its corrections: (quantity, price, commission or None), oldest first."""

    number: int
    words: tuple[tuple[int, Decimal, Decimal | None], ...]

    def executions(self, order: Order, *, told: bool) -> list[Command]:
        """All that the broker says of it, oldest first; `told`: with the commissions it knows."""
        return [
            executed(
                order,
                f"e{self.number}.{i:02}",
                quantity,
                str(price),
                str(commission) if told and commission is not None else None,
            )
            for i, (quantity, price, commission) in enumerate(self.words, 1)
        ]

    def commissions(self, order: Order) -> list[Command]:
        return [
            charge(order, str(word[2]), f"e{self.number}.{i:02}")
            for i, word in enumerate(self.words, 1)
            if word[2] is not None
        ]


History = tuple[list[Leg], int]  # whose last words fit an order, and its quantity

PRICES = st.decimals("90", "110", places=4)
CENTS = st.none() | st.decimals("0", "2", places=2)
FIRST = st.tuples(st.integers(1, 10), PRICES, CENTS)
LATER_WORD = st.tuples(st.integers(0, 10), PRICES, CENTS)


@st.composite
def histories(draw: st.DrawFn) -> History:
    """What the broker says of one order."""
    count = draw(st.integers(1, 4))
    legs = [Leg(i, (draw(FIRST), *draw(st.lists(LATER_WORD, max_size=2)))) for i in range(count)]
    last = sum(leg.words[-1][0] for leg in legs)
    return legs, max(1, last + draw(st.integers(0, 3)))


@PROPERTY
@given(
    bought=histories(),
    sold=histories(),
    ends=st.lists(
        st.tuples(
            st.sampled_from(Side),
            st.sampled_from([Status.CANCELLED, Status.REJECTED, Status.UNKNOWN]),
        ),
        max_size=3,
    ),
    data=st.data(),
)
def test_any_order_of_words_comes_to_the_last_words(
    bought: History, sold: History, ends: list[tuple[Side, Status]], data: st.DataObject
) -> None:
    desk = desk_with(100_000, shares=100, cost=7777)
    legs = {Side.BUY: bought[0], Side.SELL: sold[0]}
    orders = {
        Side.BUY: placed(desk, Side.BUY, bought[1]),
        Side.SELL: placed(desk, Side.SELL, sold[1]),
    }
    words: list[Command] = [end(orders[side], status) for side, status in ends]
    for side, order in orders.items():
        for leg in legs[side]:
            words += leg.executions(order, told=data.draw(st.booleans()))
            words += leg.commissions(order)
    words += data.draw(st.lists(st.sampled_from(words), max_size=5))
    for word in data.draw(st.permutations(words)):
        _say(desk, word)
    # The evidence, as it is asked for again and again: a correction may first make room.
    for _ in range(3):
        for side, order in orders.items():
            for leg in legs[side]:
                for word in leg.executions(order, told=False) + leg.commissions(order):
                    _say(desk, word)

    cash, shares = d(100_000), d(100)
    for side, order in orders.items():
        after = desk.orders[order.order_id]
        quantity, value, commission = _truth(desk, after, legs[side])
        assert (after.filled_quantity, after.filled_value) == (quantity, value)
        assert after.commission == commission
        sign = 1 if side is Side.BUY else -1
        cash -= sign * value + commission
        shares += sign * quantity
        if after.is_open:
            assert after.open_quantity > 0
    assert (desk.book.cash, desk.held.quantity) == (cash, shares)
    assert desk.book.capital == 107_777
    reserved = [o.open_quantity for o in desk.orders.values() if o.is_open and o.side is Side.SELL]
    assert desk.held.reserved_quantity == sum(reserved)


def _truth(desk: LiveDesk, order: Order, legs: list[Leg]) -> tuple[Decimal, Decimal, Decimal]:
    """Quantity, value and commission of an order by the last words of its legs."""
    last = [leg.words[-1] for leg in legs]
    value = sum((half_even(exactly(d(q)) * exactly(p)) for q, p, _ in last), d(0))
    # A trade that was taken back before it ever fitted leaves nothing, not even its commission.
    booked = {
        fill.execution_id.partition(".")[0]
        for fill in desk.fills
        if fill.order_id == order.order_id
    }
    assert all(leg.words[-1][0] == 0 for leg in legs if f"e{leg.number}" not in booked)
    commission = sum((_last_commission(leg) for leg in legs if f"e{leg.number}" in booked), d(0))
    return d(sum(q for q, _, _ in last)), value, commission


def _say(desk: LiveDesk, word: Command) -> None:
    """What does not fit now is refused, and said again later."""
    batch = desk.batch()
    try:
        word.run(batch)
    except LedgerError:
        assert not batch.changes
        return
    desk.take(batch)


def _last_commission(leg: Leg) -> Decimal:
    known = [word[2] for word in leg.words if word[2] is not None]
    return known[-1] if known else d(0)


def test_corrections_can_reopen_room_for_another_execution() -> None:
    desk = desk_with()
    order = desk.order(CreateOrder(NAME, "SPXL", Side.BUY, d(10), d(100)))
    desk.order(executed(order, "a.01", 10))
    with desk.refused(IllegalFillError):
        desk.order(executed(order, "b.01", 5))
    desk.order(executed(order, "a.02", 5))
    whole = desk.order(executed(order, "b.01", 5))
    assert (whole.status, whole.filled_quantity, whole.reason) == (Status.EXECUTED, 10, "")


def test_what_is_learnt_of_a_fill_later_is_no_newer_price() -> None:
    filled = fill(buy(book_with(10_000, mode=Mode.LIVE)), 10)
    much_later = LATER + timedelta(hours=1)
    charged = ledger.book_commission(filled.book, filled.order, "x", d(1), much_later)
    change = Execution("y", d(0), d(-5), d(0))
    corrected = ledger.book_correction(
        charged.book, charged.order, change, d("99.5"), much_later, ACTOR
    )
    seen = PriceMark(NAME, "SPXL", d(200), LATER + timedelta(minutes=1))  # after the trade
    book = corrected.book
    batch = Batch(
        Snapshot({}, {}, {}, {}, {}, {}, {}, marks={(NAME, "SPXL"): seen}),
        Desk({}, new_id, much_later),
    )
    assert book.positions["SPXL"].last_price == d("99.5")
    assert batch.positions_value(book) == 2000

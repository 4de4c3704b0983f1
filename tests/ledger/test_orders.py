"""The life of an order: reserved when it is accepted, posted on each fill, released at its end."""

from dataclasses import replace
from itertools import product

import pytest

from services.portfolio.domain import ledger
from services.portfolio.domain.book import CashKind
from services.portfolio.domain.errors import (
    IllegalFillError,
    IllegalStatusChangeError,
    InsufficientCashError,
    InsufficientSharesError,
    LedgerError,
    TooLargeError,
)
from services.portfolio.domain.ledger import Ticket
from services.portfolio.domain.money import LARGEST, ZERO
from services.portfolio.domain.order import TRANSITIONS, Execution, Mode, Order, Side, Status
from tests.ledger.values import (
    ACTOR,
    LATER,
    NOW,
    book_with,
    buy,
    d,
    fill,
    new_id,
    sell,
    ticket,
)

S = Status
LEGAL = {
    (S.PENDING, S.EXECUTED),
    (S.PENDING, S.CANCELLED),
    (S.PENDING, S.REJECTED),
    (S.PENDING, S.UNKNOWN),
    (S.UNKNOWN, S.EXECUTED),
    (S.UNKNOWN, S.CANCELLED),
    (S.UNKNOWN, S.REJECTED),
}


def test_an_accepted_buy_reserves_its_value_and_its_allowance() -> None:
    booked = ledger.accept(book_with(1010), ticket(Side.BUY, 10, 100, allowance=10), NOW)
    assert booked.order.status is Status.PENDING
    assert booked.order.reserved_cash == 1010
    assert (booked.book.cash, booked.book.reserved_cash, booked.book.free_cash) == (1010, 1010, 0)
    assert booked.fill is None
    assert booked.cash_entries == ()


def test_a_buy_that_the_free_cash_does_not_pay_for_is_refused_with_the_figures() -> None:
    book = buy(book_with(1000), 4, 100).book
    with pytest.raises(InsufficientCashError) as refused:
        buy(book, 10, "150.5")
    assert refused.value.message.startswith("Buying 10 SPXL needs 1505.00 USD; 600.00 USD is free.")
    assert refused.value.figures == {"needed": "1505.00", "free": "600.00"}


def test_an_accepted_sale_reserves_its_shares_and_no_cash() -> None:
    booked = sell(book_with(shares=10, cost=500), 4)
    position = booked.book.positions["SPXL"]
    assert booked.order.reserved_cash == 0
    assert (position.quantity, position.reserved_quantity, position.free_quantity) == (10, 4, 6)
    assert booked.book.reserved_cash == 0


@pytest.mark.parametrize(("held", "free"), [("10", "6"), ("0", "0")])
def test_a_sale_of_more_than_is_free_is_refused_with_the_figures(held: str, free: str) -> None:
    book = book_with(shares=held, cost=500)
    if d(held):
        book = sell(book, 4).book
    with pytest.raises(InsufficientSharesError) as refused:
        sell(book, "6.00000001")
    assert refused.value.figures == {
        "symbol": "SPXL",
        "wanted": "6.00000001",
        "held": held,
        "free": free,
    }


def test_a_whole_fill_moves_cash_and_shares_and_executes_the_order() -> None:
    filled = fill(buy(book_with(2000), 10, 100), 10, "99.5", commission=3)
    order, book = filled.order, filled.book
    assert order.status is Status.EXECUTED
    assert (order.filled_quantity, order.filled_value, order.commission) == (10, 995, 3)
    assert order.average_fill_price == d("99.5")
    assert (order.reserved_cash, book.reserved_cash, book.cash) == (0, 0, 1002)
    assert [(e.kind, e.amount) for e in filled.cash_entries] == [
        (CashKind.TRADE, -995),
        (CashKind.COMMISSION, -3),
    ]
    assert filled.fill is not None
    assert filled.fill.price == d("99.5")
    assert filled.fill.book_version == book.version
    assert filled.event is not None
    assert (filled.event.from_status, filled.event.to_status) == (S.PENDING, S.EXECUTED)


def test_a_partial_fill_releases_its_part_and_leaves_the_order_open() -> None:
    filled = fill(buy(book_with(1000), 10, 100), 4, 90)
    assert filled.order.status is Status.PENDING
    assert filled.order.open_quantity == 6
    assert filled.order.reserved_cash == filled.book.reserved_cash == 600
    assert filled.book.cash == 640
    assert filled.event is None


def test_rounding_of_partial_releases_is_settled_by_the_last_fill() -> None:
    booked = buy(book_with(1000), 3, "33.33333333")
    kept = [booked.order.reserved_cash]
    for _ in range(3):
        booked = fill(booked, 1)
        kept.append(booked.order.reserved_cash)
    assert kept == [d("99.99999999"), d("66.66666666"), d("33.33333333"), 0]
    assert booked.book.reserved_cash == 0


def test_a_release_is_rounded_half_to_even() -> None:
    booked = buy(book_with(1000), 2, "0.00000001")  # reserves 0.00000002 for 2 shares
    released = booked.order.reserved_cash - fill(booked, "0.5", 1).order.reserved_cash
    assert released == 0  # half a step goes to the even 0
    released = booked.order.reserved_cash - fill(booked, "1.5", 1).order.reserved_cash
    assert released == d("0.00000002")  # a step and a half goes to the even 2


def test_cancelling_releases_what_is_left_and_keeps_what_was_filled() -> None:
    filled = fill(buy(book_with(1000), 10, 100), 4, 90)
    ended = ledger.end(filled.book, filled.order, S.CANCELLED, "enough", LATER, ACTOR)
    assert (ended.order.status, ended.order.reason) == (S.CANCELLED, "enough")
    assert (ended.order.reserved_cash, ended.book.reserved_cash) == (0, 0)
    assert ended.book.cash == 640
    assert ended.book.positions["SPXL"].quantity == 4
    assert ended.event is not None
    assert (ended.event.reason, ended.event.actor) == ("enough", ACTOR)


def test_rejecting_a_sale_releases_its_shares() -> None:
    filled = fill(sell(book_with(shares=10, cost=500), 8), 3)
    ended = ledger.end(filled.book, filled.order, S.REJECTED, "no", LATER, ACTOR)
    position = ended.book.positions["SPXL"]
    assert (position.quantity, position.reserved_quantity) == (7, 0)


def test_an_order_that_becomes_unknown_keeps_its_reservation() -> None:
    booked = buy(book_with(1000), 10, 100)
    unknown = ledger.end(booked.book, booked.order, S.UNKNOWN, "no answer", LATER, ACTOR)
    assert (unknown.order.reserved_cash, unknown.book.reserved_cash) == (1000, 1000)
    assert unknown.order.is_open
    sale = sell(book_with(shares=10, cost=500), 8)
    unknown = ledger.end(sale.book, sale.order, S.UNKNOWN, "no answer", LATER, ACTOR)
    assert unknown.book.positions["SPXL"].reserved_quantity == 8


def test_an_executed_order_does_not_keep_the_reason_why_it_was_unknown() -> None:
    booked = buy(book_with(1000), 10, 100)
    unknown = ledger.end(booked.book, booked.order, S.UNKNOWN, "no answer", LATER, ACTOR)
    assert fill(unknown, 10).order.reason == ""
    assert ledger.end(unknown.book, unknown.order, S.EXECUTED, "x", NOW, ACTOR).order.reason == ""


@pytest.mark.parametrize(("current", "wanted"), [*product(Status, Status)])
def test_a_status_changes_only_as_the_table_says(current: Status, wanted: Status) -> None:
    booked = order_in(current)
    if wanted is current:
        same = ledger.end(booked.book, booked.order, wanted, "again", LATER, ACTOR)
        assert same == ledger.Booking(booked.book, booked.order)
    elif (current, wanted) in LEGAL:
        ended = ledger.end(booked.book, booked.order, wanted, "", LATER, ACTOR)
        assert ended.order.status is wanted
        assert ended.event is not None
        assert ended.book.version == booked.book.version + 1
    else:
        with pytest.raises(IllegalStatusChangeError) as refused:
            ledger.end(booked.book, booked.order, wanted, "", LATER, ACTOR)
        legal = sorted(to for frm, to in LEGAL if frm is current)
        assert refused.value.figures == {
            "order_id": str(booked.order.order_id),
            "status": current.value,
            "wanted": wanted.value,
            "legal": ",".join(legal),
        }
        assert ("that is final" in refused.value.message) is (not legal)


def test_the_table_names_every_status() -> None:
    assert set(TRANSITIONS) == set(Status)
    assert {(a, b) for a, to in TRANSITIONS.items() for b in to} == LEGAL


@pytest.mark.parametrize("quantity", ["0", "-1", "10.00000001"])
def test_a_fill_must_fit_what_is_open(quantity: str) -> None:
    booked = buy(book_with(1000), 10, 100)
    with pytest.raises(IllegalFillError) as refused:
        ledger.book_fill(
            booked.book,
            booked.order,
            Execution("x", d(quantity), d(1), ZERO),
            new_id(),
            LATER,
            ACTOR,
        )
    assert refused.value.figures["open"] == "10"


def test_an_executed_order_takes_no_more_fills() -> None:
    with pytest.raises(IllegalFillError):
        fill(fill(buy(book_with(1000), 10, 100), 10), "0.00000001")


def test_a_fill_worth_less_than_a_hundred_millionth_of_a_dollar_is_refused() -> None:
    # It would move shares for nothing.
    with pytest.raises(IllegalFillError, match=r"comes to less than 0\.00000001 USD") as refused:
        fill(buy(book_with(1000), "0.00000001", "0.5"), "0.00000001")
    assert refused.value.figures == {"fill": "0.00000001", "price": "0.50"}


def test_a_paper_fill_above_the_price_may_spend_free_cash_but_not_more() -> None:
    booked = buy(book_with(1100), 10, 100)
    assert fill(booked, 10, 110).book.cash == 0
    with pytest.raises(InsufficientCashError) as refused:
        fill(booked, 10, "110.001")
    assert refused.value.figures == {"needed": "1100.01", "free": "1100.00"}
    other = buy(booked.book, 1, 100)  # has reserved what was free
    with pytest.raises(InsufficientCashError):
        fill(ledger.Booking(other.book, booked.order), 10, "100.00000001")


def test_a_paper_sale_whose_commission_eats_more_than_there_is_says_what_is_missing() -> None:
    with pytest.raises(InsufficientCashError) as refused:
        fill(sell(book_with(cash=3, shares=10, cost=5), 10, 1), 10, 1, commission=15)
    assert refused.value.figures == {"needed": "5.00", "free": "3.00"}


def test_a_live_fill_above_the_price_is_booked_truthfully() -> None:
    filled = fill(buy(book_with(1000, mode=Mode.LIVE), 10, 100), 10, 101)
    assert filled.book.cash == -10


def test_average_cost_is_the_mean_of_what_was_paid() -> None:
    filled = fill(buy(book_with(1000), 10, 10), 10)
    filled = fill(buy(filled.book, 5, 13), 5, commission=2)
    position = filled.book.positions["SPXL"]
    assert position.average_cost == 11
    assert position.cost == 165
    assert position.realized_pnl == -2  # commission is not part of the cost


def test_realised_profit_is_proceeds_less_cost_and_commission() -> None:
    filled = fill(sell(book_with(shares=3, cost=10), 1), 1, 5, commission="0.5")
    position = filled.book.positions["SPXL"]
    assert position.cost == d("6.66666667")
    assert position.realized_pnl == d("1.16666667")
    assert position.last_price == 5


def test_the_last_share_takes_the_rest_of_the_cost_and_its_rounding() -> None:
    booked = sell(book_with(shares=3, cost=10), 3)
    for _ in range(3):
        booked = fill(booked, 1, 4)
    position = booked.book.positions["SPXL"]
    assert (position.quantity, position.cost, position.realized_pnl) == (0, 0, 2)
    assert position.average_cost == 0


def test_a_position_keeps_its_id_and_its_profit_while_flat() -> None:
    first = book_with(cash=1000, shares=3, cost=10)
    flat = fill(sell(first, 3), 3, 4).book
    again = fill(buy(flat, 1, 4), 1).book
    assert again.positions["SPXL"].position_id == first.positions["SPXL"].position_id
    assert again.positions["SPXL"].realized_pnl == 2


def test_amounts_beyond_what_28_digits_hold_are_refused() -> None:
    huge = book_with(cash="1E12")
    with pytest.raises(TooLargeError) as refused:
        buy(huge, "1E20", "0.00000001")
    assert refused.value.figures == {
        "amount": "100000000000000000000.00",
        "largest": "99999999999999999999.99999999",
    }
    holding = book_with(shares="1E12", cost=1)
    with pytest.raises(TooLargeError):
        fill(sell(holding, "1E12", "1E9"), "1E12")
    assert fill(sell(holding, "1E11", "999999999"), "1E11").book.cash < LARGEST


def order_in(status: Status) -> ledger.Booking:
    """A booking whose order is in this status."""
    booked = buy(book_with(1000), 10, 100)
    if status is Status.PENDING:
        return booked
    return ledger.end(booked.book, booked.order, status, "", LATER, ACTOR)


def test_an_order_tells_what_is_open() -> None:
    order: Order = fill(buy(book_with(1000), 10, 100), 4).order
    assert order.open_quantity == 6
    assert {s: order_in(s).order.is_open for s in Status} == {
        S.PENDING: True,
        S.UNKNOWN: True,
        S.EXECUTED: False,
        S.CANCELLED: False,
        S.REJECTED: False,
    }


@pytest.mark.parametrize("side", Side)
@pytest.mark.parametrize("commission", [0, 3])
def test_filling_at_once_is_accepting_and_then_filling(side: Side, commission: int) -> None:
    book = buy(book_with(10_000, shares=20, cost=150), quantity=5).book
    wish = ticket(side, 10, 100, commission)
    execution = Execution("x", wish.quantity, d(995), d(commission))
    position_id = book.positions["SPXL"].position_id
    accepted = ledger.accept(book, wish, NOW)
    slow = ledger.book_fill(accepted.book, accepted.order, execution, position_id, NOW, ACTOR)
    fast = ledger.accept_filled(book, wish, execution, position_id, NOW)
    assert fast.order == slow.order
    assert replace(fast.book, version=slow.book.version) == slow.book
    assert fast.book.version == book.version + 1
    assert slow.fill is not None
    assert fast.fill == replace(slow.fill, book_version=fast.book.version)
    assert fast.cash_entries == tuple(
        replace(entry, book_version=fast.book.version) for entry in slow.cash_entries
    )
    assert fast.event is None  # it was never PENDING


@pytest.mark.parametrize("wish", [ticket(Side.BUY, 11, 100), ticket(Side.SELL, 21, 100)])
def test_filling_at_once_refuses_what_accepting_refuses(wish: Ticket) -> None:
    book = book_with(1099, shares=20, cost=150)
    with pytest.raises(LedgerError) as slow:
        ledger.accept(book, wish, NOW)
    with pytest.raises(type(slow.value)) as fast:
        ledger.accept_filled(book, wish, Execution("x", wish.quantity, d(1), d(0)), new_id(), NOW)
    assert str(fast.value) == str(slow.value)

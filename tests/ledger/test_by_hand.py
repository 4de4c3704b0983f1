"""What a person sets: cash, positions, and how an order ended."""

from dataclasses import replace

import pytest

from services.portfolio.domain import ledger
from services.portfolio.domain.book import Book, CashKind
from services.portfolio.domain.errors import IllegalFillError, ReservedError
from services.portfolio.domain.ledger import Booking, Report, execution_from_report
from services.portfolio.domain.order import Execution, Status
from services.portfolio.domain.position import Position, PositionAdjustment, empty_position
from tests.ledger.values import ACTOR, LATER, NAME, NOW, book_with, buy, d, fill, new_id, sell


def set_spxl(
    book: Book, quantity: str | int, cost: str | int
) -> tuple[Book, tuple[PositionAdjustment, ...]]:
    """Sets the SPXL position, at a price of 7."""
    wanted = replace(
        empty_position(new_id(), "SPXL", NOW), quantity=d(quantity), cost=d(cost), last_price=d(7)
    )
    return ledger.set_position(book, wanted, "moved", LATER, ACTOR)


def missing(booked: Booking, report: Report) -> Execution | None:
    """The fill that the report adds."""
    return execution_from_report(booked.order, report, "by-hand")


def test_setting_cash_books_the_difference_with_who_and_why() -> None:
    book = book_with(1000)
    after, (entry,) = ledger.set_cash(book, d("250.5"), CashKind.ADJUSTMENT, "paid", LATER, ACTOR)
    assert after.cash == d("250.5")
    assert after.version == entry.book_version == book.version + 1
    assert (entry.kind, entry.amount) == (CashKind.ADJUSTMENT, d("-749.5"))
    assert (entry.actor, entry.reason, entry.time) == (ACTOR, "paid", LATER)


def test_setting_the_cash_there_is_books_nothing() -> None:
    book = book_with(1000)
    same = ledger.set_cash(book, d("1000.00"), CashKind.ADJUSTMENT, "", LATER, ACTOR)
    assert same == (book, ())


def test_cash_cannot_be_set_below_what_open_orders_have_reserved() -> None:
    book = buy(book_with(1000), 4, 100).book
    assert ledger.set_cash(book, d(400), CashKind.ADJUSTMENT, "", LATER, ACTOR)[0].free_cash == 0
    with pytest.raises(ReservedError) as refused:
        ledger.set_cash(book, d("399.99999999"), CashKind.ADJUSTMENT, "", LATER, ACTOR)
    assert refused.value.figures == {"wanted": "399.99999999", "reserved": "400.00"}
    assert "Cancel or finish those orders first" in refused.value.message


def test_setting_a_position_books_the_deltas_and_leaves_cash_and_profit() -> None:
    book = fill(sell(book_with(cash=5, shares=10, cost=50), 4), 4, 6).book
    after, (adjustment,) = set_spxl(book, 20, 90)
    position = after.positions["SPXL"]
    assert (position.quantity, position.cost, position.last_price) == (20, 90, 7)
    assert position.realized_pnl == book.positions["SPXL"].realized_pnl == 4
    assert position.position_id == book.positions["SPXL"].position_id
    assert after.cash == book.cash
    assert (adjustment.quantity_delta, adjustment.cost_delta) == (14, 60)
    assert (adjustment.price, adjustment.actor, adjustment.reason) == (7, ACTOR, "moved")
    assert adjustment.book_version == after.version == book.version + 1


def test_a_new_position_takes_the_id_it_is_given() -> None:
    wanted = Position(new_id(), "AVL", d(1), d(0), d(2), d(0), d(2), NOW)
    after, _ = ledger.set_position(book_with(), wanted, "", LATER, ACTOR)
    assert after.positions["AVL"].position_id == wanted.position_id


def test_setting_a_position_to_what_it_is_books_nothing() -> None:
    book = book_with(shares=10, cost=50)
    assert set_spxl(book, "10.0", "50.00") == (book, ())


def test_shares_cannot_be_set_below_what_open_orders_are_selling() -> None:
    book = sell(book_with(shares=10, cost=50), 4).book
    assert set_spxl(book, 4, 20)[0].positions["SPXL"].free_quantity == 0
    with pytest.raises(ReservedError) as refused:
        set_spxl(book, "3.99999999", 20)
    assert refused.value.figures == {"wanted": "3.99999999", "reserved": "4.00"}
    assert refused.value.message.startswith("Open orders have reserved 4.00 SPXL;")


def test_a_report_of_executed_without_figures_fills_the_rest_at_the_orders_price() -> None:
    booked = fill(buy(book_with(1000), 10, 100), 4, 90)
    assert missing(booked, Report(Status.EXECUTED)) == Execution("by-hand", d(6), d(600), d(0))


@pytest.mark.parametrize("status", [Status.CANCELLED, Status.REJECTED, Status.UNKNOWN])
def test_a_report_of_another_end_without_figures_fills_nothing(status: Status) -> None:
    booked = fill(buy(book_with(1000), 10, 100), 4, 90)
    assert missing(booked, Report(status)) is None


def test_reported_figures_are_of_all_fills_together() -> None:
    booked = fill(buy(book_with(1000), 10, 100), 4, 90, commission=1)
    report = Report(Status.CANCELLED, d(6), d(92), d("1.5"))
    assert missing(booked, report) == Execution("by-hand", d(2), d(192), d("0.5"))


@pytest.mark.parametrize(
    ("report", "said"),
    [
        (Report(Status.CANCELLED, d(3)), "does not fit"),
        (Report(Status.EXECUTED, d("10.00000001")), "does not fit"),
        (Report(Status.CANCELLED, d(5), commission=d("0.5")), "does not fit"),
        (Report(Status.CANCELLED, d(4), d(91)), "booked fills do not change"),
        (Report(Status.CANCELLED, d(4), commission=d(2)), "booked fills do not change"),
        (Report(Status.EXECUTED, d(10), d(36)), "leaves nothing for the rest"),
        (Report(Status.CANCELLED, d(10)), "Report it as EXECUTED"),
        (Report(Status.UNKNOWN, d(10)), "Report it as EXECUTED"),
    ],
)
def test_a_report_that_contradicts_what_is_booked_is_refused(report: Report, said: str) -> None:
    booked = fill(buy(book_with(1000), 10, 100), 4, 90, commission=1)
    with pytest.raises(IllegalFillError, match=said) as refused:
        missing(booked, report)
    assert refused.value.figures


def test_reporting_the_shown_mean_again_changes_nothing_although_it_is_rounded() -> None:
    booked = fill(buy(book_with(1000), 10, 100), 1, 3)
    booked = fill(booked, 2, "3.5")
    shown = booked.order.average_fill_price
    assert shown == d("3.33333333")
    assert missing(booked, Report(Status.CANCELLED, d(3), shown)) is None


def test_a_book_is_flat_when_it_holds_and_reserves_nothing() -> None:
    assert book_with(cash=5).is_flat
    assert not book_with(shares=1, cost=1).is_flat
    assert not buy(book_with(1000), 1, 1).book.is_flat
    assert fill(sell(book_with(shares=1, cost=1), 1), 1).book.is_flat
    assert book_with().strategy_name == NAME

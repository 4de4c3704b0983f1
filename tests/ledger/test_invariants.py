"""check_move finds each breach. A check that nothing can break checks nothing."""

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from services.portfolio.domain import ledger
from services.portfolio.domain.book import Book, CashEntry, CashKind
from services.portfolio.domain.invariants import check_book, check_move
from services.portfolio.domain.money import STEP, ZERO
from services.portfolio.domain.order import Mode
from services.portfolio.domain.position import Position
from tests.ledger.values import ACTOR, LATER, NAME, NOW, book_with, buy, d, fill, new_id


def holding(**changes: Any) -> Book:
    """A book with one position, some figures of which are as told."""
    position = Position(new_id(), "SPXL", d(2), d(1), d(10), ZERO, d(5), NOW)
    return replace(book_with(100), positions={"SPXL": replace(position, **changes)})


def entry(amount: Decimal, kind: CashKind = CashKind.ADJUSTMENT) -> CashEntry:
    return CashEntry(NAME, Mode.PAPER, 1, kind, amount, "", "", NOW)


def test_a_sound_book_passes() -> None:
    check_book(holding())
    check_book(replace(book_with(0), mode=Mode.LIVE, cash=d(-5)))


@pytest.mark.parametrize(
    ("book", "said"),
    [
        (replace(book_with(100), reserved_cash=-STEP), "negative reservation"),
        (replace(book_with(100), reserved_cash=100 + STEP), "does not cover"),
        (replace(book_with(100), cash=-STEP), "does not cover"),
        (holding(reserved_quantity=-STEP), "reserved shares that are not held"),
        (holding(reserved_quantity=2 + STEP), "reserved shares that are not held"),
        (holding(cost=-STEP), "negative cost"),
        (holding(quantity=ZERO, reserved_quantity=ZERO), "cost without shares"),
    ],
)
def test_an_unsound_book_is_caught(book: Book, said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        check_book(book)
    with pytest.raises(AssertionError, match=said):
        check_move(book, book, (), None)


def test_cash_that_moves_without_an_entry_is_caught() -> None:
    before = book_with(100)
    after = replace(before, cash=before.cash + STEP, version=before.version + 1)
    with pytest.raises(AssertionError, match="cash moved by other than"):
        check_move(before, after, (), None)
    check_move(before, after, (entry(STEP),), None)


def test_a_first_book_needs_entries_for_its_cash() -> None:
    check_move(None, book_with(100), (entry(d(100), CashKind.DEPOSIT),), None)
    with pytest.raises(AssertionError, match="cash moved by other than"):
        check_move(None, book_with(100), (), None)


def test_a_trade_that_makes_or_loses_capital_is_caught() -> None:
    booked = buy(book_with(1001), 10, 100)
    filled = fill(booked, 10, commission=1)
    check_move(booked.book, filled.book, filled.cash_entries, None)
    position = filled.book.positions["SPXL"]
    for wrong in (
        replace(position, cost=position.cost + STEP),
        replace(position, realized_pnl=position.realized_pnl + STEP),
    ):
        with pytest.raises(AssertionError, match="capital came from nowhere"):
            check_move(
                booked.book,
                replace(filled.book, positions={"SPXL": wrong}),
                filled.cash_entries,
                None,
            )


def test_an_adjustment_that_does_not_say_what_changed_is_caught() -> None:
    before = book_with(shares=10, cost=50)
    wanted = replace(before.positions["SPXL"], quantity=d(20), cost=d(90))
    after, (adjustment,) = ledger.set_position(before, wanted, "", LATER, ACTOR)
    check_move(before, after, (), adjustment)
    for wrong in (None, replace(adjustment, cost_delta=adjustment.cost_delta + STEP)):
        with pytest.raises(AssertionError, match="capital came from nowhere"):
            check_move(before, after, (), wrong)


def test_a_change_without_a_new_version_is_caught() -> None:
    before = book_with(100)
    check_move(before, before, (), None)
    with pytest.raises(AssertionError, match="without a new version"):
        check_move(before, replace(before, reserved_cash=STEP), (), None)

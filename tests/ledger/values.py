"""Values of the ledger, for tests: a book, an order, a fill, with sensible defaults."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import count
from uuid import UUID

from services.portfolio.domain import ledger
from services.portfolio.domain.book import (
    Book,
    CashKind,
    RequestedMode,
    State,
    Strategy,
    new_book,
)
from services.portfolio.domain.ledger import Booking, Ticket
from services.portfolio.domain.money import value_of
from services.portfolio.domain.order import Execution, Mode, Side
from services.portfolio.domain.position import empty_position

NAME = "Test_SPXL"
NOW = datetime(2024, 5, 6, 14, 30, tzinfo=UTC)
LATER = NOW + timedelta(seconds=1)
ACTOR = "tester"

_ids = count(1)


def new_id() -> UUID:
    """An id; each is greater than the one before."""
    return UUID(int=next(_ids))


def d(text: str | int) -> Decimal:
    """A Decimal."""
    return Decimal(text)


def strategy(name: str = NAME) -> Strategy:
    """An active strategy on PAPER."""
    return Strategy(name, RequestedMode.AUTO, Mode.PAPER, State.ACTIVE, "", NOW)


def book_with(
    cash: str | int = 0, shares: str | int = 0, cost: str | int = 0, mode: Mode = Mode.PAPER
) -> Book:
    """A book with cash, and shares of SPXL that cost `cost` in all."""
    book, _ = ledger.set_cash(new_book(NAME, mode, NOW), d(cash), CashKind.DEPOSIT, "", NOW, ACTOR)
    if not d(shares):
        return book
    wanted = replace(
        empty_position(new_id(), "SPXL", NOW), quantity=d(shares), cost=d(cost), last_price=d(1)
    )
    return ledger.set_position(book, wanted, "", NOW, ACTOR)[0]


def ticket(
    side: Side = Side.BUY,
    quantity: str | int = 10,
    price: str | int = 100,
    allowance: str | int = 0,
) -> Ticket:
    """What a strategy wants, in SPXL."""
    return Ticket(new_id(), "SPXL", side, d(quantity), d(price), "", d(allowance))


def buy(book: Book, quantity: str | int = 10, price: str | int = 100) -> Booking:
    """An accepted buy."""
    return ledger.accept(book, ticket(Side.BUY, quantity, price), NOW)


def sell(book: Book, quantity: str | int = 10, price: str | int = 100) -> Booking:
    """An accepted sale."""
    return ledger.accept(book, ticket(Side.SELL, quantity, price), NOW)


def fill(
    booked: Booking,
    quantity: str | int,
    price: str | int | None = None,
    commission: str | int = 0,
) -> Booking:
    """The booking after one fill of its order, at the order's price unless told."""
    order = booked.order
    value = value_of(d(quantity), order.price if price is None else d(price))
    execution = Execution(f"x{next(_ids)}", d(quantity), value, d(commission))
    return ledger.book_fill(booked.book, order, execution, new_id(), LATER, ACTOR)


def half_even(exact: Fraction) -> Decimal:
    """The fraction with 8 decimals, half to even: by integers alone, without decimal's rounding."""
    scaled = exact * 10**8
    return Decimal(f"{round(scaled)}E-8")  # round() of a Fraction goes half to even

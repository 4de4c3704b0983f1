"""Valuations: what a book was worth at the end of a session, and before money came or went.

Facts, numbered within their book. Each carries the growth until then: what 1 USD that was there at
the beginning has become. Since a book is valued before each flow, what comes or goes changes no
growth: a true time-weighted return (CFA Institute, Global Investment Performance Standards 2020).
"""

from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum

from services.portfolio.domain.book import Book
from services.portfolio.domain.money import EXACT, GROWTH_STEP, LARGEST, ZERO
from services.portfolio.domain.order import Mode

ONE = Decimal(1)


class ValuationKind(StrEnum):
    """Why a book was valued."""

    FLOW = "FLOW"  # money, or shares, came from outside or left
    CLOSE = "CLOSE"  # a session ended


@dataclass(frozen=True, slots=True)
class Valuation:
    """A fact: a book's worth, in USD, just before `flow` came (above 0) or left (below 0)."""

    strategy_name: str
    mode: Mode
    number: int  # 1 for the first of its book
    session: date | None  # of the strategy; None before it has reported a price
    kind: ValuationKind
    book_version: int
    cash: Decimal
    positions_value: Decimal
    flow: Decimal
    growth: Decimal  # with 18 decimals
    time: datetime

    @property
    def equity(self) -> Decimal:
        """Cash and positions, before the flow."""
        return self.cash + self.positions_value

    @property
    def base(self) -> Decimal:
        """What the next growth is measured by: the equity after the flow."""
        return self.equity + self.flow


def next_valuation(
    last: Valuation | None,
    book: Book,
    positions_value: Decimal,
    session: date | None,
    kind: ValuationKind,
    flow: Decimal,
    now: datetime,
) -> Valuation:
    """The valuation that follows `last`, of a book as it is before `flow`, in USD."""
    return Valuation(
        book.strategy_name,
        book.mode,
        1 if last is None else last.number + 1,
        session,
        kind,
        book.version,
        book.cash,
        positions_value,
        flow,
        growth_of(last, book.cash + positions_value),
        now,
    )


def growth_of(last: Valuation | None, equity: Decimal) -> Decimal:
    """What 1 USD of the beginning is worth now that the book is worth `equity`, in USD.

    1 before the first valuation. A book that had nothing, or less, has no growth; and none is
    beyond what a valuation can hold.
    """
    if last is None:
        return ONE
    if last.base <= ZERO:
        return last.growth
    growth = EXACT.multiply(last.growth, equity / last.base)
    return max(-LARGEST, min(growth, LARGEST)).quantize(GROWTH_STEP, context=EXACT)

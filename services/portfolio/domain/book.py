"""A book: one strategy in one mode. Its cash, its reservations and its positions.

Every command that changes a book raises its version by one. Facts carry the version they were
booked at, so that replaying them in that order gives the book again.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum

from services.portfolio.domain.money import ZERO
from services.portfolio.domain.order import Mode
from services.portfolio.domain.position import Position
from services.portfolio.domain.risk import NO_LIMITS, Limits


class RequestedMode(StrEnum):
    """Which mode the owner wants for a strategy."""

    AUTO = "AUTO"
    PAPER = "PAPER"
    LIVE = "LIVE"


def mode_to_be(requested: RequestedMode, trading_mode: Mode, *, promoted: bool) -> Mode:
    """The mode that a wish leads to under TRADING_MODE.

    PAPER is always PAPER, and nothing is LIVE unless TRADING_MODE is. AUTO is LIVE while the
    strategy is promoted.
    """
    wants_live = requested is RequestedMode.LIVE or (requested is RequestedMode.AUTO and promoted)
    return trading_mode if wants_live else Mode.PAPER


class State(StrEnum):
    """Whether a strategy may place orders."""

    ACTIVE = "ACTIVE"
    HALTED = "HALTED"


@dataclass(frozen=True, slots=True)
class Strategy:
    """A strategy as the portfolio sees it."""

    name: str
    requested_mode: RequestedMode
    mode: Mode  # in force
    state: State
    halt_reason: str
    update_time: datetime
    session: date | None = None  # that its prices are of; None before the first
    session_given: bool = False  # whether it says the session itself
    portfolio_halted: bool = False  # by the kill switch, beside its own state
    limits: Limits = NO_LIMITS
    promoted: bool = False  # what the promotion rule said last
    live_since: datetime | None = None  # when it last went LIVE
    silent: bool = False  # it was noted that it reports no prices
    flattening: bool = False  # what it holds is being sold, until it is flat

    @property
    def is_halted(self) -> bool:
        """Whether it takes no new orders: halted itself, or with everything."""
        return self.portfolio_halted or self.state is State.HALTED


@dataclass(frozen=True, slots=True)
class Book:
    """Cash and positions of one strategy in one mode, in USD and shares."""

    strategy_name: str
    mode: Mode
    version: int
    cash: Decimal
    reserved_cash: Decimal
    positions: Mapping[str, Position]  # by symbol; flat ones included
    update_time: datetime
    due: Decimal = ZERO  # it is to get (above 0), or to give once it is flat (below 0)

    @property
    def free_cash(self) -> Decimal:
        """Cash that a new order may spend."""
        return self.cash - self.reserved_cash + min(self.due, ZERO)

    @property
    def capital(self) -> Decimal:
        """What came from outside in all: cash and cost of what is held, less what was realised."""
        return self.cash + sum((p.cost - p.realized_pnl for p in self.positions.values()), ZERO)

    @property
    def is_flat(self) -> bool:
        """Whether it holds nothing and has nothing reserved."""
        return not self.reserved_cash and not any(
            p.quantity or p.reserved_quantity for p in self.positions.values()
        )


class CashKind(StrEnum):
    """Why cash moved."""

    DEPOSIT = "DEPOSIT"  # the cash a book began with
    ADJUSTMENT = "ADJUSTMENT"  # set by hand
    TRADE = "TRADE"  # the value of a fill
    COMMISSION = "COMMISSION"  # of a fill
    TRANSFER = "TRANSFER"  # from another book, or to one


@dataclass(frozen=True, slots=True)
class CashEntry:
    """A fact: cash came into a book (above 0) or left it (below 0), in USD."""

    strategy_name: str
    mode: Mode
    book_version: int
    kind: CashKind
    amount: Decimal
    actor: str
    reason: str
    time: datetime


def new_book(strategy_name: str, mode: Mode, now: datetime) -> Book:
    """An empty book."""
    return Book(strategy_name, mode, 0, ZERO, ZERO, {}, now)

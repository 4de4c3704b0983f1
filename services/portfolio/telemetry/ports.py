"""What the figures need of the world."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol

from services.portfolio.domain.order import Mode, Status
from services.portfolio.ports import BookKey


@dataclass(frozen=True, slots=True)
class StrategyFigures:
    """One strategy in its mode in force. Its figures are for people to look at, hence floats."""

    strategy_name: str
    mode: Mode
    is_halted: bool
    is_silent: bool
    cash_usd: float
    equity_usd: float
    seen_s: float | None  # when it last reported a price, in s since the epoch
    max_drawdown: float | None  # its limit
    number: int  # of its book's last valuation; 0 before the first
    growth: Decimal  # what 1 USD of the beginning is worth now

    @property
    def key(self) -> BookKey:
        """Its book."""
        return self.strategy_name, self.mode


@dataclass(frozen=True, slots=True)
class Standbys:
    """Who follows the database. `lag_s` is None where the router's role may not see it."""

    count: int
    are_waited_for: bool  # commits wait for one of them
    lag_s: float | None


@dataclass(frozen=True, slots=True)
class Reading:
    """The ledger at one moment."""

    strategies: Sequence[StrategyFigures]
    is_halted: bool  # the kill switch
    reserve_usd: Mapping[Mode, float]
    open_orders: Mapping[tuple[Mode, Status], int]  # PENDING and UNKNOWN; twins are left out
    oldest_unknown_s: float  # 0: there is none
    compared_s: float | None  # when the ledger was last compared with the broker
    unallocated_usd: float | None  # the broker's cash that no strategy has
    standbys: Standbys | None  # None: this engine does not tell
    ping_s: float  # how long it took the database to answer the simplest question


@dataclass(frozen=True, slots=True)
class Connections:
    """The pool's."""

    used: int
    idle: int


class FigureReads(Protocol):
    """Reads what is committed."""

    async def reading(self) -> Reading:
        """All of it. Raises UnavailableError when the database is away."""

    def connections(self) -> Connections:
        """Now, without asking the database."""

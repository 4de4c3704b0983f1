"""What readers see: a position at market, a strategy's state, whether it is invested."""

from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from uuid import UUID

from services.portfolio.domain.book import RequestedMode, State
from services.portfolio.domain.money import ZERO, market_value, per_share
from services.portfolio.domain.order import Mode
from services.portfolio.domain.risk import is_silent


@dataclass(frozen=True, slots=True)
class PositionView:
    """An open position at market. Quantities in shares, money in USD."""

    position_id: UUID
    strategy_name: str
    symbol: str
    mode: Mode
    quantity: Decimal
    cost: Decimal
    market_price: Decimal
    realized_pnl: Decimal
    update_time: datetime

    @property
    def average_cost(self) -> Decimal:
        """What a share cost on average."""
        return per_share(self.cost, self.quantity)

    @property
    def market_value(self) -> Decimal:
        """What the shares are worth at the market price."""
        return market_value(self.quantity, self.market_price)

    @property
    def unrealized_pnl(self) -> Decimal:
        """Market value less cost."""
        return self.market_value - self.cost


@dataclass(frozen=True, slots=True)
class PortfolioView:
    """A strategy's state in its mode in force, in USD."""

    strategy_name: str
    mode: Mode
    requested_mode: RequestedMode
    state: State
    cash: Decimal
    reserved_cash: Decimal
    positions_value: Decimal
    positions_cost: Decimal
    realized_pnl: Decimal
    invested: bool
    total_equity: Decimal  # of all strategies
    update_time: datetime
    halt_reason: str = ""
    seen_time: datetime | None = None  # when it last reported a price
    session: date | None = None  # that its prices are of
    lease_s: Decimal | None = None  # after which it is silent

    @property
    def equity(self) -> Decimal:
        """Cash and positions together."""
        return self.cash + self.positions_value

    @property
    def unrealized_pnl(self) -> Decimal:
        """Market value of the positions less their cost."""
        return self.positions_value - self.positions_cost

    @property
    def weight(self) -> Decimal:
        """The strategy's part of the equity of all; 0 when there is none."""
        return per_share(self.equity, self.total_equity) if self.total_equity else ZERO

    def is_silent(self, now: datetime) -> bool:
        """Whether it has reported no price for longer than its lease."""
        return is_silent(self.lease_s, self.seen_time, now)


@dataclass(frozen=True, slots=True)
class WholeView:
    """The portfolio as one: whether it is halted, and why."""

    halted: bool
    reason: str
    strategies: int  # how many there are
    update_time: datetime | None  # None: it was never halted, nor limited


@dataclass(frozen=True, slots=True)
class InvestedView:
    """The symbols a strategy holds in its mode in force."""

    strategy_name: str
    mode: Mode
    symbols: tuple[str, ...]

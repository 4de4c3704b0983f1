"""The commands: each says what it needs, and decides on the batch what will be.

A command is a frozen value: what a caller asked for, in the domain's types. `run` raises
or records what it decided; it never does both.
"""

import hashlib
from dataclasses import astuple, dataclass, fields, replace
from decimal import Decimal
from typing import Protocol
from uuid import UUID

from services.portfolio.batch import Batch
from services.portfolio.domain import ledger
from services.portfolio.domain.book import (
    CashKind,
    RequestedMode,
    State,
    Strategy,
)
from services.portfolio.domain.capital import RESERVE, Plan
from services.portfolio.domain.errors import (
    InsufficientCashError,
    NotAStrategyError,
    OrderIsLiveError,
)
from services.portfolio.domain.ledger import Report, Ticket
from services.portfolio.domain.money import ZERO, value_of
from services.portfolio.domain.order import BY_HAND, Mode, Order, Side, Status
from services.portfolio.domain.position import Position
from services.portfolio.domain.risk import (
    NO_LIMITS,
    Asked,
    RiskEventKind,
    StrategyLimits,
    require_within,
)
from services.portfolio.domain.valuation import ValuationKind
from services.portfolio.ports import Needs
from services.portfolio.promotion import modes, twin
from services.portfolio.promotion.modes import Settled
from services.portfolio.views import WholeView

ONE = Decimal(1)


@dataclass(frozen=True, slots=True)
class PortfolioOf:
    """The answer is this strategy's state, read once everything is written."""

    strategy_name: str


@dataclass(frozen=True, slots=True)
class PositionOf:
    """The answer is this position, read once everything is written."""

    position_id: UUID


Result = Order | PortfolioOf | PositionOf | WholeView | StrategyLimits | Plan | None


class Command(Protocol):
    """What a caller asks of the ledger."""

    @property
    def request_id(self) -> str:
        """Makes the command safe to repeat; may be empty."""

    def needs(self) -> Needs:
        """What it must see and hold still."""

    def run(self, batch: Batch) -> Result:
        """Decides and records.

        Raises:
            LedgerError: The ledger forbids it.
            UnavailableError: It needs a broker, and there is none now.
        """


def fingerprint(command: Command) -> bytes:
    """Equal for commands that ask for the same, request_id included; of 16 bytes.

    What a command brings beside that is not compared.
    """
    values = zip(fields(command), astuple(command), strict=True)  # type: ignore[arg-type, call-overload]  # a dataclass
    asked = (type(command).__name__, *(value for field, value in values if field.compare))
    return hashlib.blake2b(repr(asked).encode(), digest_size=16).digest()


@dataclass(frozen=True, slots=True)
class BuyAll:
    """Buy as many whole shares as the free cash allows."""

    strategy_name: str
    symbol: str
    price: Decimal
    request_id: str = ""

    def needs(self) -> Needs:  # noqa: D102 - as in Command
        return Needs(strategies=(self.strategy_name,))

    def run(self, batch: Batch) -> Order:  # noqa: D102 - as in Command
        strategy = batch.strategy(self.strategy_name)
        ledger.require_active(strategy)
        free_cash = batch.book((strategy.name, strategy.mode)).free_cash
        broker = batch.desk.broker(strategy.mode)
        quantity = broker.affordable(free_cash, self.price)
        if not quantity:
            cost_of_one = self.price + broker.allowance(ONE, self.price)
            raise InsufficientCashError(f"Buying 1 {self.symbol}", cost_of_one, free_cash)
        return _place(
            batch,
            strategy,
            self.symbol,
            Side.BUY,
            quantity,
            self.price,
            self.request_id,
            everything=True,
        )


@dataclass(frozen=True, slots=True)
class SellAll:
    """Sell all that is held and free of a symbol."""

    strategy_name: str
    symbol: str
    price: Decimal
    request_id: str = ""

    def needs(self) -> Needs:  # noqa: D102 - as in Command
        return Needs(strategies=(self.strategy_name,))

    def run(self, batch: Batch) -> Order:  # noqa: D102 - as in Command
        strategy = batch.strategy(self.strategy_name)
        ledger.require_active(strategy)
        book = batch.book((strategy.name, strategy.mode))
        quantity = ledger.quantity_to_sell_all(book, self.symbol)
        return _place(
            batch,
            strategy,
            self.symbol,
            Side.SELL,
            quantity,
            self.price,
            self.request_id,
            everything=True,
        )


@dataclass(frozen=True, slots=True)
class CreateOrder:
    """Trade a named quantity."""

    strategy_name: str
    symbol: str
    side: Side
    quantity: Decimal
    price: Decimal
    request_id: str = ""

    def needs(self) -> Needs:  # noqa: D102 - as in Command
        return Needs(strategies=(self.strategy_name,))

    def run(self, batch: Batch) -> Order:  # noqa: D102 - as in Command
        strategy = batch.strategy(self.strategy_name)
        ledger.require_active(strategy)
        return _place(
            batch, strategy, self.symbol, self.side, self.quantity, self.price, self.request_id
        )


@dataclass(frozen=True, slots=True)
class UpdateOrderStatus:
    """Change an open order's status by hand.

    An order that is at the broker is only asked to be cancelled, and stays as it is until the
    broker has agreed; what became of one that is UNKNOWN, an operator may report. Only here is it
    known whose order it is, so only here is the caller held to its own.
    """

    order_id: UUID
    report: Report
    request_id: str = ""

    def needs(self) -> Needs:  # noqa: D102 - as in Command
        return Needs(orders=(self.order_id,))

    def run(self, batch: Batch) -> Order:  # noqa: D102 - as in Command
        order = batch.order(self.order_id)
        desk = batch.desk
        desk.require_trader(order.strategy_name)
        book = batch.book((order.strategy_name, order.mode))
        if self.report.status is order.status:
            return order
        # Refuse an illegal change before looking at the figures that came with it.
        closing = ledger.end(
            book, order, self.report.status, self.report.reason, desk.now, desk.actor
        )
        if order.mode is Mode.LIVE and self._is_for_the_broker(order):
            batch.record_cancel_request(order)
            return order
        execution = ledger.execution_from_report(order, self.report, f"{BY_HAND}{book.version + 1}")
        if execution is None:
            batch.record_booking(closing)
            return closing.order
        filled = ledger.book_fill(book, order, execution, desk.new_id(), desk.now, desk.actor)
        closing = ledger.end(
            filled.book,
            filled.order,
            self.report.status,
            self.report.reason,
            desk.now,
            desk.actor,
        )
        batch.record_booking(filled)
        if closing.event is not None:
            batch.record_booking(closing)
        return closing.order

    def _is_for_the_broker(self, order: Order) -> bool:
        """Whether this asks the broker to cancel the order; if not, a person reports its end.

        Raises:
            OrderIsLiveError: The broker alone says what became of it.
        """
        report = self.report
        bare = Report(Status.CANCELLED, reason=report.reason)
        if report == bare:
            return True
        if order.status is Status.PENDING or report.status is Status.CANCELLED:
            raise OrderIsLiveError(str(order.order_id), order.status, report.status)
        return False


@dataclass(frozen=True, slots=True)
class SetPosition:
    """Create a position, or set it to this quantity and average cost."""

    strategy_name: str
    symbol: str
    quantity: Decimal
    average_cost: Decimal
    reason: str = ""
    request_id: str = ""

    def needs(self) -> Needs:  # noqa: D102 - as in Command
        return Needs(strategies=(self.strategy_name,), valued=True)

    def run(self, batch: Batch) -> PositionOf:  # noqa: D102 - as in Command
        strategy = batch.strategy(self.strategy_name)
        book = batch.book((strategy.name, strategy.mode))
        desk = batch.desk
        held = book.positions.get(self.symbol)
        wanted = Position(
            held.position_id if held else desk.new_id(),
            self.symbol,
            self.quantity,
            ZERO,
            value_of(self.quantity, self.average_cost),
            ZERO,
            batch.last_price(book, self.symbol),
            desk.now,
        )
        after, adjustments = ledger.set_position(book, wanted, self.reason, desk.now, desk.actor)
        batch.record_adjustments(after, adjustments)
        return PositionOf(wanted.position_id)


@dataclass(frozen=True, slots=True)
class DeletePosition:
    """Remove all shares of a position."""

    position_id: UUID
    reason: str = ""
    request_id: str = ""

    def needs(self) -> Needs:  # noqa: D102 - as in Command
        return Needs(positions=(self.position_id,), valued=True)

    def run(self, batch: Batch) -> None:  # noqa: D102 - as in Command
        book, position = batch.open_position(self.position_id)
        price = batch.last_price(book, position.symbol)
        gone = replace(position, quantity=ZERO, cost=ZERO, last_price=price)
        after, adjustments = ledger.set_position(
            book, gone, self.reason, batch.desk.now, batch.desk.actor
        )
        batch.record_adjustments(after, adjustments)


@dataclass(frozen=True, slots=True)
class UpsertPortfolio:
    """Create a strategy, or change what is given.

    The requested mode is put in force at once where it can be; `cash` is that of the book in force.
    """

    strategy_name: str
    cash: Decimal | None = None
    requested_mode: RequestedMode | None = None
    reason: str = ""
    request_id: str = ""

    def needs(self) -> Needs:  # noqa: D102 - as in Command
        return Needs(strategies=(self.strategy_name,), valued=True, decided=True)

    def run(self, batch: Batch) -> PortfolioOf:  # noqa: D102 - as in Command
        if self.strategy_name == RESERVE:
            raise NotAStrategyError(self.strategy_name)
        known = batch.find_strategy(self.strategy_name)
        if known is None:
            self._create(batch)
        else:
            self._change(batch, known)
        return PortfolioOf(self.strategy_name)

    def _create(self, batch: Batch) -> None:
        desk = batch.desk
        requested = self.requested_mode or RequestedMode.AUTO
        strategy = Strategy(
            self.strategy_name,
            requested,
            Mode.PAPER,
            State.ACTIVE,
            "",
            desk.now,
            portfolio_halted=batch.whole.halted,
        )
        own = [Mode.PAPER]
        if desk.mode_to_be(strategy) is Mode.LIVE:
            strategy = replace(strategy, mode=Mode.LIVE, live_since=desk.now)
            own.append(Mode.LIVE)  # its PAPER book, with the same cash, is its twin's
        opened = [
            ledger.open_book(
                strategy.name, mode, self.cash or ZERO, self.reason, desk.now, desk.actor
            )
            for mode in own
        ]
        batch.record_strategy(strategy)
        for book, entries in opened:
            batch.record_cash(book, entries)

    def _change(self, batch: Batch, known: Strategy) -> None:
        desk = batch.desk
        settled = self._settled(batch, known)
        after, entries = settled.book, settled.opening[:0]
        if self.cash is not None:
            after, entries = ledger.set_cash(
                settled.book, self.cash, CashKind.ADJUSTMENT, self.reason, desk.now, desk.actor
            )
        settled.record(batch)
        if entries:
            batch.record_cash(after, entries)

    def _settled(self, batch: Batch, known: Strategy) -> Settled:
        """The strategy with its wish, and with the mode in force that it leads to if it can be."""
        if self.requested_mode in (None, known.requested_mode):
            return modes.settled(batch, known)
        # A mode by name ends what the rule said: with AUTO after that, it is asked anew.
        wanted = replace(
            known, requested_mode=self.requested_mode, promoted=False, update_time=batch.desk.now
        )
        return modes.settled(batch, wanted, modes.asked_for(batch.desk, wanted))


@dataclass(frozen=True, slots=True)
class SetState:
    """Halt or resume a strategy.

    Resuming values its books, so that what halts it is judged from then on, in either mode.
    """

    strategy_name: str
    state: State
    reason: str = ""
    request_id: str = ""

    def needs(self) -> Needs:  # noqa: D102 - as in Command
        return Needs(strategies=(self.strategy_name,), valued=self.state is State.ACTIVE)

    def run(self, batch: Batch) -> PortfolioOf:  # noqa: D102 - as in Command
        strategy = batch.strategy(self.strategy_name)
        if strategy.state is not self.state:
            halts = self.state is State.HALTED
            batch.record_strategy(
                replace(
                    strategy,
                    state=self.state,
                    halt_reason=self.reason if halts else "",
                    flattening=strategy.flattening and halts,
                    update_time=batch.desk.now,
                )
            )
            kind = RiskEventKind.HALT if halts else RiskEventKind.RESUME
            batch.record_risk(strategy.name, kind, self.reason if halts else "")
            if not halts:
                for book in batch.books(strategy.name):
                    batch.record_valuation(book, ValuationKind.FLOW)
        return PortfolioOf(strategy.name)


def sell_out(batch: Batch, strategy: Strategy, symbol: str, price: Decimal) -> Order:
    """Sells all that is held and free of a symbol, whatever halts or limits the strategy.

    Raises:
        LedgerError: There is nothing to sell, or it cannot be sold now.
        UnavailableError: The broker is away.
    """
    book = batch.book((strategy.name, strategy.mode))
    quantity = ledger.quantity_to_sell_all(book, symbol)
    return _place(
        batch, strategy, symbol, Side.SELL, quantity, price, "", everything=True, limited=False
    )


def _place(
    batch: Batch,
    strategy: Strategy,
    symbol: str,
    side: Side,
    quantity: Decimal,
    price: Decimal,
    request_id: str,
    *,
    everything: bool = False,
    limited: bool = True,
) -> Order:
    """Accepts an order and books the fill that its broker gives at once, if any.

    A LIVE order is recorded as an intent: once that is committed, the elected sender sends it. The
    paper twin follows it; `everything` says that the intent was to trade all there is.
    """
    if limited:
        _require_within_limits(batch, strategy, symbol, side, quantity, price)
    desk = batch.desk
    broker = desk.broker(strategy.mode)
    broker.admit(symbol, quantity, desk.now)
    allowance = broker.allowance(quantity, price)
    ticket = Ticket(desk.new_id(), symbol, side, quantity, price, request_id, allowance)
    book = batch.book((strategy.name, strategy.mode))
    execution = broker.execution_on_accept(ticket)
    if execution is None:
        booking = ledger.accept(book, ticket, desk.now)
        if strategy.mode is Mode.LIVE:
            batch.record_intent(booking.order)
    else:
        held = book.positions.get(symbol)
        position_id = held.position_id if held else desk.new_id()
        booking = ledger.accept_filled(book, ticket, execution, position_id, desk.now)
    batch.record_booking(booking)
    if strategy.mode is Mode.LIVE:
        twin.follow(batch, booking.order, everything=everything)
    return booking.order


def _require_within_limits(
    batch: Batch, strategy: Strategy, symbol: str, side: Side, quantity: Decimal, price: Decimal
) -> None:
    """Checks an order against the limits of its strategy, then of the whole.

    Raises:
        LimitExceededError: It is beyond one of them.
    """
    whole = batch.whole.limits
    if strategy.limits is NO_LIMITS and whole is NO_LIMITS:
        return  # as nearly always
    mark = batch.mark(strategy.name, symbol)
    age_s = None if mark is None else Decimal(str((batch.desk.now - mark.time).total_seconds()))
    asked = Asked(side, symbol, quantity, price, None if mark is None else mark.price, age_s)
    for owner, limits in ((strategy.name, strategy.limits), ("", whole)):
        recent = 0 if limits.max_orders_per_minute is None else batch.recent_orders(owner)
        require_within(limits, owner, asked, recent)

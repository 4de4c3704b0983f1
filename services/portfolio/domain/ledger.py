"""The ledger's moves: accept an order, book its fill, end it, set cash or a position by hand.

Each is a pure function from what is to what will be and the facts that say why. Cash or shares are
reserved when an order is accepted, posted on each fill, and released when it ends.
"""

from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from services.portfolio.domain.book import (
    Book,
    CashEntry,
    CashKind,
    State,
    Strategy,
    new_book,
)
from services.portfolio.domain.errors import (
    IllegalFillError,
    IllegalStatusChangeError,
    InsufficientCashError,
    InsufficientSharesError,
    NothingToSellError,
    PortfolioHaltedError,
    ReservedError,
    StrategyHaltedError,
    TooLargeError,
)
from services.portfolio.domain.money import (
    LARGEST,
    ZERO,
    part_of,
    per_share,
    plain,
    plain_quantity,
    value_of,
)
from services.portfolio.domain.order import (
    ENDED,
    TRANSITIONS,
    Execution,
    Fill,
    FillKind,
    Mode,
    Order,
    OrderEvent,
    Side,
    Status,
)
from services.portfolio.domain.position import Position, PositionAdjustment, empty_position

LATE = "After it was said to have ended: "  # parts a reason from the fills that came later


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a strategy wants: a market order, before it is accepted."""

    order_id: UUID
    symbol: str
    side: Side
    quantity: Decimal
    price: Decimal
    request_id: str
    allowance: Decimal = ZERO  # what filling may cost beyond quantity x price, in USD


@dataclass(frozen=True, slots=True)
class Booking:
    """A book and an order after one move, and the facts of that move."""

    book: Book
    order: Order
    fill: Fill | None = None
    cash_entries: tuple[CashEntry, ...] = ()
    event: OrderEvent | None = None


def quantity_to_sell_all(book: Book, symbol: str) -> Decimal:
    """Shares held that no open order is selling.

    Raises:
        NothingToSellError: There are none.
    """
    position = book.positions.get(symbol)
    if position is None or not position.free_quantity:
        held = position.quantity if position else ZERO
        raise NothingToSellError(book.strategy_name, symbol, held)
    return position.free_quantity


def require_active(strategy: Strategy) -> None:
    """Checks that the strategy may place orders.

    Raises:
        StrategyHaltedError: It may not.
        PortfolioHaltedError: Nobody may.
    """
    if strategy.state is State.HALTED:
        raise StrategyHaltedError(strategy.name, strategy.halt_reason)
    if strategy.portfolio_halted:
        raise PortfolioHaltedError(strategy.name)


def accept(book: Book, ticket: Ticket, now: datetime) -> Booking:
    """Accepts an order as PENDING and reserves its cash (a buy) or its shares (a sell).

    Raises:
        InsufficientCashError: The free cash does not pay for it.
        InsufficientSharesError: It sells more than is held and free.
        TooLargeError: A figure is larger than the ledger can hold.
    """
    reserved_cash = _cash_to_reserve(book, ticket)
    if ticket.side is Side.BUY:
        after = _changed(book, now, reserved_cash=book.reserved_cash + reserved_cash)
    else:
        held = book.positions[ticket.symbol]
        after = _changed(book, now, position=held.reserving(ticket.quantity))
    order = Order(
        ticket.order_id,
        book.strategy_name,
        book.mode,
        ticket.symbol,
        ticket.side,
        ticket.quantity,
        ticket.price,
        Status.PENDING,
        ZERO,
        ZERO,
        ZERO,
        reserved_cash,
        "",
        ticket.request_id,
        now,
        now,
    )
    return Booking(after, order)


def accept_filled(
    book: Book, ticket: Ticket, execution: Execution, position_id: UUID, now: datetime
) -> Booking:
    """Accepts an order that is filled whole at once, as EXECUTED.

    What accept() and then book_fill() would do, in one move: most PAPER orders end so.

    Raises:
        As accept() and book_fill().
    """
    _cash_to_reserve(book, ticket)  # as much as checks that the book can bear the order
    _require_worth(ticket, execution)
    held = book.positions.get(ticket.symbol) or empty_position(position_id, ticket.symbol, now)
    if ticket.side is Side.SELL:
        held = held.reserving(ticket.quantity)
    order = Order(
        ticket.order_id,
        book.strategy_name,
        book.mode,
        ticket.symbol,
        ticket.side,
        ticket.quantity,
        ticket.price,
        Status.EXECUTED,
        execution.quantity,
        execution.value,
        execution.commission,
        ZERO,
        "",
        ticket.request_id,
        now,
        now,
    )
    return _posted(book, order, execution, held, book.reserved_cash, now)


def _cash_to_reserve(book: Book, ticket: Ticket) -> Decimal:
    """The cash that an order must reserve, 0 for a sell; checks that the book can bear it."""
    _require_holdable(ticket.quantity)
    if ticket.side is Side.BUY:
        reserved_cash = value_of(ticket.quantity, ticket.price) + ticket.allowance
        if reserved_cash > book.free_cash:
            action = f"Buying {plain_quantity(ticket.quantity)} {ticket.symbol}"
            raise InsufficientCashError(action, reserved_cash, book.free_cash)
        return reserved_cash
    position = book.positions.get(ticket.symbol)
    free = position.free_quantity if position else ZERO
    if position is None or ticket.quantity > free:
        held = position.quantity if position else ZERO
        raise InsufficientSharesError(ticket.symbol, ticket.quantity, held, free)
    return ZERO


def book_fill(
    book: Book, order: Order, execution: Execution, position_id: UUID, now: datetime, actor: str
) -> Booking:
    """Posts one fill: cash and shares move, and the part of the reservation it used is released.

    The order becomes EXECUTED when nothing of it is left open. `position_id` names the position
    if this fill opens it.

    Raises:
        IllegalFillError: The order has ended, or the fill is more than is open or worth nothing.
        InsufficientCashError: A PAPER fill costs more cash than there is.
        TooLargeError: A figure is larger than the ledger can hold.
    """
    _require_fitting(order, execution)
    completes = execution.quantity == order.open_quantity
    released = order.reserved_cash
    if not completes:
        released = part_of(released, execution.quantity, order.open_quantity)
    filled = Order(
        order.order_id,
        order.strategy_name,
        order.mode,
        order.symbol,
        order.side,
        order.quantity,
        order.price,
        Status.EXECUTED if completes else order.status,
        order.filled_quantity + execution.quantity,
        order.filled_value + execution.value,
        order.commission + execution.commission,
        order.reserved_cash - released,
        "" if completes else order.reason,
        order.request_id,
        order.create_time,
        now,
    )
    held = book.positions.get(order.symbol) or empty_position(position_id, order.symbol, now)
    booking = _posted(book, filled, execution, held, book.reserved_cash - released, now)
    event = _event(order, filled, booking.book, actor)
    return booking if event is None else replace(booking, event=event)


def book_late_fill(
    book: Book, order: Order, execution: Execution, position_id: UUID, now: datetime
) -> Booking:
    """Posts a fill of an order that was said to have ended. It stays ended; its reason tells.

    Nothing is reserved for it any more: a sale needs shares that no open order is selling.

    Raises:
        IllegalFillError: The fill is more than is not yet filled, or worth nothing.
        InsufficientSharesError: A sale of more than is held and free.
        TooLargeError: A figure is larger than the ledger can hold.
    """
    _require_room(order, execution)
    held = book.positions.get(order.symbol) or empty_position(position_id, order.symbol, now)
    if order.side is Side.SELL:
        if execution.quantity > held.free_quantity:
            raise InsufficientSharesError(
                order.symbol, execution.quantity, held.quantity, held.free_quantity
            )
        held = held.reserving(execution.quantity)
    filled_quantity = order.filled_quantity + execution.quantity
    filled = replace(
        order,
        filled_quantity=filled_quantity,
        filled_value=order.filled_value + execution.value,
        commission=order.commission + execution.commission,
        reason=_late_reason(order, filled_quantity),
        update_time=now,
    )
    return _posted(book, filled, execution, held, book.reserved_cash, now)


def book_correction(
    book: Book, order: Order, change: Execution, price: Decimal, now: datetime, actor: str
) -> Booking:
    """Posts what the broker changed about a fill: `change` holds the differences, no commission.

    The reservation of an open order follows what is open of it now; an ended order stays ended.
    `price` is that of the fill as corrected.

    Raises:
        IllegalFillError: It would make the order filled beyond its quantity, or below nothing.
        InsufficientSharesError: It takes away shares that are not held, or that open orders sell.
        TooLargeError: A figure is larger than the ledger can hold.
    """
    _require_within(order, change)
    held = book.positions[order.symbol]
    gone = -change.quantity if order.side is Side.BUY else change.quantity
    if order.is_open and order.side is Side.SELL:
        held = held.reserving(-gone)
    if gone > held.free_quantity:
        raise InsufficientSharesError(order.symbol, gone, held.quantity, held.free_quantity)
    open_quantity = order.open_quantity - change.quantity
    reserved_cash = order.reserved_cash
    if order.is_open:
        reserved_cash = part_of(reserved_cash, open_quantity, order.open_quantity)
    completes = order.is_open and not open_quantity
    corrected = replace(
        order,
        status=Status.EXECUTED if completes else order.status,
        filled_quantity=order.filled_quantity + change.quantity,
        filled_value=order.filled_value + change.value,
        reserved_cash=reserved_cash,
        reason="" if completes else order.reason,
        update_time=now,
    )
    moved = -change.value if order.side is Side.BUY else change.value
    after = _changed(
        book,
        now,
        cash=book.cash + moved,
        reserved_cash=book.reserved_cash + reserved_cash - order.reserved_cash,
        position=held.corrected(order.side, change.quantity, change.value, price),
    )
    fill = Fill(
        order.order_id,
        change.execution_id,
        after.version,
        change.quantity,
        price,
        change.value,
        ZERO,
        now,
        FillKind.CORRECTION,
    )
    entries = _trade_entries(after, CashKind.TRADE, moved)
    return Booking(after, corrected, fill, entries, _event(order, corrected, after, actor))


def book_commission(
    book: Book, order: Order, execution_id: str, commission: Decimal, now: datetime
) -> Booking:
    """Posts commission that became known after its fill: `commission` USD more than is booked.

    Raises:
        TooLargeError: A figure is larger than the ledger can hold.
    """
    after = _changed(
        book,
        now,
        cash=book.cash - commission,
        position=book.positions[order.symbol].charged(commission),
    )
    charged = replace(order, commission=order.commission + commission, update_time=now)
    fill = Fill(
        order.order_id,
        execution_id,
        after.version,
        ZERO,
        ZERO,
        ZERO,
        commission,
        now,
        FillKind.COMMISSION,
    )
    return Booking(after, charged, fill, _trade_entries(after, CashKind.COMMISSION, -commission))


def _trade_entries(book: Book, kind: CashKind, amount: Decimal) -> tuple[CashEntry, ...]:
    """The entry of a move of cash that no person made; none when no cash moved."""
    if not amount:
        return ()
    return (
        CashEntry(
            book.strategy_name, book.mode, book.version, kind, amount, "", "", book.update_time
        ),
    )


def _late_reason(order: Order, filled_quantity: Decimal) -> str:
    """Why the order ended, and how much of it is filled all the same."""
    said = order.reason.partition(LATE)[0].rstrip()
    if order.status is Status.EXECUTED and filled_quantity == order.quantity:
        return said
    filled = f"{plain_quantity(filled_quantity)} of {plain_quantity(order.quantity)} filled."
    return f"{said} {LATE}{filled}".lstrip()


def _posted(
    book: Book,
    filled: Order,
    execution: Execution,
    held: Position,
    reserved_cash: Decimal,
    now: datetime,
) -> Booking:
    """Moves the cash and the shares of one fill of an order.

    `filled` is the order after the fill, `held` the position before it, with the shares of a sell
    reserved, and `reserved_cash` what the book still has reserved after it.
    """
    price = per_share(execution.value, execution.quantity)
    _require_holdable(price)
    trade = (execution.quantity, execution.value, execution.commission, price, now)
    if filled.side is Side.BUY:
        moved, position = -execution.value, held.bought(*trade)
    else:
        moved, position = execution.value, held.sold(*trade)
    cash = book.cash + moved - execution.commission
    if book.mode is Mode.PAPER and cash < reserved_cash:
        action = f"This fill of {plain_quantity(execution.quantity)} {filled.symbol}"
        raise InsufficientCashError(action, execution.commission - moved, book.cash - reserved_cash)
    after = _changed(book, now, cash=cash, reserved_cash=reserved_cash, position=position)
    fill = Fill(
        filled.order_id,
        execution.execution_id,
        after.version,
        execution.quantity,
        price,
        execution.value,
        execution.commission,
        now,
    )
    entries = [
        CashEntry(book.strategy_name, book.mode, after.version, CashKind.TRADE, moved, "", "", now)
    ]
    if execution.commission:
        entries.append(replace(entries[0], kind=CashKind.COMMISSION, amount=-execution.commission))
    return Booking(after, filled, fill, tuple(entries))


def end(
    book: Book, order: Order, status: Status, reason: str, now: datetime, actor: str
) -> Booking:
    """Moves an order to another status; an ended order releases what it still had reserved.

    The status it already has is a no-op.

    Raises:
        IllegalStatusChangeError: TRANSITIONS does not hold this change.
    """
    if status is order.status:
        return Booking(book, order)
    if status not in TRANSITIONS[order.status]:
        legal = sorted(TRANSITIONS[order.status])
        raise IllegalStatusChangeError(str(order.order_id), order.status, status, list(legal))
    released = order.reserved_cash if status in ENDED else ZERO
    position = None
    if status in ENDED and order.side is Side.SELL and order.open_quantity:
        position = book.positions[order.symbol].reserving(-order.open_quantity)
    after = _changed(book, now, reserved_cash=book.reserved_cash - released, position=position)
    ended = replace(
        order,
        status=status,
        reserved_cash=order.reserved_cash - released,
        reason="" if status is Status.EXECUTED else reason,
        update_time=now,
    )
    return Booking(after, ended, event=_event(order, ended, after, actor))


@dataclass(frozen=True, slots=True)
class Report:
    """What a person says of an order: its status, and its fills in all."""

    status: Status
    filled_quantity: Decimal | None = None  # in all; None: all of it, or what is already booked
    average_fill_price: Decimal | None = None  # of all fills; None: the order's price for the rest
    commission: Decimal | None = None  # in all; None: what is already booked
    reason: str = ""


def execution_from_report(order: Order, report: Report, execution_id: str) -> Execution | None:
    """The fill that is missing between what is booked and what was reported; None when nothing is.

    Raises:
        IllegalFillError: The report lies below what is booked or above the order, or its status
            and its figures contradict each other.
    """
    reported = report.filled_quantity
    if reported is None:
        reported = order.quantity if report.status is Status.EXECUTED else order.filled_quantity
    quantity = reported - order.filled_quantity
    if report.average_fill_price is None:
        value = value_of(quantity, order.price)
    elif not quantity and report.average_fill_price == order.average_fill_price:
        value = ZERO  # the mean as it is shown, which is rounded
    else:
        value = value_of(reported, report.average_fill_price) - order.filled_value
    commission = ZERO if report.commission is None else report.commission - order.commission
    if not ZERO <= quantity <= order.open_quantity or commission < 0:
        raise IllegalFillError(
            f"Order {order.order_id} is for {plain_quantity(order.quantity)} {order.symbol}, of "
            f"which {plain_quantity(order.filled_quantity)} and {plain(order.commission)} USD of "
            f"commission are booked; {plain_quantity(reported)} filled with "
            f"{plain(order.commission + commission)} USD of commission does not fit. Report the "
            "figures of all fills together.",
            quantity=plain_quantity(order.quantity),
            booked=plain_quantity(order.filled_quantity),
            reported=plain_quantity(reported),
        )
    if reported == order.quantity and report.status is not Status.EXECUTED:
        raise IllegalFillError(
            f"All {plain_quantity(reported)} {order.symbol} of order {order.order_id} were filled, "
            f"which makes it EXECUTED and not {report.status}. Report it as EXECUTED.",
            quantity=plain_quantity(order.quantity),
            reported=plain_quantity(reported),
        )
    if not quantity:
        if value or commission:
            raise IllegalFillError(
                f"All {plain_quantity(reported)} {order.symbol} of order {order.order_id} are "
                f"booked already, at {plain(order.average_fill_price)} USD a share and "
                f"{plain(order.commission)} USD of commission; booked fills do not change.",
                booked=plain_quantity(order.filled_quantity),
            )
        return None
    if value <= 0:
        raise IllegalFillError(
            f"{plain(order.filled_value)} USD of order {order.order_id} is booked; the reported "
            "average_fill_price leaves nothing for the rest. Report the mean over all fills.",
            booked=plain(order.filled_value),
        )
    return Execution(execution_id, quantity, value, commission)


def open_book(
    strategy_name: str, mode: Mode, cash: Decimal, reason: str, now: datetime, actor: str
) -> tuple[Book, tuple[CashEntry, ...]]:
    """A new book with its first cash, which is booked even when it is 0.

    So every book has a first entry, and that entry's key lets only one replica open the book.
    """
    book = _changed(new_book(strategy_name, mode, now), now, cash=cash)
    entry = CashEntry(strategy_name, mode, book.version, CashKind.DEPOSIT, cash, actor, reason, now)
    return book, (entry,)


def set_cash(
    book: Book, cash: Decimal, kind: CashKind, reason: str, now: datetime, actor: str
) -> tuple[Book, tuple[CashEntry, ...]]:
    """Sets the cash of a book and books the difference.

    Raises:
        ReservedError: Open orders have reserved more than that.
    """
    if cash < book.reserved_cash:
        raise ReservedError("USD", cash, book.reserved_cash)
    if cash == book.cash:
        return book, ()
    after = _changed(book, now, cash=cash)
    entry = CashEntry(
        book.strategy_name, book.mode, after.version, kind, cash - book.cash, actor, reason, now
    )
    return after, (entry,)


def transfer(
    book: Book, amount: Decimal, due: Decimal, reason: str, now: datetime, actor: str
) -> tuple[Book, tuple[CashEntry, ...]]:
    """Moves cash into a book (above 0) or out of it, in USD, and sets what stays due.

    Raises:
        ReservedError: It takes away what open orders have reserved.
    """
    cash = book.cash + amount
    if amount < 0 and cash < book.reserved_cash:
        raise ReservedError("USD", cash, book.reserved_cash)
    if not amount and due == book.due:
        return book, ()
    after = _changed(book, now, cash=cash, due=due)
    if not amount:
        return after, ()
    entry = CashEntry(
        book.strategy_name, book.mode, after.version, CashKind.TRANSFER, amount, actor, reason, now
    )
    return after, (entry,)


def set_position(
    book: Book, wanted: Position, reason: str, now: datetime, actor: str
) -> tuple[Book, tuple[PositionAdjustment, ...]]:
    """Sets a position's quantity and cost and books the difference.

    `wanted.position_id` counts only when the book has no position in the symbol.

    Raises:
        ReservedError: Open orders are selling more than that.
    """
    held = book.positions.get(wanted.symbol) or empty_position(
        wanted.position_id, wanted.symbol, now
    )
    if wanted.quantity < held.reserved_quantity:
        raise ReservedError(wanted.symbol, wanted.quantity, held.reserved_quantity)
    if (wanted.quantity, wanted.cost) == (held.quantity, held.cost):
        return book, ()
    position = held.set_to(wanted.quantity, wanted.cost, wanted.last_price, now)
    after = _changed(book, now, position=position)
    adjustment = PositionAdjustment(
        book.strategy_name,
        book.mode,
        after.version,
        wanted.symbol,
        wanted.quantity - held.quantity,
        wanted.cost - held.cost,
        wanted.last_price,
        actor,
        reason,
        now,
    )
    return after, (adjustment,)


def _changed(
    book: Book,
    now: datetime,
    *,
    cash: Decimal | None = None,
    reserved_cash: Decimal | None = None,
    position: Position | None = None,
    due: Decimal | None = None,
) -> Book:
    """The book one version on, with what is given replaced."""
    positions = book.positions
    if cash is not None:
        _require_holdable(cash)
    if position is not None:
        _require_holdable(position.quantity, position.cost, position.realized_pnl)
        positions = {**positions, position.symbol: position}
    return Book(
        book.strategy_name,
        book.mode,
        book.version + 1,
        book.cash if cash is None else cash,
        book.reserved_cash if reserved_cash is None else reserved_cash,
        positions,
        now,
        book.due if due is None else due,
    )


def _require_fitting(order: Order, execution: Execution) -> None:
    """Checks that an open order can take this fill."""
    if not order.is_open:
        raise IllegalFillError(
            f"Order {order.order_id} is {order.status}, which is final; it takes no more fills.",
            status=order.status,
            fill=plain_quantity(execution.quantity),
        )
    _require_room(order, execution)


def _require_room(order: Order, execution: Execution) -> None:
    """Checks that as much as this fill is not yet filled of an order."""
    if not ZERO < execution.quantity <= order.open_quantity:
        raise IllegalFillError(
            f"Order {order.order_id} has {plain_quantity(order.open_quantity)} "
            f"{order.symbol} open; a fill of {plain_quantity(execution.quantity)} does not fit.",
            open=plain_quantity(order.open_quantity),
            fill=plain_quantity(execution.quantity),
        )
    _require_worth(order, execution)


def _require_within(order: Order, change: Execution) -> None:
    """Checks that an order's fills still fit it after a correction."""
    quantity = order.filled_quantity + change.quantity
    value = order.filled_value + change.value
    if not ZERO <= quantity <= order.quantity or value < 0:
        raise IllegalFillError(
            f"Order {order.order_id} is for {plain_quantity(order.quantity)} {order.symbol}, of "
            f"which {plain_quantity(order.filled_quantity)} for {plain(order.filled_value)} USD "
            f"are booked; {change.execution_id} would make that {plain_quantity(quantity)} for "
            f"{plain(value)} USD, which does not fit.",
            quantity=plain_quantity(order.quantity),
            booked=plain_quantity(order.filled_quantity),
            corrected=plain_quantity(quantity),
        )


def _require_worth(traded: Order | Ticket, execution: Execution) -> None:
    """Checks that a fill comes to any money."""
    if execution.value <= 0:
        raise IllegalFillError(
            f"A fill of {plain_quantity(execution.quantity)} {traded.symbol} at "
            f"{plain(traded.price)} USD comes to less than 0.00000001 USD. Trade more.",
            fill=plain_quantity(execution.quantity),
            price=plain(traded.price),
        )


def _require_holdable(*amounts: Decimal) -> None:
    """Checks that the ledger can hold these amounts to the last decimal."""
    for amount in amounts:
        if not -LARGEST <= amount <= LARGEST:
            raise TooLargeError(abs(amount))


def _event(before: Order, after: Order, book: Book, actor: str) -> OrderEvent | None:
    """The fact that the status changed, if it did."""
    if before.status is after.status:
        return None
    return OrderEvent(
        after.order_id,
        book.version,
        before.status,
        after.status,
        after.reason,
        actor,
        after.update_time,
    )

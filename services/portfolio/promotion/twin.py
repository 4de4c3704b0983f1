"""The paper twin: a LIVE strategy's PAPER book goes on with the same intents.

What the two books differ by is the cost of reality: delay, spread and commission.
"""

from dataclasses import replace
from decimal import Decimal

from services.portfolio.batch import Batch
from services.portfolio.domain import ledger
from services.portfolio.domain.book import Book
from services.portfolio.domain.errors import LedgerError
from services.portfolio.domain.ledger import Booking, Ticket
from services.portfolio.domain.money import ZERO
from services.portfolio.domain.order import Mode, Order, Side
from services.portfolio.domain.position import Position

LEFT_OVER = "Sold as the strategy came back to PAPER: it held what LIVE did not."


def follow(batch: Batch, order: Order, *, everything: bool) -> None:
    """Places the order of the twin for the intent of a LIVE order that was accepted.

    `everything`: buy for all the cash, or sell all that is held, of the PAPER book. What that book
    cannot do is left out: a twin never stands in the way of its LIVE order.
    """
    book = batch.find_book((order.strategy_name, Mode.PAPER))
    if book is None:
        return
    quantity = _all(batch, book, order) if everything else order.quantity
    booking = _filled(batch, book, order.symbol, order.side, quantity, order.price)
    if booking is not None:
        twin = replace(booking.order, twin_of=order.order_id)
        batch.record_booking(replace(booking, order=twin))


def sales_of_all(batch: Batch, book: Book) -> list[Booking] | None:
    """What sells all that a PAPER book holds, at the market; None when it cannot be sold now.

    Needs `valued`.
    """
    sales: list[Booking] = []
    for position in _held(book):
        price = batch.market_price(book, position)
        sale = _filled(batch, book, position.symbol, Side.SELL, position.quantity, price)
        if sale is None:
            return None
        book = sale.book
        sales.append(replace(sale, order=replace(sale.order, reason=LEFT_OVER)))
    return sales


def _all(batch: Batch, book: Book, order: Order) -> Decimal:
    if order.side is Side.BUY:
        return batch.desk.broker(Mode.PAPER).affordable(book.free_cash, order.price)
    held = book.positions.get(order.symbol)
    return held.free_quantity if held else ZERO


def _held(book: Book) -> list[Position]:
    return [position for position in book.positions.values() if position.quantity]


def _filled(
    batch: Batch, book: Book, symbol: str, side: Side, quantity: Decimal, price: Decimal
) -> Booking | None:
    """An order that is filled at once, not recorded yet; None when it cannot be.

    With PAPER_FILLS=by_hand nothing is: nobody would report the fills of a twin.
    """
    if not quantity or not price:
        return None
    desk = batch.desk
    broker = desk.broker(Mode.PAPER)
    allowance = broker.allowance(quantity, price)
    ticket = Ticket(desk.new_id(), symbol, side, quantity, price, "", allowance)
    execution = broker.execution_on_accept(ticket)
    if execution is None:
        return None
    try:
        return ledger.accept_filled(book, ticket, execution, desk.new_id(), desk.now)
    except LedgerError:
        return None

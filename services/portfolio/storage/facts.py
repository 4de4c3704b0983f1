"""Reads the facts of every book for the audit: streamed, so that a long history needs no memory."""

from typing import TypeAlias

import asyncpg

from services.portfolio.domain.audit import BookAudit, Difference
from services.portfolio.domain.book import Book, CashEntry, CashKind
from services.portfolio.domain.order import Fill, Mode, Side
from services.portfolio.domain.position import Position, PositionAdjustment
from services.portfolio.ports import BookKey
from services.portfolio.storage.rows import order_of
from services.portfolio.storage.statements import ORDER_COLUMNS

PREFETCH = 500  # rows; between two fetches the router answers others

BOOKS = "SELECT strategy_name, mode, version, cash, reserved_cash, update_time FROM books"

POSITIONS = """
SELECT strategy_name, mode, position_id, symbol, quantity, reserved_quantity, cost, realized_pnl,
       last_price, update_time
FROM positions
"""

CASH = """
SELECT book_version, kind, amount, actor, reason, time
FROM cash_entries WHERE strategy_name = $1 AND mode = $2 ORDER BY book_version
"""

# Fills and adjustments in the order in which they were booked; adjustments have no side.
SHARES = """
SELECT o.symbol, o.side, f.order_id, f.execution_id, f.book_version, f.quantity, f.price, f.value,
       f.commission, f.time
FROM fills f JOIN orders o USING (order_id)
WHERE o.strategy_name = $1 AND o.mode = $2
UNION ALL
SELECT symbol, NULL, NULL, reason, book_version, quantity_delta, price, cost_delta, 0, time
FROM position_adjustments WHERE strategy_name = $1 AND mode = $2
ORDER BY book_version
"""

ORDERS = f"""
SELECT {ORDER_COLUMNS}, f.sum_quantity, f.sum_value, f.sum_commission
FROM orders
LEFT JOIN LATERAL (
    SELECT coalesce(sum(quantity), 0) AS sum_quantity, coalesce(sum(value), 0) AS sum_value,
           coalesce(sum(commission), 0) AS sum_commission
    FROM fills WHERE fills.order_id = orders.order_id
) f ON true
WHERE strategy_name = $1 AND mode = $2
"""  # noqa: S608 - column names of a dataclass; ambiguous names are not among them

Connection: TypeAlias = "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"


async def audit_books(connection: Connection) -> tuple[int, list[Difference]]:
    """How many books there are, and every figure that their facts do not support.

    Runs inside the caller's transaction, which must see one moment (REPEATABLE READ).
    """
    books = await _recorded_books(connection)
    differences = []
    for book in books:
        differences += await _audit_book(connection, book)
    return len(books), differences


async def _recorded_books(connection: Connection) -> list[Book]:
    """Every book as the router shows it."""
    books: list[Book] = []
    positions: dict[BookKey, dict[str, Position]] = {}
    for name, mode, version, cash, reserved_cash, update_time in await connection.fetch(BOOKS):
        key = (name, Mode(mode))
        positions[key] = {}
        books.append(Book(*key, version, cash, reserved_cash, positions[key], update_time))
    for name, mode, *values in await connection.fetch(POSITIONS):
        position = Position(*values)
        positions[name, Mode(mode)][position.symbol] = position
    return books


async def _audit_book(connection: Connection, book: Book) -> list[Difference]:
    key = (book.strategy_name, book.mode)
    audit = BookAudit(book)
    async for version, kind, *rest in connection.cursor(CASH, *key, prefetch=PREFETCH):
        audit.take_cash(CashEntry(*key, version, CashKind(kind), *rest))
    async for symbol, side, *rest in connection.cursor(SHARES, *key, prefetch=PREFETCH):
        if side is not None:
            audit.take_fill(symbol, Side(side), Fill(*rest))
            continue
        _, reason, version, quantity, price, cost, _, time = rest
        audit.take_adjustment(
            PositionAdjustment(*key, version, symbol, quantity, cost, price, "", reason, time)
        )
    async for row in connection.cursor(ORDERS, *key, prefetch=PREFETCH):
        audit.take_order(
            order_of(row), row["sum_quantity"], row["sum_value"], row["sum_commission"]
        )
    return audit.differences()

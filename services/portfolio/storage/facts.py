"""Reads the facts of every book for the audit: streamed, so that a long history needs no memory."""

from typing import TypeAlias

import asyncpg

from services.portfolio.domain.audit import BookAudit, Difference, TransferAudit
from services.portfolio.domain.audit_valuations import ValuationAudit
from services.portfolio.domain.book import Book, CashEntry, CashKind
from services.portfolio.domain.order import Mode, Side
from services.portfolio.domain.position import Position, PositionAdjustment
from services.portfolio.ports import BookKey
from services.portfolio.storage.rows import Row, fill_of, order_of, valuation_of
from services.portfolio.storage.statements import ORDER_COLUMNS

PREFETCH = 500  # rows; between two fetches the router answers others

BOOKS = "SELECT strategy_name, mode, version, cash, reserved_cash, update_time FROM books"

POSITIONS = """
SELECT strategy_name, mode, position_id, symbol, quantity, reserved_quantity, cost, realized_pnl,
       last_price, update_time
FROM positions
"""

# Cash entries with the valuations among them, in the order in which each book had them, and where
# shares came or left by hand: number 0 is no valuation, and what flowed is an amount as well.
CASH = """
SELECT strategy_name, mode, 0 AS number, NULL::date AS session, kind, book_version,
       0::numeric AS cash, 0::numeric AS positions_value, amount AS flow, 0::numeric AS growth,
       time, actor, reason
FROM cash_entries
UNION ALL
SELECT strategy_name, mode, 0, NULL, NULL, book_version, 0, 0, 0, 0, time, actor, reason
FROM position_adjustments
UNION ALL
SELECT strategy_name, mode, number, session, kind, book_version, cash, positions_value,
       flow, growth, time, '', ''
FROM valuations
ORDER BY book_version, number
"""

# Fills, what was learnt of them later, and adjustments, in the order in which each book booked
# them. Adjustments have no side; what they have beside a fill stands in a fill's columns.
SHARES = """
SELECT o.strategy_name, o.mode, o.symbol, o.side, f.order_id, f.execution_id, f.book_version,
       f.quantity, f.price, f.value, f.commission, f.time, f.kind
FROM fills f JOIN orders o USING (order_id)
UNION ALL
SELECT strategy_name, mode, symbol, NULL, NULL, reason, book_version,
       quantity_delta, price, cost_delta, 0, time, NULL
FROM position_adjustments
ORDER BY book_version
"""

ORDERS = f"""
SELECT {ORDER_COLUMNS}, coalesce(f.sum_quantity, 0) AS sum_quantity,
       coalesce(f.sum_value, 0) AS sum_value, coalesce(f.sum_commission, 0) AS sum_commission
FROM orders
LEFT JOIN (
    SELECT order_id, sum(quantity) AS sum_quantity, sum(value) AS sum_value,
           sum(commission) AS sum_commission
    FROM fills GROUP BY order_id
) f USING (order_id)
"""  # noqa: S608 - column names of a dataclass; ambiguous names are not among them

Connection: TypeAlias = "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"


async def audit_books(connection: Connection) -> tuple[int, list[Difference]]:
    """How many books there are, and every figure that their facts do not support.

    Runs inside the caller's transaction, which must see one moment (REPEATABLE READ).
    """
    audits = {(book.strategy_name, book.mode): BookAudit(book) for book in await _books(connection)}
    curves = {key: ValuationAudit(*key) for key in audits}
    transfers = TransferAudit()
    async for row in connection.cursor(CASH, prefetch=PREFETCH):
        key = (row["strategy_name"], Mode(row["mode"]))
        if row["number"]:
            curves[key].take_valuation(valuation_of(row))
        elif row["kind"] is None:
            curves[key].take_shares(row["book_version"])
        else:
            entry = _cash_entry(key, row)
            audits[key].take_cash(entry)
            curves[key].take_cash(entry)
            transfers.take_cash(entry)
    async for row in connection.cursor(SHARES, prefetch=PREFETCH):
        key = (row["strategy_name"], Mode(row["mode"]))
        if row["side"] is None:
            audits[key].take_adjustment(_adjustment(key, row))
        else:
            audits[key].take_fill(row["symbol"], Side(row["side"]), fill_of(row))
    async for row in connection.cursor(ORDERS, prefetch=PREFETCH):
        audits[row["strategy_name"], Mode(row["mode"])].take_order(
            order_of(row), row["sum_quantity"], row["sum_value"], row["sum_commission"]
        )
    found = [difference for audit in audits.values() for difference in audit.differences()]
    found += [difference for curve in curves.values() for difference in curve.differences()]
    return len(audits), [*found, *transfers.differences()]


async def _books(connection: Connection) -> list[Book]:
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


def _cash_entry(key: BookKey, row: Row) -> CashEntry:
    """A cash entry from a row of CASH."""
    return CashEntry(
        *key,
        row["book_version"],
        CashKind(row["kind"]),
        row["flow"],
        row["actor"],
        row["reason"],
        row["time"],
    )


def _adjustment(key: BookKey, row: Row) -> PositionAdjustment:
    """An adjustment from a row of SHARES."""
    return PositionAdjustment(
        *key,
        row["book_version"],
        row["symbol"],
        row["quantity"],
        row["value"],
        row["price"],
        "",
        row["execution_id"],
        row["time"],
    )

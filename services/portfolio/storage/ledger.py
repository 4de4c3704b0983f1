"""The ledger on PostgreSQL: one transaction reads and locks, decides, writes, and tells of it."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TypeAlias
from uuid import UUID

import asyncpg
from pydantic import TypeAdapter

from services.portfolio.domain.book import Book, RequestedMode, State, Strategy
from services.portfolio.domain.order import Fill, Mode
from services.portfolio.domain.position import Position
from services.portfolio.domain.reconciliation import SymbolRow
from services.portfolio.ports import (
    Answer,
    BookKey,
    Changes,
    Needs,
    Snapshot,
    StorageConflictError,
    StoredRequest,
)
from services.portfolio.storage import statements as sql
from services.portfolio.storage.database import Database
from services.portfolio.storage.notices import notices
from services.portfolio.storage.rows import (
    fill_of,
    json_rows,
    order_of,
    portfolio_view_of,
    position_view_of,
    symbol_row_of,
)
from services.portfolio.views import PortfolioView, PositionView

Row = asyncpg.Record
Connection: TypeAlias = "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"
MODES = {mode.value: mode for mode in Mode}  # a look-up costs a fifth of Mode(...)
REQUESTED_MODES = {mode.value: mode for mode in RequestedMode}
STATES = {state.value: state for state in State}
MOST_KNOWN = 10_000  # books to remember
ANSWER: TypeAdapter[Answer] = TypeAdapter(Answer)


class PostgresLedger:
    """Keeps the truth in PostgreSQL.

    It remembers the books that its last transactions saw and left. A version stands for all that
    its book holds, and the lock tells each book's version, so a book that nobody else has changed
    since is not read again: that was a third of the writer's own time.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[BookKey, Book] = {}
        self._known_since = 0  # how many connections had been made

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator["PostgresTransaction"]:
        """A transaction that commits when its block ends well."""
        async with self._database.kept() as connection:
            # A new connection may be to another server, a promoted standby say: forget.
            if self._known_since != self._database.connections or len(self._known) > MOST_KNOWN:
                self._known_since = self._database.connections
                self._known = {}
            known = self._known
            async with connection.transaction():
                transaction = PostgresTransaction(connection, known)
                yield transaction
            known.update(transaction.seen)  # only now is it true


class PostgresTransaction:
    """One transaction on one connection. `seen`: books as it leaves them."""

    def __init__(self, connection: Connection, known: Mapping[BookKey, Book]) -> None:
        self.seen: dict[BookKey, Book] = {}
        self._connection = connection
        self._known = known

    async def load(self, needs: Needs) -> Snapshot:
        """Reads what a batch needs and locks its strategies, in name order."""
        fetch = self._connection.fetch
        names = set(needs.strategies)
        if needs.orders or needs.positions:
            owners = await fetch(sql.OWNERS, list(needs.orders), list(needs.positions))
            names |= {row["strategy_name"] for row in owners}
        locked = await fetch(sql.LOCK, list(names))
        await self._read_books(locked)
        orders: Sequence[Row] = ()
        owned: Sequence[Row] = ()
        requests: Sequence[Row] = ()
        if needs.orders:
            orders = await fetch(sql.ORDERS_BY_ID, list(needs.orders))
        if needs.positions:
            owned = await fetch(sql.POSITION_OWNERS, list(needs.positions))
        if needs.requests:
            requests = await fetch(sql.REQUESTS, list(needs.requests))
        return Snapshot(
            {row[0]: _strategy(row) for row in locked},
            dict(self.seen),
            {row["order_id"]: order_of(row) for row in orders},
            {row[0]: ((row[1], Mode(row[2])), row[3]) for row in owned},
            {row[0]: _request(row) for row in requests},
            await self._read_fills(needs, orders) if needs.fills else {},
            await self._read_account(needs) if needs.accounts else {},
        )

    async def _read_books(self, locked: Sequence[Row]) -> None:
        """Takes the books of locked strategies: those known at their version, the others read."""
        unknown = set()
        for row in locked:
            key = (row["strategy_name"], MODES[row["book_mode"]])
            book = self._known.get(key)
            if book is not None and book.version == row["version"]:
                self.seen[key] = book
            else:
                unknown.add(row["strategy_name"])
        if unknown:
            self.seen.update(_books(await self._connection.fetch(sql.BOOKS, list(unknown))))

    async def _read_fills(self, needs: Needs, orders: Sequence[Row]) -> dict[UUID, list[Fill]]:
        """The fills of those orders that exist, oldest first."""
        fills: dict[UUID, list[Fill]] = {
            row["order_id"]: [] for row in orders if row["order_id"] in needs.fills
        }
        for row in await self._connection.fetch(sql.FILLS, list(fills)):
            fills[row["order_id"]].append(fill_of(row))
        return fills

    async def _read_account(self, needs: Needs) -> dict[str, SymbolRow]:
        """The account's symbols that are needed; held still until the transaction ends."""
        await self._connection.execute(sql.LOCK_ACCOUNT)
        rows = await self._connection.fetch(sql.ACCOUNTS, list(needs.accounts))
        return {row["symbol"]: symbol_row_of(row) for row in rows}

    async def save(self, changes: Changes) -> None:
        """Writes all changes: in one statement, but for what only LIVE orders bring."""
        self.seen.update(changes.books)
        strategies = [
            {
                "strategy_name": strategy.name,
                "requested_mode": strategy.requested_mode,
                "mode": strategy.mode,
                "state": strategy.state,
                "halt_reason": strategy.halt_reason,
                "update_time": strategy.update_time,
            }
            for strategy in changes.strategies.values()
        ]
        books = [
            {
                "strategy_name": book.strategy_name,
                "mode": book.mode,
                "version": book.version,
                "cash": book.cash,
                "reserved_cash": book.reserved_cash,
                "update_time": book.update_time,
            }
            for book in changes.books.values()
        ]
        positions = [
            {
                "strategy_name": strategy_name,
                "mode": mode,
                "position_id": position.position_id,
                "symbol": position.symbol,
                "quantity": position.quantity,
                "reserved_quantity": position.reserved_quantity,
                "cost": position.cost,
                "realized_pnl": position.realized_pnl,
                "last_price": position.last_price,
                "update_time": position.update_time,
            }
            for ((strategy_name, mode), _), position in changes.positions.items()
        ]
        await self._connection.fetch(
            sql.WRITE,
            json_rows(strategies),
            json_rows(books),
            json_rows(positions),
            json_rows(list(changes.orders.values())),
            json_rows(changes.fills),
            json_rows(changes.cash_entries),
            json_rows(changes.adjustments),
            json_rows(changes.order_events),
            notices(
                {*changes.strategies, *(name for name, _ in changes.books)},
                changes.orders,
                broker=bool(changes.intents or changes.cancel_requests or changes.acknowledgements),
            ),
        )
        if changes.intents:
            await self._connection.fetch(sql.INTEND, sorted(changes.intents))
        if changes.cancel_requests:
            await self._connection.fetch(sql.REQUEST_CANCEL, sorted(set(changes.cancel_requests)))
        if changes.acknowledgements:
            await self._connection.fetch(sql.ACKNOWLEDGE, json_rows(changes.acknowledgements))

    async def portfolio(self, strategy_name: str) -> PortfolioView:
        """A strategy's state, with what this transaction has written."""
        (row,) = await self._connection.fetch(sql.PORTFOLIO_VIEWS, [strategy_name])
        return portfolio_view_of(row)

    async def position(self, position_id: UUID) -> PositionView:
        """A position at market, with what this transaction has written.

        Raises:
            StorageConflictError: A later command of the same batch closed it; alone, each has its
                answer.
        """
        rows = await self._connection.fetch(sql.POSITION_VIEW, position_id)
        if not rows:
            raise StorageConflictError(f"position {position_id} was closed in the same batch")
        return position_view_of(rows[0])

    async def remember(self, requests: Sequence[StoredRequest]) -> None:
        """Keeps the answers under their request_ids."""
        await self._connection.fetch(
            sql.REMEMBER,
            [request.request_id for request in requests],
            [request.method for request in requests],
            [request.fingerprint for request in requests],
            [ANSWER.dump_json(request.answer).decode() for request in requests],
        )


def _strategy(row: Row) -> Strategy:
    return Strategy(
        row["strategy_name"],
        REQUESTED_MODES[row["requested_mode"]],
        MODES[row["mode"]],
        STATES[row["state"]],
        row["halt_reason"],
        row["update_time"],
    )


def _books(rows: Sequence[Row]) -> dict[BookKey, Book]:
    """Books from rows that hold a book and one of its positions, or none."""
    books: dict[BookKey, Book] = {}
    positions: dict[BookKey, dict[str, Position]] = {}
    for row in rows:
        name, mode, version, cash, reserved_cash, update_time, position_id, *rest = row.values()
        key = (name, MODES[mode])
        if key not in books:
            positions[key] = {}
            books[key] = Book(
                name, key[1], version, cash, reserved_cash, positions[key], update_time
            )
        if position_id is not None:
            positions[key][rest[0]] = Position(position_id, *rest)
    return books


def _request(row: Row) -> StoredRequest:
    return StoredRequest(
        row["request_id"],
        row["method"],
        row["fingerprint"],
        ANSWER.validate_json(row["answer"]),
    )

"""The ledger on PostgreSQL: one transaction reads and locks, decides, writes, and tells of it."""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TypeAlias
from uuid import UUID

import asyncpg
import orjson
import structlog
from asyncpg.transaction import Transaction as Block
from prometheus_client import Histogram
from pydantic import TypeAdapter

from services.portfolio.domain.book import Book, RequestedMode, State, Strategy
from services.portfolio.domain.capital import Plan
from services.portfolio.domain.order import Fill, Mode
from services.portfolio.domain.position import Position
from services.portfolio.domain.promotion import Decision
from services.portfolio.domain.reconciliation import SymbolRow
from services.portfolio.domain.risk import NO_LIMITS, Limits, Whole
from services.portfolio.domain.valuation import Valuation
from services.portfolio.ports import (
    Answer,
    BookKey,
    Changes,
    Needs,
    PriceMark,
    Snapshot,
    StorageConflictError,
    StoredRequest,
    UnavailableError,
)
from services.portfolio.storage import statements as sql
from services.portfolio.storage.database import COMMIT_WITHIN_S, Database
from services.portfolio.storage.notices import notices
from services.portfolio.storage.rows import (
    DECISION,
    PLAN,
    POLICY,
    decision_of,
    fill_of,
    json_rows,
    limits_json,
    limits_of,
    order_of,
    portfolio_view_of,
    position_view_of,
    symbol_row_of,
    valuation_of,
    whole_of,
)
from services.portfolio.telemetry import tracing
from services.portfolio.views import PortfolioView, PositionView

Row = asyncpg.Record
Connection: TypeAlias = "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"
MODES = {mode.value: mode for mode in Mode}  # a look-up costs a fifth of Mode(...)
REQUESTED_MODES = {mode.value: mode for mode in RequestedMode}
STATES = {state.value: state for state in State}
MOST_KNOWN = 10_000  # books to remember
ANSWER: TypeAdapter[Answer] = TypeAdapter(Answer)
RECENT = timedelta(seconds=60)
COMMIT_SECONDS = Histogram(
    "portfolio_writer_commit_seconds",
    "From COMMIT to the database's word that it is durable.",
    buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 5),
)
log = structlog.get_logger()


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
        self._unconfirmed: asyncio.Task[None] | None = None  # a commit that is still waited for

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator["PostgresTransaction"]:
        """A transaction that commits when its block ends well."""
        self._require_confirmed()
        async with self._database.kept() as connection:
            # A new connection may be to another server, a promoted standby say: forget.
            if self._known_since != self._database.connections or len(self._known) > MOST_KNOWN:
                self._known_since = self._database.connections
                self._known = {}
            known = self._known
            block = connection.transaction()
            with tracing.step("BEGIN"):
                await block.start()
            transaction = PostgresTransaction(connection, known)
            try:
                yield transaction
            except BaseException:
                with tracing.step("ROLLBACK"):
                    await block.rollback()
                raise
            with tracing.step("COMMIT"), COMMIT_SECONDS.time():
                await self._commit(block)
            known.update(transaction.seen)  # only now is it true

    async def _commit(self, block: Block) -> None:
        """Commits; waits no longer than COMMIT_WITHIN_S until it is durable.

        With a synchronous standby that is away, a commit waits until it is back. It goes on waiting
        when its callers have been told: to cancel it would make it seen before it is durable.
        """
        commit = asyncio.create_task(block.commit(), name="commit")
        done, _ = await asyncio.wait([commit], timeout=COMMIT_WITHIN_S)
        if not done:
            self._unconfirmed = commit
            commit.add_done_callback(_log_end)
            log.warning("commit_unconfirmed", after_s=COMMIT_WITHIN_S, next="no more are begun")
            raise UnavailableError(
                "DATABASE_UNAVAILABLE",
                f"The database has not confirmed within {COMMIT_WITHIN_S:g} s that the change is "
                "durable (its synchronous standby may be away). Repeat the call with the same "
                "request_id to learn whether it was made.",
            )
        await commit

    def _require_confirmed(self) -> None:
        """Lets no transaction begin while the last one's commit waits.

        Raises:
            UnavailableError: It waits; nothing was written.
        """
        if self._unconfirmed is None:
            return
        if not self._unconfirmed.done():
            raise UnavailableError(
                "DATABASE_UNAVAILABLE",
                "The database has not confirmed an earlier change yet (its synchronous standby may "
                "be away). Nothing was written; repeat the call with the same request_id.",
            )
        self._unconfirmed = None


def _log_end(commit: "asyncio.Task[None]") -> None:
    """Says how a commit that was waited for has ended after all."""
    failed = None if commit.cancelled() else commit.exception()
    log.info("commit_ended", how="confirmed" if failed is None else type(failed).__name__)


class PostgresTransaction:
    """One transaction on one connection. `seen`: books as it leaves them."""

    def __init__(self, connection: Connection, known: Mapping[BookKey, Book]) -> None:
        self.seen: dict[BookKey, Book] = {}
        self._connection = connection
        self._known = known

    async def load(self, needs: Needs) -> Snapshot:
        """Reads what a batch needs and locks its strategies, in name order."""
        names = set(needs.strategies)
        with tracing.step("lock"):
            locked = await self._lock(needs, names)
        with tracing.step("read"):
            return await self._read(needs, names, locked)

    async def _lock(self, needs: Needs, names: set[str]) -> Sequence[Row]:
        """Locks all strategies that a batch needs, and adds those it names in other ways."""
        fetch = self._connection.fetch
        if needs.everyone:
            await self._connection.execute(sql.LOCK_EVERYONE)
            names |= {row["strategy_name"] for row in await fetch(sql.EVERYONE)}
        if needs.orders or needs.positions:
            owners = await fetch(sql.OWNERS, list(needs.orders), list(needs.positions))
            names |= {row["strategy_name"] for row in owners}
        return await fetch(sql.LOCK, list(names))

    async def _read(self, needs: Needs, names: set[str], locked: Sequence[Row]) -> Snapshot:
        """What there is of a batch's needs, with its strategies locked."""
        fetch = self._connection.fetch
        await self._read_books(locked)
        orders: list[Row] = []
        owned: Sequence[Row] = ()
        requests: Sequence[Row] = ()
        if needs.orders:
            orders = await fetch(sql.ORDERS_BY_ID, list(needs.orders))
        if needs.open_orders:
            orders += await fetch(sql.OPEN_ORDERS, list(names))
        if needs.positions:
            owned = await fetch(sql.POSITION_OWNERS, list(needs.positions))
        if needs.requests:
            requests = await fetch(sql.REQUESTS, list(needs.requests))
        strategies = {row[0]: strategy_of(row) for row in locked}
        # Only who creates strategies or halts everything asks for more than the limits.
        if needs.everyone or len(strategies) < len(names):
            whole = await self._read_whole()
        else:
            whole = Whole(limits=limits_of(locked[0]["whole_limits"]) if locked else NO_LIMITS)
        limited = {
            name
            for name, strategy in strategies.items()
            if strategy.limits.need_marks or whole.limits.need_marks
        }
        marked = names if needs.valued else limited
        return Snapshot(
            strategies,
            dict(self.seen),
            {row["order_id"]: order_of(row) for row in orders},
            {row[0]: ((row[1], Mode(row[2])), row[3]) for row in owned},
            {row[0]: _request(row) for row in requests},
            await self._read_fills(needs, orders) if needs.fills else {},
            await self._read_account(needs) if needs.accounts else {},
            whole,
            needs.valued,
            await self._read_marks(marked) if marked else {},
            await self._read_valuations(names) if needs.valued else {},
            await self._count_recent(strategies, whole.limits),
            await self._read_plans(needs.plans) if needs.plans else {},
            await self._read_decisions(names) if needs.decided else {},
        )

    async def _read_whole(self) -> Whole:
        return whole_of(await self._connection.fetchrow(sql.WHOLE))

    async def _read_marks(self, names: Collection[str]) -> dict[tuple[str, str], PriceMark]:
        rows = await self._connection.fetch(sql.MARKS, list(names))
        return {(row[0], row[1]): PriceMark(*row) for row in rows}

    async def _read_valuations(self, names: Collection[str]) -> dict[BookKey, Valuation]:
        rows = await self._connection.fetch(sql.LAST_VALUATIONS, list(names))
        return {(row[0], MODES[row[1]]): valuation_of(row) for row in rows}

    async def _read_plans(self, plan_ids: Collection[UUID]) -> dict[UUID, Plan]:
        rows = await self._connection.fetch(sql.PLANS, list(plan_ids))
        plans = [PLAN.validate_json(row["plan"]) for row in rows]
        return {plan.plan_id: plan for plan in plans}

    async def _read_decisions(self, names: Collection[str]) -> dict[str, Decision]:
        rows = await self._connection.fetch(sql.LAST_DECISIONS, list(names))
        return {row["strategy_name"]: decision_of(row) for row in rows}

    async def _count_recent(
        self, strategies: Mapping[str, Strategy], whole: Limits
    ) -> dict[str, int]:
        """Orders of the last 60 s, of those whose limits ask for it; "" is the whole."""
        counted: dict[str, int] = {}
        names = [s.name for s in strategies.values() if s.limits.max_orders_per_minute is not None]
        if not names and whole.max_orders_per_minute is None:
            return counted
        since = first_id(datetime.now(UTC) - RECENT)
        if names:
            counted = dict.fromkeys(names, 0)
            for row in await self._connection.fetch(sql.RECENT_ORDERS, names, since):
                counted[row[0]] = row[1]
        if whole.max_orders_per_minute is not None:
            await self._connection.execute(sql.LOCK_COUNT)
            counted[""] = await self._connection.fetchval(sql.RECENT_ORDERS_OF_ALL, since)
        return counted

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
                "session": strategy.session,
                "session_given": strategy.session_given,
                "portfolio_halted": strategy.portfolio_halted,
                "limits": limits_json(strategy.limits),
                "promoted": strategy.promoted,
                "live_since": strategy.live_since,
                "silent": strategy.silent,
                "flattening": strategy.flattening,
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
                "due": book.due,
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
            json_rows(changes.mutations),
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
        await self._save_judgement(changes)

    async def _save_judgement(self, changes: Changes) -> None:
        """Writes what few batches bring: valuations, risk, decisions, plans."""
        fetch = self._connection.fetch
        if changes.valuations:
            await fetch(sql.VALUE, json_rows(changes.valuations))
        if changes.risk_events:
            await fetch(sql.RISK_EVENTS, json_rows(changes.risk_events))
        if changes.decisions:
            decisions = [DECISION.dump_python(each, mode="json") for each in changes.decisions]
            await fetch(sql.DECIDE, json_rows(decisions))
        if changes.whole is not None:
            whole = changes.whole
            limits = limits_json(whole.limits)
            text = None if limits is None else orjson.dumps(limits).decode()
            await fetch(sql.SET_WHOLE, whole.halted, whole.halt_reason, text, whole.update_time)
        if changes.policy is not None:
            await fetch(sql.SET_POLICY, POLICY.dump_json(changes.policy).decode())
        if changes.plans:
            plans = list(changes.plans.values())
            await fetch(
                sql.PLAN,
                [plan.plan_id for plan in plans],
                [plan.state.value for plan in plans],
                [plan.mode.value for plan in plans],
                [PLAN.dump_json(plan).decode() for plan in plans],
                [plan.carry_out_time for plan in plans],
            )

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
        answers = [ANSWER.dump_json(request.answer).decode() for request in requests]
        with tracing.step("remember"):
            await self._connection.fetch(
                sql.REMEMBER,
                [request.request_id for request in requests],
                [request.method for request in requests],
                [request.fingerprint for request in requests],
                answers,
            )


def strategy_of(row: Row) -> Strategy:
    """A strategy, from all its columns."""
    return Strategy(
        row["strategy_name"],
        REQUESTED_MODES[row["requested_mode"]],
        MODES[row["mode"]],
        STATES[row["state"]],
        row["halt_reason"],
        row["update_time"],
        row["session"],
        row["session_given"],
        row["portfolio_halted"],
        limits_of(row["limits"]),
        row["promoted"],
        row["live_since"],
        row["silent"],
        row["flattening"],
    )


def first_id(time: datetime) -> UUID:
    """The least UUIDv7 of a moment."""
    return UUID(int=(round(time.timestamp() * 1000) << 80) | (7 << 76) | (2 << 62))


def _books(rows: Sequence[Row]) -> dict[BookKey, Book]:
    """Books from rows that hold a book and one of its positions, or none."""
    books: dict[BookKey, Book] = {}
    positions: dict[BookKey, dict[str, Position]] = {}
    for row in rows:
        name, mode, version, cash, reserved, update_time, due, position_id, *rest = row.values()
        key = (name, MODES[mode])
        if key not in books:
            positions[key] = {}
            books[key] = Book(
                name, key[1], version, cash, reserved, positions[key], update_time, due
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

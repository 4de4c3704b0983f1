"""The baton: the one session that holds the sender's lock, and all that only its holder may write.

PostgreSQL frees the lock of a session that ends, and a session that has ended can write nothing.
So everything is done on the very session that took the lock, and none is ever replaced in silence:
whoever lost it hears of it, and must take the baton again.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from decimal import Decimal
from uuid import UUID

import asyncpg
import structlog

from services.portfolio.domain.executions import COMMISSION
from services.portfolio.domain.reconciliation import Reconciliation
from services.portfolio.domain.weather import Weather
from services.portfolio.live.ports import Intent, OutvotedError
from services.portfolio.ports import StorageConflictError, UnavailableError
from services.portfolio.storage.address import Address, Session
from services.portfolio.storage.database import SERVER_SETTINGS, locked_is_away, translated
from services.portfolio.storage.notices import BROKER_NOTICE, CHANNEL
from services.portfolio.storage.rows import json_rows, order_of
from services.portfolio.storage.statements import ACKNOWLEDGED, ORDER_COLUMNS

SENDER_LOCK = 7_205_311_119  # any number, the same in every replica
TAKE_WITHIN_S = 2.0
ANSWER_WITHIN_S = 3.5  # less than the server needs to give a vanished holder's lock away
SETTINGS = {
    **SERVER_SETTINGS,
    "application_name": "efficientfrontier-sender",
    # How the server finds out, in 4 to 5 s, that the holder's machine has vanished.
    "tcp_keepalives_idle": "2",
    "tcp_keepalives_interval": "1",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "4s",
    # What waits longer than its caller does must not write when the caller has given up.
    "statement_timeout": "3s",
}

_INTENTS = f"""
SELECT {ORDER_COLUMNS}, client_id, broker_order_id, sent_time, cancel_requested
FROM broker_orders JOIN orders USING (order_id)
WHERE status IN ('PENDING', 'UNKNOWN')
"""  # noqa: S608 - column names of a dataclass
UNSENT = f"{_INTENTS} AND broker_order_id IS NULL ORDER BY order_id"
SENT = f"{_INTENTS} AND broker_order_id IS NOT NULL ORDER BY order_id"

FIRST_ID = "SELECT coalesce(max(last_id), 0) + 1 FROM broker_ids WHERE client_id = $1"

# Raises the mark and gives out the ids, or does nothing at all when the mark is not below them.
# The locks meet a request to cancel: whichever comes first, the other sees it. An intent that is
# to be cancelled and was not sent can thus never be sent.
ASSIGN = """
WITH given AS (
    SELECT order_id, broker_order_id FROM unnest($2::uuid[], $3::bigint[])
        AS given (order_id, broker_order_id)
), mark AS (
    INSERT INTO broker_ids (client_id, last_id) SELECT $1, max(broker_order_id) FROM given
    ON CONFLICT (client_id) DO UPDATE SET last_id = excluded.last_id
    WHERE broker_ids.last_id < (SELECT min(broker_order_id) FROM given)
    RETURNING last_id
), free AS (
    SELECT b.order_id FROM broker_orders b JOIN orders o USING (order_id)
    WHERE b.order_id = ANY($2) AND b.broker_order_id IS NULL AND NOT b.cancel_requested
      AND o.status = 'PENDING'
    ORDER BY b.order_id
    FOR UPDATE OF b
), assigned AS (
    UPDATE broker_orders b
    SET client_id = $1, broker_order_id = given.broker_order_id, sent_time = clock_timestamp()
    FROM mark, free JOIN given USING (order_id)
    WHERE b.order_id = free.order_id
    RETURNING b.order_id
)
SELECT mark.last_id, assigned.order_id FROM mark LEFT JOIN assigned ON true
"""

# Meets ASSIGN at the intent's row: whichever comes first, the other sees it.
WITHDRAW = """
UPDATE broker_orders SET cancel_requested = true
WHERE order_id = $1 AND broker_order_id IS NULL
RETURNING order_id
"""

SAY = f"""
WITH said AS (
    INSERT INTO broker_weather
        (one, state, since, detail, market_data, account, sender, heartbeat)
    VALUES (true, $1, $2, $3, $4, $5, $6, clock_timestamp())
    ON CONFLICT (one) DO UPDATE SET
        state = excluded.state, since = excluded.since, detail = excluded.detail,
        market_data = excluded.market_data, sender = excluded.sender,
        account = coalesce(nullif(excluded.account, ''), broker_weather.account),
        heartbeat = excluded.heartbeat
)
SELECT pg_notify('{CHANNEL}', $7)
"""  # noqa: S608 - a constant

# A comparison takes the place of the one before: symbols that are no longer in it go.
KEEP = f"""
WITH seen AS (
    SELECT symbol, quantity, strategies_quantity
    FROM json_populate_recordset(NULL::broker_positions, $1)
), gone AS (
    DELETE FROM broker_positions WHERE symbol NOT IN (SELECT symbol FROM seen)
), kept AS (
    INSERT INTO broker_positions (symbol, quantity, strategies_quantity)
    SELECT symbol, quantity, strategies_quantity FROM seen
    ON CONFLICT (symbol) DO UPDATE SET
        quantity = excluded.quantity, strategies_quantity = excluded.strategies_quantity
), account AS (
    INSERT INTO broker_account (one, time, cash, strategies_cash, net_liquidation)
    VALUES (true, $2, $3, $4, $5)
    ON CONFLICT (one) DO UPDATE SET
        time = excluded.time, cash = excluded.cash, strategies_cash = excluded.strategies_cash,
        net_liquidation = excluded.net_liquidation
)
SELECT pg_notify('{CHANNEL}', $6)
"""  # noqa: S608 - a constant

# One row for the cash, which has no symbol, and one for each symbol.
# A commission is a fact of its own, named after its execution.
BOOKED = f"""
SELECT split_part(execution_id, '{COMMISSION}', 1) AS execution_id,
       sum(commission) FILTER (WHERE kind = 'COMMISSION') AS commission
FROM broker_orders JOIN fills USING (order_id)
WHERE sent_time > now() - interval '2 days'
GROUP BY 1
"""  # noqa: S608 - a constant

STRATEGIES = """
SELECT NULL AS symbol, coalesce(sum(cash), 0) AS figure FROM books WHERE mode = 'LIVE'
UNION ALL
SELECT symbol, sum(quantity) FROM positions WHERE mode = 'LIVE' AND quantity > 0 GROUP BY symbol
"""

log = structlog.get_logger()


class PostgresBaton:
    """The baton on PostgreSQL: a session-level advisory lock."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._session: Session | None = None
        self._is_ours = False
        self._turns = asyncio.Lock()  # a session does one thing at a time

    async def take(self) -> bool:
        """Takes the lock if it is free, or still ours; never waits longer than 2 s.

        Raises:
            OutvotedError: It was ours, and was lost; take it again.
            UnavailableError: The database is away.
        """
        async with self._turns, self._bounded(TAKE_WITHIN_S):
            if self._is_ours:
                await self._holder().execute("SELECT 1")
            else:
                session = await self._connected()
                self._is_ours = await session.fetchval(
                    f"SELECT pg_try_advisory_lock({SENDER_LOCK})"
                )
            return self._is_ours

    async def drop(self) -> None:
        """Gives the lock back and ends the session. What was lost already needs no giving back."""
        async with self._turns:
            session, self._session, self._is_ours = self._session, None, False
            if session is None:
                return
            try:
                with suppress(UnavailableError), translated():
                    # Unlocked first: the server ends the session a little after close() returns.
                    await session.execute("SELECT pg_advisory_unlock_all()", timeout=TAKE_WITHIN_S)
                    await session.close(timeout=TAKE_WITHIN_S)
            finally:
                session.terminate()  # does nothing to one that is closed

    async def first_id(self, client_id: int) -> int:
        """One above the highest order id that was ever assigned to this client id."""
        first: int = (await self._fetch(FIRST_ID, client_id))[0][0]
        return first

    async def unsent(self) -> Sequence[Intent]:
        """Open intents without a broker_order_id, oldest first."""
        return [_intent(row) for row in await self._fetch(UNSENT)]

    async def sent(self) -> Sequence[Intent]:
        """Intents with a broker_order_id whose orders are PENDING or UNKNOWN, oldest first."""
        return [_intent(row) for row in await self._fetch(SENT)]

    async def booked(self) -> Mapping[str, Decimal | None]:
        """Executions of the last two days' orders that are booked, by id, with their commission."""
        return {row["execution_id"]: row["commission"] for row in await self._fetch(BOOKED)}

    async def assign(self, client_id: int, ids: Mapping[UUID, int]) -> set[UUID]:
        """Commits broker order ids and the high-water mark, in one statement.

        Raises:
            OutvotedError: An id is not above the mark: somebody else has sent. Nothing was written.
            UnavailableError: The database is away. The ids may have been written or not; assigning
                others to the same orders is safe, since those that have one are left out.
        """
        if not ids:
            return set()
        rows = await self._fetch(ASSIGN, client_id, list(ids), list(ids.values()))
        if not rows:
            raise OutvotedError(
                f"Order ids from {min(ids.values())} of client {client_id} are not above the mark: "
                "another router has sent orders since. Nothing was assigned."
            )
        return {row["order_id"] for row in rows if row["order_id"] is not None}

    async def withdraw(self, order_id: UUID) -> bool:
        """Takes an unsent intent back, so that no sender can ever assign it; False: it was sent."""
        return bool(await self._fetch(WITHDRAW, order_id))

    async def say(self, weather: Weather) -> None:
        """Keeps the weather, with a heartbeat by the database's clock, and tells every replica."""
        await self._fetch(
            SAY,
            weather.state,
            weather.since,
            weather.detail,
            weather.market_data,
            weather.account,
            weather.sender,
            BROKER_NOTICE,
        )

    async def keep(self, seen: Reconciliation) -> None:
        """Keeps a comparison, and tells every replica."""
        rows = [
            {
                "symbol": row.symbol,
                "quantity": row.broker,
                "strategies_quantity": row.strategies,
            }
            for row in seen.rows
        ]
        await self._fetch(
            KEEP,
            json_rows(rows),
            seen.time,
            seen.broker_cash,
            seen.strategies_cash,
            seen.net_liquidation,
            BROKER_NOTICE,
        )

    async def strategies(self) -> tuple[Mapping[str, Decimal], Decimal]:
        """Shares by symbol, and cash, summed over all LIVE books at one moment."""
        figures = {row["symbol"]: row["figure"] for row in await self._fetch(STRATEGIES)}
        cash = figures.pop(None)
        return figures, cash

    async def acknowledged(self) -> Mapping[str, Decimal]:
        """UNATTRIBUTED shares that operators have acknowledged, by symbol."""
        return {row["symbol"]: row["quantity"] for row in await self._fetch(ACKNOWLEDGED)}

    async def _fetch(self, statement: str, *values: object) -> list[asyncpg.Record]:
        """Runs a statement on the session that holds the lock.

        Raises:
            OutvotedError: There is none; nothing was written.
            UnavailableError: The session broke or did not answer; it and the lock are gone.
        """
        async with self._turns, self._bounded(ANSWER_WITHIN_S):
            rows: list[asyncpg.Record] = await self._holder().fetch(statement, *values)
            return rows

    def _holder(self) -> Session:
        """The session that holds the lock."""
        if self._session is not None and self._session.is_closed():
            self._let_go("its session was ended")
        if self._session is None or not self._is_ours:
            raise OutvotedError("This router does not hold the sender's lock. Take it first.")
        return self._session

    async def _connected(self) -> Session:
        """The session to ask for the lock on."""
        if self._session is None or self._session.is_closed():
            self._session = await self._address.connect(SETTINGS, timeout_s=TAKE_WITHIN_S)
        return self._session

    @asynccontextmanager
    async def _bounded(self, limit_s: float) -> AsyncIterator[None]:
        """Ends a session that breaks or does not answer in time: the lock goes with it."""
        try:
            with locked_is_away(), translated():
                async with asyncio.timeout(limit_s):
                    yield
        except UnavailableError as error:
            self._let_go(error.message)
            raise
        except StorageConflictError as error:
            raise OutvotedError("Another router has used these order ids.") from error

    def _let_go(self, why: str) -> None:
        if self._is_ours:
            log.warning("baton_lost", why=why, next="nothing is sent until it is taken again")
        if self._session is not None:
            self._session.terminate()
        self._session, self._is_ours = None, False


def _intent(row: asyncpg.Record) -> Intent:
    return Intent(
        order_of(row),
        row["client_id"],
        row["broker_order_id"],
        row["sent_time"],
        row["cancel_requested"],
    )

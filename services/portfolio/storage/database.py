"""The connections to PostgreSQL: the pool, the engine, the migrations, and what errors mean."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import TypeAlias

import asyncpg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from services.portfolio.ports import LockedError, StorageConflictError, UnavailableError
from services.portfolio.storage.address import (
    AWAY,
    CONNECT_TIMEOUT_S,
    Address,
    BadDatabaseUrlError,
    Session,
    UnreachableError,
    why,
)
from services.portfolio.storage.engine_check import check_engine

POOL_SIZE = 8  # more gained nothing where this was measured
# A commit may wait for a synchronous standby, which no timeout of the server's bounds: then callers
# are told so, a little before the SDK gives up (5 s).
COMMIT_WITHIN_S = 4.0
MIGRATIONS = Path(__file__).parent / "migrations"
MIGRATION_LOCK = 7_205_311_118  # any number, the same in every replica
SERVER_SETTINGS = {
    "application_name": "efficientfrontier-portfolio",
    # Bounds on everything: a statement, a wait for a lock, a transaction whose router has gone.
    "statement_timeout": "30s",
    # Shorter than COMMIT_WITHIN_S: a commit that waits for a lock (NOTIFY takes one) is known not
    # to have been made.
    "lock_timeout": "3s",
    "idle_in_transaction_session_timeout": "15s",
}

# Serialization failures, deadlocks and violated constraints: the transaction is
# rolled back whole and may be run again, command by command.
CONFLICTS = (
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.IntegrityConstraintViolationError,
)

PooledConnection: TypeAlias = "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"


@contextmanager
def translated() -> Iterator[None]:
    """Turns the driver's errors into the ports' own; driver text never leaves storage."""
    try:
        yield
    except asyncpg.LockNotAvailableError as error:
        raise LockedError(type(error).__name__) from error
    except CONFLICTS as error:
        raise StorageConflictError(type(error).__name__) from error
    except AWAY as error:
        raise away(error) from error
    except DBAPIError as error:
        driver_error = _driver_error(error)
        if error.connection_invalidated or isinstance(driver_error, AWAY):
            raise away(driver_error or error) from error
        raise


def _driver_error(error: DBAPIError) -> BaseException | None:
    """What the driver said, within SQLAlchemy's error."""
    return None if error.orig is None else error.orig.__cause__


def away(error: BaseException) -> UnavailableError:
    """The database cannot be reached."""
    return UnavailableError(
        "DATABASE_UNAVAILABLE",
        "The router cannot reach its database at the moment "
        f"({type(error).__name__}). Repeat the call with the same request_id.",
    )


class Database:
    """One router's connections: a pool for hot statements, an engine for all others."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.connections = 0  # that the pool has made until now
        self._kept: PooledConnection | None = None  # out of the pool, for the writer
        self.pool: asyncpg.Pool[asyncpg.Record] = asyncpg.create_pool(
            min_size=1,
            max_size=POOL_SIZE,
            connect=self._open,
            init=self._count,
            reset=_leave_as_it_is,
        )
        self.engine: AsyncEngine = create_async_engine(
            "postgresql+asyncpg://",
            pool_size=2,
            max_overflow=2,
            pool_pre_ping=True,
            async_creator=self._open,
        )

    @classmethod
    async def connect(cls, database_url: str) -> "Database":
        """Connects and brings the tables up to date.

        Raises:
            BadDatabaseUrlError: The address is wrong, or its user may not make tables.
            EngineError: It leads to a database that lacks what the ledger needs.
            UnreachableError: The server is away, or refuses it.
        """
        address = Address(database_url)
        try:
            await check_engine(address)
            database = cls(address)
            await database.pool
        except (*AWAY, ValueError) as error:
            raise UnreachableError(
                f"DATABASE_URL {address.shown} cannot be used: {why(error)}"
            ) from None
        try:
            with translated():
                await database.migrate()
        except BaseException as error:
            await database.close()
            if isinstance(error, UnavailableError):
                raise UnreachableError(
                    f"DATABASE_URL {address.shown} cannot be used: the database went away while "
                    "its tables were brought up to date"
                ) from None
            denied = _driver_error(error) if isinstance(error, DBAPIError) else None
            if isinstance(denied, asyncpg.InsufficientPrivilegeError):
                raise BadDatabaseUrlError(
                    f"DATABASE_URL {address.shown} cannot be used: its user may not bring the "
                    f"tables up to date ({denied})"
                ) from None
            raise
        return database

    async def migrate(self) -> None:
        """Brings the tables up to date; replicas that start together take turns."""
        async with self.engine.connect() as connection:
            await connection.execute(text("SET statement_timeout = 0"))
            await connection.execute(text("SET lock_timeout = 0"))
            await connection.execute(text(f"SELECT pg_advisory_lock({MIGRATION_LOCK})"))
            await connection.commit()
            try:
                await connection.run_sync(upgrade)
                await connection.commit()
            finally:
                await connection.invalidate()  # ends the session, and with it lock and settings

    async def _open(self, *_pool: object, **_pools: object) -> Session:
        """A session for the pool, whose own arguments are asyncpg's defaults, or the engine."""
        return await self.address.connect(SERVER_SETTINGS)

    async def _count(self, _connection: object) -> None:
        self.connections += 1

    @asynccontextmanager
    async def hot(self) -> AsyncIterator[PooledConnection]:
        """A pooled connection for hot statements, with its errors translated."""
        with locked_is_away(), translated():
            async with self.pool.acquire(timeout=CONNECT_TIMEOUT_S) as connection:
                with _dropped_if_read_only(connection):
                    yield connection

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[PooledConnection]:
        """As hot(), on a connection that stays out of the pool from one use to the next.

        For the writer, which runs one batch after another: asking the pool for a connection and
        giving it back cost it as much as one of its statements.
        """
        with translated():
            connection, self._kept = self._kept, None
            if connection is not None and connection.is_closed():
                await self.pool.release(connection)
                connection = None
            if connection is None:
                connection = await self.pool.acquire(timeout=CONNECT_TIMEOUT_S)
            try:
                with _dropped_if_read_only(connection):
                    yield connection
            finally:
                if self._kept is None and not connection.is_closed():
                    self._kept = connection
                else:
                    await self.pool.release(connection)

    async def close(self) -> None:
        """Closes every connection; what still runs after 5 s is cut."""
        if self._kept is not None:
            # A commit that still waits for a standby keeps it busy; then it is cut instead, which
            # leaves that commit to the server.
            with suppress(asyncpg.InterfaceError):
                await self.pool.release(self._kept)
            self._kept = None
        try:
            async with asyncio.timeout(5):
                await self.pool.close()
        except TimeoutError:
            self.pool.terminate()
        await self.engine.dispose()


async def _leave_as_it_is(_connection: object) -> None:
    """No statement here leaves anything in its session, so a round trip to reset it is saved."""


@contextmanager
def locked_is_away() -> Iterator[None]:
    """For single statements, which nobody runs again."""
    try:
        yield
    except LockedError as error:
        raise away(error) from error


@contextmanager
def _dropped_if_read_only(connection: PooledConnection) -> Iterator[None]:
    """Ends a session that turns out to take no writes: its server was demoted since."""
    try:
        yield
    except asyncpg.ReadOnlySQLTransactionError:
        connection.terminate()
        raise


def upgrade(connection: Connection) -> None:
    """Runs the migrations that are missing.

    Tables of a newer router are left as they are: while replicas are replaced, and when that is
    undone, an older one still starts on them.
    """
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    known = {each.revision for each in ScriptDirectory.from_config(config).walk_revisions()}
    if known.issuperset(MigrationContext.configure(connection).get_current_heads()):
        command.upgrade(config, "head")

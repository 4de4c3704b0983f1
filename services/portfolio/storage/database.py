"""The connection to PostgreSQL: the address, the pool, the migrations, and what its errors mean."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TypeAlias

import asyncpg
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from services.portfolio.ports import StorageConflictError, UnavailableError

POOL_SIZE = 8  # more gained nothing where this was measured
CONNECT_TIMEOUT_S = 5.0
MIGRATIONS = Path(__file__).parent / "migrations"
MIGRATION_LOCK = 7_205_311_118  # any number, the same in every replica
SERVER_SETTINGS = {
    "application_name": "efficientfrontier-portfolio",
    # Bounds on everything: a statement, a wait for a lock, a transaction whose router has gone.
    "statement_timeout": "30s",
    "lock_timeout": "10s",
    "idle_in_transaction_session_timeout": "15s",
}

# Serialization failures, deadlocks, lock timeouts and violated constraints: the transaction is
# rolled back whole and may be run again, command by command.
CONFLICTS = (
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.LockNotAvailableError,
    asyncpg.IntegrityConstraintViolationError,
)
# The server is away, starting, stopping, full, read-only, or the connection broke.
AWAY = (
    OSError,  # TimeoutError included
    EOFError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InternalClientError,
)


PooledConnection: TypeAlias = "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"


class BadDatabaseUrlError(Exception):
    """DATABASE_URL cannot be used; the message says why, without the password."""


@contextmanager
def translated() -> Iterator[None]:
    """Turns the driver's errors into the ports' own; driver text never leaves storage."""
    try:
        yield
    except CONFLICTS as error:
        raise StorageConflictError(type(error).__name__) from error
    except AWAY as error:
        raise away(error) from error
    except DBAPIError as error:
        driver_error = error.orig.__cause__ if error.orig is not None else None
        if error.connection_invalidated or isinstance(driver_error, AWAY):
            raise away(driver_error or error) from error
        raise


def away(error: BaseException) -> UnavailableError:
    """The database cannot be reached."""
    return UnavailableError(
        "DATABASE_UNAVAILABLE",
        "The router cannot reach its database at the moment "
        f"({type(error).__name__}). Repeat the call with the same request_id.",
    )


def parse_url(database_url: str) -> URL:
    """The address as SQLAlchemy has it, for asyncpg.

    Raises:
        BadDatabaseUrlError: It is not a PostgreSQL URL.
    """
    try:
        url = make_url(database_url)
    except ArgumentError:
        raise BadDatabaseUrlError(
            "DATABASE_URL is not a URL. It looks like postgresql://user:password@host:5432/name."
        ) from None
    if url.get_backend_name() not in ("postgresql", "postgres"):
        raise BadDatabaseUrlError(
            f"DATABASE_URL names {url.get_backend_name()}; only postgresql://... is supported."
        )
    return url.set(drivername="postgresql+asyncpg")


class Database:
    """One router's connections: a pool for hot statements, an engine for all others."""

    def __init__(self, url: URL) -> None:
        self.url = url
        self.connections = 0  # that the pool has made until now
        self._kept: PooledConnection | None = None  # out of the pool, for the writer
        self.pool: asyncpg.Pool[asyncpg.Record] = asyncpg.create_pool(
            dsn(url),
            min_size=1,
            max_size=POOL_SIZE,
            timeout=CONNECT_TIMEOUT_S,
            server_settings=SERVER_SETTINGS,
            init=self._count,
            reset=_leave_as_it_is,
        )
        # Both connect by the same address: SQLAlchemy would hand asyncpg what the address says of
        # sslmode and the like as arguments, which it does not take.
        self.engine: AsyncEngine = create_async_engine(
            url,
            pool_size=2,
            max_overflow=2,
            pool_pre_ping=True,
            async_creator=lambda: asyncpg.connect(
                dsn(url), timeout=CONNECT_TIMEOUT_S, server_settings=SERVER_SETTINGS
            ),
        )

    @classmethod
    async def connect(cls, database_url: str) -> "Database":
        """Connects and brings the tables up to date.

        Raises:
            BadDatabaseUrlError: The address is wrong, or the server refuses it.
        """
        url = parse_url(database_url)
        try:
            database = cls(url)
            await database.pool
        except (*AWAY, ValueError) as error:
            shown = url.set(drivername="postgresql").render_as_string(hide_password=True)
            raise BadDatabaseUrlError(
                f"DATABASE_URL {shown} cannot be used: {error or type(error).__name__}"
            ) from None
        try:
            await database.migrate()
        except BaseException:
            await database.close()
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
                await connection.execute(text(f"SELECT pg_advisory_unlock({MIGRATION_LOCK})"))
                await connection.commit()
                await connection.invalidate()  # its settings are not for others

    async def _count(self, _connection: object) -> None:
        self.connections += 1

    @asynccontextmanager
    async def hot(self) -> AsyncIterator[PooledConnection]:
        """A pooled connection for hot statements, with its errors translated."""
        with translated():
            async with self.pool.acquire(timeout=CONNECT_TIMEOUT_S) as connection:
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
                yield connection
            finally:
                if self._kept is None and not connection.is_closed():
                    self._kept = connection
                else:
                    await self.pool.release(connection)

    async def close(self) -> None:
        """Closes every connection; what still runs after 5 s is cut."""
        if self._kept is not None:
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


def dsn(url: URL) -> str:
    """The address as asyncpg has it."""
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


def upgrade(connection: Connection) -> None:
    """Runs the migrations that are missing."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")

"""Each implementation of Ledger, Reads and Feed, for the suites that every one of them runs."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest

from services.portfolio.ports import Feed, Ledger, Reads
from services.portfolio.storage.database import Database
from services.portfolio.storage.feed import PostgresFeed
from services.portfolio.storage.ledger import PostgresLedger
from services.portfolio.storage.memory import MemoryLedger, MemoryReads
from services.portfolio.storage.reads import PostgresReads
from tests.support.database import fresh_database, psql

IMPLEMENTATIONS = ("memory", "postgresql")
EMPTY = "TRUNCATE strategies, requests CASCADE"


@dataclass(frozen=True)
class Store:
    """One ledger, what reads it, what tells of it, and a way to break the line to it."""

    ledger: Ledger
    reads: Reads
    feed: Feed
    cut: Callable[[], Awaitable[None]]


@pytest.fixture(scope="session")
def shared_database_url(postgres_url: str) -> Iterator[str]:
    """A database for all suites of a worker; `store_url` empties it before each test."""
    with fresh_database(postgres_url) as url:
        asyncio.run(_migrated(url))
        yield url


@pytest.fixture
def migrated_url(shared_database_url: str) -> str:
    """The suites' database, migrated and empty."""
    psql(shared_database_url, EMPTY)
    return shared_database_url


@pytest.fixture(params=IMPLEMENTATIONS)
def store_url(request: pytest.FixtureRequest) -> str | None:
    """Where the store is; None for the one in memory."""
    if request.param == "memory":
        return None
    url: str = request.getfixturevalue("migrated_url")
    return url


@pytest.fixture
async def store(store_url: str | None) -> AsyncIterator[Store]:
    """An empty store, once of each kind."""
    if store_url is None:
        yield memory_store()
        return
    async with postgresql_store(store_url) as one:
        yield one


def memory_store() -> Store:
    """An empty store in memory."""
    ledger = MemoryLedger()

    async def cut() -> None:
        ledger.feed.cut()

    return Store(ledger, MemoryReads(ledger), ledger.feed, cut)


@asynccontextmanager
async def postgresql_store(url: str) -> AsyncIterator[Store]:
    """A store on the database, as a router has it."""
    database = await Database.connect(url)
    feed = PostgresFeed(database.url)

    async def cut() -> None:
        await run_sql(url, CUT)

    try:
        yield Store(PostgresLedger(database), PostgresReads(database), feed, cut)
    finally:
        await feed.stop()
        await database.close()


CUT = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


async def run_sql(url: str, statement: str, *values: Any) -> list[asyncpg.Record]:
    """Runs a statement on a connection of its own."""
    connection = await asyncpg.connect(url)
    try:
        rows: list[asyncpg.Record] = await connection.fetch(statement, *values)
        return rows
    finally:
        await connection.close()


async def _migrated(url: str) -> None:
    await (await Database.connect(url)).close()

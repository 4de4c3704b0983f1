"""Each implementation of the storage ports, for the suites that every one of them runs."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest

from services.portfolio.allocation.ports import AllocationReads
from services.portfolio.history.ports import HistoryReads
from services.portfolio.live.ports import Baton, BrokerReads
from services.portfolio.ports import Feed, Ledger, Reads
from services.portfolio.promotion.ports import PromotionReads
from services.portfolio.risk.ports import RiskReads
from services.portfolio.storage.allocation import PostgresAllocationReads
from services.portfolio.storage.baton import PostgresBaton
from services.portfolio.storage.broker_reads import PostgresBrokerReads
from services.portfolio.storage.database import Database
from services.portfolio.storage.feed import PostgresFeed
from services.portfolio.storage.history import PostgresHistory
from services.portfolio.storage.ledger import PostgresLedger
from services.portfolio.storage.memory import (
    MemoryBaton,
    MemoryBrokerReads,
    MemoryLedger,
    MemoryReads,
)
from services.portfolio.storage.memory_allocation import MemoryAllocationReads
from services.portfolio.storage.memory_history import MemoryHistory
from services.portfolio.storage.memory_promotion import MemoryPromotionReads
from services.portfolio.storage.memory_risk import MemoryRiskReads
from services.portfolio.storage.promotion import PostgresPromotionReads
from services.portfolio.storage.reads import PostgresReads
from services.portfolio.storage.risk import PostgresRiskReads
from tests.support.database import fresh_database, psql

IMPLEMENTATIONS = ("memory", "postgresql")
EMPTY = """
TRUNCATE strategies, requests, acknowledgements, broker_ids, broker_weather, broker_account,
         broker_positions, risk_events, portfolio_state, allocation_policy, plans,
         mutations CASCADE
"""


@dataclass(frozen=True)
class Store:
    """One ledger, what reads it, what tells of it, and ways to break the line to it."""

    ledger: Ledger
    reads: Reads
    feed: Feed
    broker_reads: BrokerReads
    history: HistoryReads
    promotion: PromotionReads
    risk: RiskReads
    allocation: AllocationReads
    new_baton: Callable[[], Baton]  # of another router each time
    cut: Callable[[], Awaitable[None]]
    cut_sender: Callable[[], Awaitable[None]]  # ends the session that holds the sender's lock


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

    async def cut_sender() -> None:
        assert ledger.sender is not None
        ledger.sender = None

    return Store(
        ledger,
        MemoryReads(ledger),
        ledger.feed,
        MemoryBrokerReads(ledger),
        MemoryHistory(ledger),
        MemoryPromotionReads(ledger),
        MemoryRiskReads(ledger),
        MemoryAllocationReads(ledger),
        lambda: MemoryBaton(ledger, lambda: datetime.now(UTC)),
        cut,
        cut_sender,
    )


@asynccontextmanager
async def postgresql_store(url: str) -> AsyncIterator[Store]:
    """A store on the database, as a router has it."""
    database = await Database.connect(url)
    feed = PostgresFeed(database.address)
    batons: list[PostgresBaton] = []

    def new_baton() -> Baton:
        batons.append(PostgresBaton(database.address))
        return batons[-1]

    async def cut() -> None:
        await run_sql(url, CUT)

    async def cut_sender() -> None:
        assert await run_sql(url, CUT_SENDER)

    try:
        yield Store(
            PostgresLedger(database),
            PostgresReads(database),
            feed,
            PostgresBrokerReads(database),
            PostgresHistory(database),
            PostgresPromotionReads(database),
            PostgresRiskReads(database),
            PostgresAllocationReads(database),
            new_baton,
            cut,
            cut_sender,
        )
    finally:
        for baton in batons:
            await baton.drop()
        await feed.stop()
        await database.close()


CUT = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


CUT_SENDER = """
SELECT pg_terminate_backend(pid, 5000) FROM pg_locks JOIN pg_database d ON d.oid = database
WHERE locktype = 'advisory' AND datname = current_database() AND granted
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

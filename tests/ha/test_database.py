"""After a failover everything that has a session with the database finds the new primary."""

import asyncio
from contextlib import suppress

import pytest

from services.portfolio.domain.order import Mode
from services.portfolio.live.ports import OutvotedError
from services.portfolio.ports import LedgerEvent, Needs, UnavailableError
from services.portfolio.storage.address import UnreachableError
from services.portfolio.storage.database import Database
from tests.ports.stores import Store, postgresql_store
from tests.support.database import psql
from tests.support.replicated import Replicated
from tests.support.waiting import wait_until_async
from tests.writer.desks import open_strategies, writer_on

NOTIFY = """SELECT pg_notify('ledger', '{"strategies": ["A"], "orders": []}')"""


async def cash_of_a(store: Store) -> int | None:
    """Its cash as the writer knows it; None while the database is away."""
    with suppress(UnavailableError):
        async with store.ledger.transaction() as transaction:
            books = (await transaction.load(Needs(strategies=["A"]))).books
            return int(books["A", Mode.PAPER].cash)
    return None


async def hears(store: Store, url: str) -> LedgerEvent | None:
    """What the feed tells of the next commit; None while it is broken."""
    with suppress(UnavailableError):
        async with store.feed.subscribe() as events:
            await asyncio.to_thread(psql, url, NOTIFY)
            return await anext(events)
    return None


async def test_pool_writer_feed_and_sender_go_on_at_the_new_primary(pair: Replicated) -> None:
    with pytest.raises(UnreachableError, match="takes no writes"):
        await Database.connect(pair.standby.url)
    async with postgresql_store(pair.url) as store:
        async with writer_on(store.ledger) as writer:
            await open_strategies(writer, "A")
        baton = store.new_baton()
        assert await baton.take()
        assert await hears(store, pair.primary.url)
        assert await cash_of_a(store) == 1000
        await asyncio.to_thread(pair.fail_over)
        # The same version with other cash: only who forgot what it remembered sees it.
        psql(pair.standby.url, "UPDATE books SET cash = 7")
        with pytest.raises((UnavailableError, OutvotedError)):
            await baton.unsent()
        assert await wait_until_async(lambda: cash_of_a(store), 20, "the writer") == 7
        assert await wait_until_async(lambda: hears(store, pair.standby.url), 20, "the feed")
        assert await wait_until_async(baton.take, 20, "the sender's lock")
        assert await baton.unsent() == []
        await store.reads.audit()

"""After a failover everything that has a session with the database finds the new primary."""

import asyncio
from contextlib import suppress
from datetime import UTC, datetime

import pytest

from services.portfolio.domain.order import Mode
from services.portfolio.domain.weather import BrokerState, Weather
from services.portfolio.live.ports import OutvotedError
from services.portfolio.ports import LedgerEvent, Needs, UnavailableError
from services.portfolio.storage.address import Address, UnreachableError
from services.portfolio.storage.database import SERVER_SETTINGS, Database
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


async def waits_for_its_standby(pair: Replicated) -> bool:
    """Whether a commit does."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    return await asyncio.to_thread(psql, pair.primary.url, waiting) == "1"


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


async def port_of(address: Address) -> int:
    """The server that a connection is made to."""
    session = await address.connect(SERVER_SETTINGS)
    port: int = await session.fetchval("SELECT inet_server_port()")
    await session.close()
    return port


async def test_an_old_primary_that_comes_back_as_one_is_not_used(pair: Replicated) -> None:
    first, second = pair.primary.port, pair.standby.port
    url = f"postgresql://postgres@127.0.0.1:{first},127.0.0.1:{second}/postgres"
    running = Address(url)
    assert await port_of(running) == first
    await asyncio.to_thread(pair.fail_over)
    assert await port_of(running) == second
    await asyncio.to_thread(pair.primary.start)
    assert await port_of(Address(url)) == second  # as a router that starts now
    await asyncio.to_thread(pair.standby.kill)
    with pytest.raises(ConnectionError, match="old primary"):
        await running.connect(SERVER_SETTINGS)


async def test_a_sender_that_waits_too_long_for_a_lock_gives_the_baton_up(pair: Replicated) -> None:
    async with postgresql_store(pair.url) as store:
        baton = store.new_baton()
        assert await baton.take()
        pair.standby.kill()
        # A commit that tells something holds the lock of all NOTIFYs while it waits for a standby.
        teller = await Address(pair.primary.url).connect({})
        commit = asyncio.create_task(teller.execute(f"CREATE TABLE told (n int); {NOTIFY}"))
        await wait_until_async(lambda: waits_for_its_standby(pair), 20, "the commit waits")
        with pytest.raises(UnavailableError):
            await baton.say(Weather(BrokerState.DOWN, datetime.now(UTC)))
        with pytest.raises(OutvotedError):  # the lock went with it
            await baton.unsent()
        pair.wait_for_standby(False)
        await commit
        await teller.close()

import asyncio

import asyncpg
import pytest

from services.portfolio.live.ports import OutvotedError
from services.portfolio.ports import Changes, UnavailableError
from services.portfolio.storage.address import Address
from services.portfolio.storage.baton import PostgresBaton
from tests.ports.baton_contract import CLIENT, WEATHER, BatonContract, holder, intended
from tests.ports.line import Line
from tests.ports.makers import save
from tests.ports.stores import postgresql_store, run_sql
from tests.support.waiting import wait_until_async

BLOCKED = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND wait_event_type = 'Lock'
"""


class TestBaton(BatonContract):
    """In memory and on PostgreSQL; see `store`."""


async def test_a_request_to_cancel_that_comes_first_stops_the_assignment(migrated_url: str) -> None:
    async with postgresql_store(migrated_url) as store:
        (one,) = await intended(store)
        baton = await holder(store)
        async with store.ledger.transaction() as transaction:
            await transaction.save(Changes(cancel_requests=[one.order_id]))
            assigning = asyncio.create_task(baton.assign(CLIENT, {one.order_id: 1}))
            await wait_until_async(lambda: count(migrated_url, BLOCKED))
        assert await assigning == set()
        (intent,) = await baton.unsent()
        assert intent.cancel_requested


async def test_cancelling_and_assigning_at_once_never_block_each_other(migrated_url: str) -> None:
    async with postgresql_store(migrated_url) as store:
        orders = [one.order_id for one in await intended(store, 40)]
        baton = await holder(store)
        async with asyncio.timeout(30):
            for first in range(0, 40, 8):
                some = orders[first : first + 8]
                ids = {one: first + 8 - i for i, one in enumerate(some)}
                await asyncio.gather(
                    baton.assign(CLIENT, ids), save(store.ledger, Changes(cancel_requests=some))
                )
        sent, unsent = await baton.sent(), await baton.unsent()
        assert len(sent) + len(unsent) == 40
        assert all(intent.cancel_requested for intent in unsent)


async def test_an_id_below_a_mark_that_was_put_back_is_refused_all_the_same(
    migrated_url: str,
) -> None:
    # Somebody restored an old table, say: the unique constraint is the second lock on the door.
    async with postgresql_store(migrated_url) as store:
        one, other = await intended(store, 2)
        baton = await holder(store)
        await baton.assign(CLIENT, {one.order_id: 5})
        await run_sql(migrated_url, "UPDATE broker_ids SET last_id = 1")
        with pytest.raises(OutvotedError):
            await baton.assign(CLIENT, {other.order_id: 5})
        assert [intent.order for intent in await baton.unsent()] == [other]
        assert await baton.first_id(CLIENT) == 2  # it holds on: nothing was written


async def test_a_database_that_is_away_is_told_and_never_waited_for(migrated_url: str) -> None:
    with Line(migrated_url) as line:
        baton, other = PostgresBaton(Address(line.url)), PostgresBaton(Address(migrated_url))
        try:
            assert await baton.take()
            line.cut()
            with pytest.raises((UnavailableError, OutvotedError)):
                await baton.say(WEATHER)
            async with asyncio.timeout(3):
                with pytest.raises(UnavailableError):
                    await baton.take()
            await wait_until_async(other.take, 5)
            line.mend()
            assert not await baton.take()
        finally:
            await baton.drop()
            await other.drop()


async def test_a_database_that_does_not_answer_is_given_up(
    migrated_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.portfolio.storage.baton.ANSWER_WITHIN_S", 0.3)
    async with postgresql_store(migrated_url) as store:
        baton = await holder(store)
        blocker = await asyncpg.connect(migrated_url)
        async with blocker.transaction():
            await blocker.execute("LOCK TABLE broker_weather")
            async with asyncio.timeout(5):
                with pytest.raises(UnavailableError):
                    await baton.say(WEATHER)
                with pytest.raises(OutvotedError):
                    await baton.say(WEATHER)
        await blocker.close()
        assert await store.broker_reads.weather() is None


async def test_many_tasks_may_use_the_baton_at_once(migrated_url: str) -> None:
    async with postgresql_store(migrated_url) as store:
        baton = await holder(store)
        await asyncio.gather(*(baton.say(WEATHER) for _ in range(10)), baton.unsent(), baton.take())


async def test_dropping_gives_the_lock_back_whatever_has_become_of_the_session(
    migrated_url: str,
) -> None:
    async with postgresql_store(migrated_url) as store:
        baton = await holder(store)
        await store.cut_sender()
        await baton.drop()
        await baton.drop()
        await holder(store)


async def count(url: str, query: str) -> int:
    """What the query counts."""
    counted: int = (await run_sql(url, query))[0][0]
    return counted

import asyncio

import pytest

from services.portfolio.ports import UnavailableError
from services.portfolio.storage.address import Address
from services.portfolio.storage.feed import PostgresFeed
from tests.ports.feed_contract import FeedContract
from tests.ports.line import Line
from tests.ports.stores import run_sql


class TestFeed(FeedContract):
    """In memory and on PostgreSQL; see `store`."""


async def test_a_feed_that_begins_before_its_database_connects_once_it_is_there(
    migrated_url: str,
) -> None:
    with Line(migrated_url) as line:
        line.cut()
        feed = PostgresFeed(Address(line.url))
        try:
            line.mend()
            async with asyncio.timeout(20), feed.subscribe() as events:
                await run_sql(
                    migrated_url, """NOTIFY ledger, '{"strategies": ["A"], "orders": []}'"""
                )
                assert (await anext(events)).strategies == ("A",)
        finally:
            await feed.stop()


async def test_a_feed_without_a_database_says_so(
    migrated_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.portfolio.storage.feed.CONNECT_TIMEOUT_S", 0.3)
    with Line(migrated_url) as line:
        line.cut()
        feed = PostgresFeed(Address(line.url))
        try:
            with pytest.raises(UnavailableError, match="Call again"):
                async with feed.subscribe():
                    pass
        finally:
            await feed.stop()


async def test_stopping_the_feed_ends_every_watch(migrated_url: str) -> None:
    feed = PostgresFeed(Address(migrated_url))
    async with feed.subscribe() as events:
        await feed.stop()
        with pytest.raises(UnavailableError):
            await anext(events)


async def test_a_watch_that_begins_when_the_feed_has_stopped_ends_at_once(
    migrated_url: str,
) -> None:
    # A router that drains stops its feed first. A watcher who comes later must be told.
    feed = PostgresFeed(Address(migrated_url))
    async with feed.subscribe():
        pass  # it listens
    await feed.stop()

    async def watch() -> None:
        async with asyncio.timeout(8), feed.subscribe() as events:
            await anext(events)

    with pytest.raises(UnavailableError):
        await watch()

"""What every Feed promises. Subclass it where pytest finds it; `store` is the implementation."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from decimal import Decimal
from uuid import UUID

import pytest

from services.portfolio.ports import Changes, LedgerEvent, PriceMark, UnavailableError
from tests.ports.makers import LIVE, at, opened, order, save, strategy, with_orders
from tests.ports.stores import Store

SOON_S = 10


async def next_of(events: AsyncIterator[LedgerEvent]) -> LedgerEvent:
    """The next event; fails when none comes."""
    async with asyncio.timeout(SOON_S):
        return await anext(events)


@asynccontextmanager
async def listening(store: Store) -> AsyncIterator[AsyncIterator[LedgerEvent]]:
    """A subscription that has heard of all that was committed before; it is told of late."""
    async with store.feed.subscribe() as events:
        await save(store.ledger, opened("Marker"))
        while (await next_of(events)).strategies != ("Marker",):
            pass
        yield events


class FeedContract:
    """The feed of any store."""

    async def test_a_watcher_hears_of_each_commit_in_order(self, store: Store) -> None:
        one = order("A")
        async with store.feed.subscribe() as events:
            await save(store.ledger, opened("A"), with_orders("A", [one]))
            await save(store.ledger, Changes(strategies={"A": strategy("A", LIVE)}))
            assert await next_of(events) == LedgerEvent(("A",), ())
            assert await next_of(events) == LedgerEvent(("A",), (one.order_id,))
            assert await next_of(events) == LedgerEvent(("A",), ())

    async def test_what_is_heard_can_be_read(self, store: Store) -> None:
        await save(store.ledger, opened("A"))
        async with listening(store) as events:
            for version in range(2, 12):
                one = order("A")
                await save(store.ledger, with_orders("A", [one], version))
                heard = await next_of(events)
                assert await store.reads.orders_by_id(heard.orders) == [one]

    async def test_a_watcher_hears_of_marks(self, store: Store) -> None:
        await save(store.ledger, opened("A"))
        async with listening(store) as events:
            await store.reads.mark([PriceMark("A", "SPXL", Decimal(1), at(1))])
            assert await next_of(events) == LedgerEvent(("A",), ())

    async def test_nobody_hears_of_what_was_rolled_back(self, store: Store) -> None:
        await save(store.ledger, opened("A"))
        async with listening(store) as events:
            with suppress(ValueError):
                async with store.ledger.transaction() as transaction:
                    await transaction.save(opened("B"))
                    raise ValueError
            await save(store.ledger, opened("C"))
            assert await next_of(events) == LedgerEvent(("C",), ())

    async def test_every_watcher_hears_everything(self, store: Store) -> None:
        async with store.feed.subscribe() as one, store.feed.subscribe() as other:
            await save(store.ledger, opened("A"))
            assert await next_of(one) == await next_of(other) == LedgerEvent(("A",), ())

    async def test_a_batch_of_any_size_is_told_in_full(self, store: Store) -> None:
        # 200 names of 64 characters and as many orders do not fit one NOTIFY.
        names = [f"Strategy_{i:055}" for i in range(200)]
        changes = Changes()
        for name in names:
            made = opened(name)
            changes.strategies |= made.strategies
            changes.books |= made.books
            one = order(name)
            changes.orders[one.order_id] = one
        heard = await self.heard(store, changes)
        assert {name for event in heard for name in event.strategies} == set(names)
        assert {i for event in heard for i in event.orders} == set(changes.orders)

    async def test_an_event_that_tells_of_an_order_names_its_strategy_or_none(
        self, store: Store
    ) -> None:
        # A watcher of one strategy skips the events that name others only.
        names = [f"S{i:03}" for i in range(100)]
        await save(store.ledger, *(opened(name) for name in names))
        orders = {one.order_id: one for one in map(order, reversed(names))}
        changes = Changes(orders=orders)
        for name in names:
            changes.books |= opened(name).books
        for event in await self.heard(store, changes):
            for order_id in event.orders:
                assert not event.strategies or orders[order_id].strategy_name in event.strategies

    async def heard(self, store: Store, changes: Changes) -> list[LedgerEvent]:
        """The events of one commit."""
        orders: set[UUID] = set()
        names: set[str] = set()
        heard = []
        async with listening(store) as events:
            await save(store.ledger, changes)
            wanted = {name for name, _ in changes.books}
            while orders != set(changes.orders) or names != wanted:
                event = await next_of(events)
                heard.append(event)
                orders |= set(event.orders)
                names |= set(event.strategies)
        return heard

    async def test_a_cut_line_ends_every_watch_and_the_next_one_works(self, store: Store) -> None:
        async with store.feed.subscribe() as one, store.feed.subscribe() as other:
            await store.cut()
            for events in (one, other):
                with pytest.raises(UnavailableError):
                    await next_of(events)
        async with store.feed.subscribe() as events:
            await self.save_soon(store)
            assert await next_of(events) == LedgerEvent(("A",), ())

    async def save_soon(self, store: Store) -> None:
        """Saves strategy A, as soon as the cut line carries again."""
        async with asyncio.timeout(SOON_S):
            while True:
                with suppress(UnavailableError):
                    await save(store.ledger, opened("A"))
                    return

    async def first(self, events: AsyncIterator[LedgerEvent], count: int) -> list[LedgerEvent]:
        """The first events."""
        return [await next_of(events) for _ in range(count)]

    async def test_a_watcher_who_falls_far_behind_is_sent_away(self, store: Store) -> None:
        await save(store.ledger, opened("A"))
        async with store.feed.subscribe() as slow, listening(store) as quick:
            heard = 0
            for _ in range(11):
                async with asyncio.TaskGroup() as together:
                    for _ in range(100):
                        together.create_task(
                            store.reads.mark([PriceMark("A", "SPXL", Decimal(1), at(1))])
                        )
                for _ in range(100):
                    await next_of(quick)
                    heard += 1
            assert heard == 1100
            with pytest.raises(UnavailableError):
                await self.first(slow, 1100)

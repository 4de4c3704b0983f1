"""Watching orders and portfolios: no gap, one clear end, and nothing left behind."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any, TypeVar
from uuid import UUID

import pytest

from services.portfolio.commands import (
    BuyAll,
    CreateOrder,
    SellAll,
    UpdateOrderStatus,
    UpsertPortfolio,
)
from services.portfolio.domain.ledger import Report
from services.portfolio.domain.order import Order, Side, Status
from services.portfolio.ports import (
    Feed,
    LedgerEvent,
    OrderFilter,
    PriceMark,
    UnavailableError,
)
from services.portfolio.storage.memory import MemoryFeed
from services.portfolio.views import PortfolioView
from services.portfolio.watching import watch_orders, watch_portfolios
from services.portfolio.writer import Writer
from tests.ledger.values import d, new_id
from tests.ports.makers import at, opened, order, save, with_orders
from tests.ports.stores import Store
from tests.support.waiting import wait_until_async
from tests.writer.desks import BY_HAND, open_strategies, order_of, writer_on

Item = TypeVar("Item")
EVERY = OrderFilter()
SOON_S = 10


async def take(watch: AsyncIterator[Item], count: int) -> list[Item]:
    """The next items of a watch; fails when they do not come."""
    async with asyncio.timeout(SOON_S):
        return [await anext(watch) for _ in range(count)]


@asynccontextmanager
async def each_once(watch: Any) -> AsyncIterator[AsyncIterator[Any]]:
    """The items of a watch, less those that say again what was said: a commit just before the
    watch began may be told just after. Closes the watch in the end.
    """
    said: dict[Any, Any] = {}

    async def news() -> AsyncIterator[Any]:
        async for item in watch:
            key = getattr(item, "order_id", None) or getattr(item, "strategy_name", None)
            if said.get(key) != item:
                said[key] = item
                yield item

    try:
        yield news()
    finally:
        await watch.aclose()


@pytest.fixture
async def writer(store: Store) -> AsyncIterator[Writer]:
    """A writer whose orders are filled by hand, on which A and B have 1000 USD each."""
    async with writer_on(store.ledger, BY_HAND) as one:
        await open_strategies(one, ["A", "B"])
        yield one


async def buy(writer: Writer, name: str = "A", symbol: str = "SPXL") -> Order:
    """A pending order."""
    return await order_of(writer, CreateOrder(name, symbol, Side.BUY, d(1), d(1)))


async def test_a_watch_begins_with_the_newest_orders_oldest_first(
    store: Store, writer: Writer
) -> None:
    async with store.feed.subscribe() as events:
        orders = [await buy(writer) for _ in range(4)]
        told: set[UUID] = set()
        while orders[-1].order_id not in told:  # else the first may be told to the watch as new
            told.update((await take(events, 1))[0].orders)
    async with each_once(watch_orders(store.reads, store.feed, EVERY, 3)) as watch:
        assert await take(watch, 3) == orders[1:]
        new = await buy(writer)
        assert await take(watch, 1) == [new]


async def test_a_watch_sends_orders_as_they_are_made_and_change(
    store: Store, writer: Writer
) -> None:
    first = await buy(writer)
    async with each_once(watch_orders(store.reads, store.feed, EVERY, 1)) as watch:
        assert await take(watch, 1) == [first]
        done = await order_of(writer, UpdateOrderStatus(first.order_id, Report(Status.EXECUTED)))
        other = await buy(writer, "B")
        assert await take(watch, 2) == [done, other]


async def test_a_watch_of_one_strategy_and_symbol_sends_no_others(
    store: Store, writer: Writer
) -> None:
    first = await buy(writer)
    which = OrderFilter("A", "SPXL")
    async with each_once(watch_orders(store.reads, store.feed, which, 5)) as watch:
        assert await take(watch, 1) == [first]
        await asyncio.gather(buy(writer, "B"), buy(writer, "A", "AVL"))
        await store.reads.mark([PriceMark("A", "SPXL", d(1), at(1))])
        mine = await buy(writer)
        assert await take(watch, 1) == [mine]


async def test_no_order_is_missed_between_the_snapshot_and_the_events(
    store: Store, writer: Writer
) -> None:
    first = await buy(writer)
    made = {first.order_id}
    stop = asyncio.Event()

    async def go_on() -> None:
        while not stop.is_set():
            made.add((await buy(writer, "A")).order_id)
            await asyncio.sleep(0)

    async def watch_some() -> list[UUID]:
        seen: list[Any] = []
        async with each_once(watch_orders(store.reads, store.feed, EVERY, 1)) as watch:
            while len(seen) < 15:
                seen += await take(watch, 1)
        return [one.order_id for one in seen]

    await writer.submit(UpsertPortfolio("A", d("1E9")))
    making = asyncio.create_task(go_on())
    watched = await asyncio.gather(*(watch_some() for _ in range(6)))
    stop.set()
    await making
    for ids in watched:
        between = [i for i in sorted(made) if min(ids) <= i <= max(ids)]
        assert sorted(set(ids)) == between
        assert len(between) > 5


async def test_an_order_is_never_sent_in_an_older_state(store: Store, writer: Writer) -> None:
    orders = [await buy(writer) for _ in range(10)]
    seen: dict[Any, Status] = {}

    async def watch_all() -> None:
        async with each_once(watch_orders(store.reads, store.feed, EVERY, 10)) as watch:
            while set(seen.values()) != {Status.EXECUTED} or len(seen) < 10:
                (one,) = await take(watch, 1)
                assert isinstance(one, Order)
                assert seen.get(one.order_id) is not Status.EXECUTED or (
                    one.status is Status.EXECUTED
                )
                seen[one.order_id] = one.status

    watching = asyncio.create_task(watch_all())
    report = Report(Status.EXECUTED)
    await asyncio.gather(
        *(writer.submit(UpdateOrderStatus(one.order_id, report)) for one in orders)
    )
    await watching


async def test_a_batch_over_many_strategies_reaches_each_watcher(store: Store) -> None:
    # More strategies and orders than one NOTIFY can name.
    names = [f"S{i:03}" for i in range(100)]
    await save(store.ledger, *(opened(name) for name in names))
    orders = [order(name) for name in reversed(names)]
    changes = with_orders(names[0], orders)
    for name in names:
        changes.books |= opened(name).books
    async with asyncio.timeout(SOON_S):
        for name in (names[0], names[40], names[99]):
            which = OrderFilter(name)
            mine = [one for one in orders if one.strategy_name == name]
            async with store.feed.subscribe():
                pass  # the feed is up
            async with each_once(watch_orders(store.reads, store.feed, which, 0)) as watch:
                first = asyncio.ensure_future(anext(watch))
                await subscribed(store)
                await save(store.ledger, changes)
                assert [await first] == mine


async def subscribed(store: Store) -> None:
    """Returns once someone watches the feed."""

    async def someone() -> bool:
        feed: Any = store.feed
        return bool(getattr(feed, "_subscribers", None) or getattr(feed, "_watchers", None))

    await wait_until_async(someone, what="a subscriber")


async def test_a_watch_of_portfolios_begins_with_all_and_sends_those_that_change(
    store: Store, writer: Writer
) -> None:
    async with each_once(watch_portfolios(store.reads, store.feed, None)) as watch:
        assert [p.strategy_name for p in portfolios(await take(watch, 2))] == ["A", "B"]
        await writer.submit(UpsertPortfolio("B", d(77)))
        (changed,) = portfolios(await take(watch, 1))
        assert (changed.strategy_name, changed.cash) == ("B", 77)
        await writer.submit(UpsertPortfolio("C", d(5)))
        (new,) = portfolios(await take(watch, 1))
        assert (new.strategy_name, new.cash) == ("C", 5)


async def test_a_watch_of_one_portfolio_sends_no_others(store: Store, writer: Writer) -> None:
    async with each_once(watch_portfolios(store.reads, store.feed, "B")) as watch:
        assert [p.strategy_name for p in portfolios(await take(watch, 1))] == ["B"]
        await writer.submit(UpsertPortfolio("A", d(77)))
        await writer.submit(UpsertPortfolio("B", d(78)))
        (changed,) = portfolios(await take(watch, 1))
        assert (changed.strategy_name, changed.cash) == ("B", 78)


async def test_the_last_change_of_a_portfolio_is_always_sent(store: Store, writer: Writer) -> None:
    async with each_once(watch_portfolios(store.reads, store.feed, "A")) as watch:
        await take(watch, 1)
        for cash in range(1, 60):
            await writer.submit(UpsertPortfolio("A", d(cash)))
        seen = [p.cash for p in portfolios(await take(watch, 1))]
        while seen[-1] != 59:
            seen += [p.cash for p in portfolios(await take(watch, 1))]
        assert seen == sorted(seen)
        assert len(seen) < 30  # changes that come close together are sent as one


async def test_a_mark_is_a_change_of_a_portfolio(store: Store) -> None:
    async with writer_on(store.ledger) as writer:
        await open_strategies(writer, ["A"])
        bought = await order_of(writer, BuyAll("A", "SPXL", d(100)))
        async with each_once(watch_portfolios(store.reads, store.feed, "A")) as watch:
            await take(watch, 1)
            later = bought.update_time.replace(year=bought.update_time.year + 1)
            await store.reads.mark([PriceMark("A", "SPXL", d(110), later)])
            (changed,) = portfolios(await take(watch, 1))
            assert changed.equity == 1100
            await writer.submit(SellAll("A", "SPXL", d(120)))
            (sold,) = portfolios(await take(watch, 1))
            assert (sold.cash, sold.invested) == (1200, False)


@pytest.mark.parametrize("kind", ["orders", "portfolios"])
async def test_a_cut_line_ends_the_watch_with_one_error(
    store: Store, writer: Writer, kind: str
) -> None:
    await buy(writer)
    async with each_once(watching(kind, store)) as watch:
        await take(watch, 1)
        await store.cut()
        async with asyncio.timeout(SOON_S):
            rest = [item async for item in watch]
    assert isinstance(rest[-1], UnavailableError)
    assert not any(isinstance(item, UnavailableError) for item in rest[:-1])


@pytest.mark.parametrize("kind", ["orders", "portfolios"])
async def test_a_watch_whose_caller_leaves_leaves_no_task_behind(
    store: Store, writer: Writer, kind: str
) -> None:
    await buy(writer)
    before = asyncio.all_tasks()
    for _ in range(5):
        watch = watching(kind, store)
        await take(watch, 1)

        async def go_on(watch: AsyncIterator[Any] = watch) -> None:
            async for _ in watch:
                pass

        # As gRPC does it: the handler is cancelled while it waits for the next event.
        handler = asyncio.create_task(go_on())
        await asyncio.sleep(0.01)
        handler.cancel()
        await asyncio.wait([handler])
    await no_more_tasks_than(before)


@pytest.mark.parametrize("kind", ["orders", "portfolios"])
async def test_a_watch_that_is_closed_leaves_no_task_behind(
    store: Store, writer: Writer, kind: str
) -> None:
    await buy(writer)
    before = asyncio.all_tasks()
    for _ in range(5):
        async with each_once(watching(kind, store)) as watch:
            await take(watch, 1)
    await no_more_tasks_than(before)


async def no_more_tasks_than(before: set[asyncio.Task[Any]]) -> None:
    """Returns once all other tasks have ended."""

    async def only_those() -> bool:
        return asyncio.all_tasks() <= before

    await wait_until_async(only_those, 5, f"the end of {asyncio.all_tasks() - before}")


def watching(kind: str, store: Store) -> Any:
    """A watch of all orders, or of all portfolios."""
    if kind == "orders":
        return watch_orders(store.reads, store.feed, EVERY, 1)
    return watch_portfolios(store.reads, store.feed, None)


async def test_an_event_that_names_no_strategy_does_not_end_a_watch_of_portfolios(
    store: Store, writer: Writer
) -> None:
    # Large batches are told in parts, some of which name orders alone.
    feed = MemoryFeed()
    watched: Any = watch_portfolios(store.reads, feed, None)
    async with aclosing(watched) as watch:
        await take(watch, 2)
        next_one = asyncio.ensure_future(anext(watch))
        await asyncio.sleep(0)
        feed.tell(LedgerEvent((), (new_id(),)))
        await asyncio.wait([next_one], timeout=0.2)
        assert not next_one.done(), "the watch ended"
        feed.tell(LedgerEvent(("A",), ()))
        (changed,) = portfolios([await next_one])
        assert changed.strategy_name == "A"


async def test_a_feed_that_is_away_ends_a_watch_at_its_beginning(store: Store) -> None:
    class Away:
        @asynccontextmanager
        async def subscribe(self) -> AsyncIterator[AsyncIterator[LedgerEvent]]:
            raise UnavailableError("DATABASE_UNAVAILABLE", "Call again.")
            yield

    feed: Feed = Away()
    watches: list[Any] = [
        watch_orders(store.reads, feed, EVERY, 5),
        watch_portfolios(store.reads, feed, None),
    ]
    for watch in watches:
        (end,) = [item async for item in watch]
        assert isinstance(end, UnavailableError)


def portfolios(items: list[Any]) -> list[PortfolioView]:
    """The items, all of which are portfolios."""
    assert all(isinstance(item, PortfolioView) for item in items), items
    return items

"""The lookout: what a replica knows of the broker is fresh, and never better than the truth."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from prometheus_client import REGISTRY

from services.portfolio.domain.order import Mode
from services.portfolio.domain.reconciliation import Acknowledgement, Reconciliation, SymbolRow
from services.portfolio.domain.weather import STALE_AFTER, BrokerState, MarketData, Weather
from services.portfolio.live import lookout as lookout_module
from services.portfolio.live.lookout import LOOK_EVERY_S, Lookout
from services.portfolio.live.ports import Baton, BrokerReads, Seen
from services.portfolio.ports import Changes, Feed, LedgerEvent, UnavailableError
from tests.ledger.values import d
from tests.ports.stores import Store, memory_store
from tests.support.waiting import wait_until_async

SOON_S = 10.0
SINCE = datetime(2026, 1, 5, 15, 0, tzinfo=UTC)
CONNECTED = Weather(BrokerState.CONNECTED, SINCE, account="DU1234567", sender="router-1")
LOST = replace(CONNECTED, state=BrokerState.CONNECTIVITY_LOST, detail="IB is away (code 1100).")


class Hands:
    """A clock whose hands a test may move."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead


class Untouchable:
    """Reads that must not be made."""

    async def weather(self) -> Weather | None:
        raise AssertionError("the weather was read")

    async def reconciliation(self) -> Reconciliation:
        raise AssertionError("the comparison was read")


class Shaky:
    """Reads that fail, or never answer, when a test says so."""

    def __init__(self, reads: BrokerReads) -> None:
        self._reads = reads
        self.error: Exception | None = None
        self.hangs = False
        self.looks = 0

    async def weather(self) -> Weather | None:
        self.looks += 1
        if self.hangs:
            await asyncio.Event().wait()
        if self.error:
            raise self.error
        return await self._reads.weather()

    async def reconciliation(self) -> Reconciliation:
        return await self._reads.reconciliation()


class Deaf:
    """A feed that is away."""

    @asynccontextmanager
    async def subscribe(self) -> AsyncIterator[AsyncIterator[LedgerEvent]]:
        raise UnavailableError("DATABASE_UNAVAILABLE", "Call again.")
        yield


@asynccontextmanager
async def lookout_on(
    store: Store,
    *,
    reads: BrokerReads | None = None,
    feed: Feed | None = None,
    clock: Callable[[], datetime] | None = None,
    mode: Mode = Mode.LIVE,
) -> AsyncIterator[Lookout]:
    """A lookout on the store; it is stopped in the end."""
    one = Lookout(
        reads or store.broker_reads,
        feed or store.feed,
        clock or (lambda: datetime.now(UTC)),
        mode,
    )
    try:
        yield one
    finally:
        await one.stop()


async def elected(store: Store) -> Baton:
    """The baton, taken."""
    baton = store.new_baton()
    assert await baton.take()
    return baton


async def until(lookout: Lookout, condition: Callable[[Seen], bool]) -> Seen:
    """What is seen once it fulfils the condition."""

    async def found() -> Seen | None:
        seen = lookout.seen()
        return seen if condition(seen) else None

    return await wait_until_async(found, SOON_S, f"last seen {lookout.seen()}") or lookout.seen()


async def until_state(lookout: Lookout, state: BrokerState) -> Weather:
    """The weather once it is in this state."""
    return (await until(lookout, lambda seen: seen.weather.state is state)).weather


def watching(lookout: Lookout) -> Any:
    """A watch that can be closed."""
    return lookout.watch()


async def following(watch: AsyncIterator[Weather | UnavailableError]) -> Weather:
    """The next weather of a watch."""
    async with asyncio.timeout(SOON_S):
        event = await anext(watch)
    assert isinstance(event, Weather), event
    return event


@pytest.fixture
def only_the_feed_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    """The timer is out of the way."""
    monkeypatch.setattr(lookout_module, "LOOK_EVERY_S", 3600.0)


async def test_on_paper_the_broker_is_off_and_nothing_is_looked_at() -> None:
    before = asyncio.all_tasks()
    async with lookout_on(memory_store(), reads=Untouchable(), mode=Mode.PAPER) as lookout:
        assert lookout.seen().weather.state is BrokerState.OFF
        assert "TRADING_MODE=PAPER" in lookout.seen().weather.detail
        assert lookout.seen().frozen == {}
        assert asyncio.all_tasks() == before


async def test_before_a_senders_first_word_the_broker_is_down(store: Store) -> None:
    assert (await store.broker_reads.reconciliation()).time is None
    reads = Shaky(store.broker_reads)
    async with lookout_on(store, reads=reads) as lookout:
        for looks in (0, 2):
            await wait_until_async(_at_least(reads, looks))
            weather = lookout.seen().weather
            assert weather.state is BrokerState.DOWN
            assert weather.detail == "No router has held the broker's line yet."


async def test_a_senders_word_is_seen_when_the_feed_tells_of_it(
    store: Store, only_the_feed_tells: None
) -> None:
    baton = await elected(store)
    async with lookout_on(store) as lookout:
        for weather in (CONNECTED, LOST, replace(CONNECTED, market_data=MarketData.BROKEN)):
            await baton.say(weather)
            seen = await until_state(lookout, weather.state)
            assert replace(seen, heartbeat=None) == weather
            assert seen.heartbeat is not None


async def test_a_senders_word_is_seen_without_the_feed(store: Store) -> None:
    baton = await elected(store)
    async with lookout_on(store, feed=Deaf()) as lookout:
        for weather in (CONNECTED, LOST):
            await baton.say(weather)
            await until_state(lookout, weather.state)


async def test_a_feed_that_broke_is_listened_to_again(store: Store) -> None:
    baton = await elected(store)
    async with lookout_on(store) as lookout:
        await baton.say(CONNECTED)
        await until_state(lookout, BrokerState.CONNECTED)
        feed: Any = store.feed
        (feed.cut if hasattr(feed, "cut") else lambda: feed._send_away(feed._subscribers))()

        async def listened_to() -> bool:
            return bool(getattr(feed, "_watchers", None) or getattr(feed, "_subscribers", None))

        assert not await listened_to()
        await wait_until_async(listened_to)
        await baton.say(LOST)
        await until_state(lookout, BrokerState.CONNECTIVITY_LOST)


async def test_without_a_senders_word_the_broker_is_down_at_once_and_up_with_the_next(
    store: Store,
) -> None:
    baton, clock = await elected(store), Hands()
    async with lookout_on(store, clock=clock) as lookout:
        await baton.say(CONNECTED)
        weather = await until_state(lookout, BrokerState.CONNECTED)
        clock.ahead = STALE_AFTER + timedelta(seconds=LOOK_EVERY_S)
        silent = lookout.seen().weather
        assert silent.state is BrokerState.DOWN
        assert silent.since == weather.heartbeat
        assert "No router has held the broker's line since" in silent.detail
        clock.ahead = timedelta()
        await baton.say(CONNECTED)
        await until_state(lookout, BrokerState.CONNECTED)


@pytest.mark.parametrize("hangs", [False, True])
async def test_while_the_database_is_away_the_last_word_ages_until_it_counts_no_more(
    store: Store, hangs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookout_module, "LOOK_WITHIN_S", 0.2)
    baton, clock, reads = await elected(store), Hands(), Shaky(store.broker_reads)
    async with lookout_on(store, reads=reads, clock=clock) as lookout:
        await baton.say(CONNECTED)
        await until_state(lookout, BrokerState.CONNECTED)
        reads.hangs = hangs
        reads.error = UnavailableError("DATABASE_UNAVAILABLE", "Repeat the call.")
        async with aclosing(watching(lookout)) as watch:
            assert (await following(watch)).state is BrokerState.CONNECTED
            clock.ahead = STALE_AFTER + timedelta(seconds=LOOK_EVERY_S)
            assert (await following(watch)).state is BrokerState.DOWN
            clock.ahead, reads.hangs, reads.error = timedelta(), False, None
            await baton.say(CONNECTED)
            assert (await following(watch)).state is BrokerState.CONNECTED


async def test_a_fault_in_a_look_does_not_leave_the_replica_blind(store: Store) -> None:
    baton, reads = await elected(store), Shaky(store.broker_reads)
    async with lookout_on(store, reads=reads) as lookout:
        reads.error = ZeroDivisionError("ours")
        looks = reads.looks
        await baton.say(CONNECTED)
        await wait_until_async(_at_least(reads, looks + 1))
        reads.error = None
        await until_state(lookout, BrokerState.CONNECTED)


async def test_symbols_are_frozen_until_somebody_says_whose_the_shares_are(store: Store) -> None:
    baton = await elected(store)
    rows = (
        SymbolRow("AVL", d(5), d(0), d(0)),
        SymbolRow("SPXL", d(-2), d(0), d(0)),
    )
    async with lookout_on(store) as lookout:
        await baton.keep(Reconciliation(SINCE, rows, d("1000.5"), d(0)))
        seen = await until(lookout, lambda seen: bool(seen.frozen))
        assert seen.frozen == {row.symbol: row for row in rows}
        await acknowledge(store, "AVL", d(5))
        seen = await until(lookout, lambda seen: "AVL" not in seen.frozen)
        assert seen.frozen == {"SPXL": rows[1]}
        compared = await lookout.reconciliation()
        assert [(row.symbol, row.frozen) for row in compared.rows] == [
            ("AVL", False),
            ("SPXL", True),
        ]
        assert compared.unallocated_cash == d("1000.5")


async def acknowledge(store: Store, symbol: str, quantity: Decimal) -> None:
    """An operator says that these shares are no strategy's."""
    fact = Acknowledgement(symbol, quantity, "operator", "bought by hand", SINCE)
    async with store.ledger.transaction() as transaction:
        await transaction.save(Changes(acknowledgements=[fact]))


async def test_a_watch_begins_with_what_is_and_tells_each_change_once(store: Store) -> None:
    baton = await elected(store)
    async with (
        lookout_on(store) as lookout,
        aclosing(watching(lookout)) as watch,
    ):
        assert (await following(watch)).state is BrokerState.DOWN
        await baton.say(CONNECTED)
        first = await following(watch)
        assert first.state is BrokerState.CONNECTED
        nothing = asyncio.ensure_future(anext(watch))
        for _ in range(3):  # a heartbeat alone is no change
            await baton.say(CONNECTED)
            heard = lookout.seen().weather.heartbeat
            await until(lookout, lambda seen, heard=heard: seen.weather.heartbeat != heard)  # type: ignore[misc]
        assert not nothing.done()
        await baton.say(replace(CONNECTED, market_data=MarketData.COMPETING_SESSION))
        async with asyncio.timeout(SOON_S):
            told = await nothing
        assert isinstance(told, Weather)
        assert told.market_data is MarketData.COMPETING_SESSION


async def test_a_slow_watcher_is_told_how_things_are_and_not_how_they_were(store: Store) -> None:
    baton = await elected(store)
    async with lookout_on(store) as lookout, aclosing(watching(lookout)) as watch:
        await following(watch)
        for weather in (CONNECTED, LOST, CONNECTED, LOST):
            await baton.say(weather)
            await until_state(lookout, weather.state)
        assert (await following(watch)).state is BrokerState.CONNECTIVITY_LOST


@pytest.mark.parametrize("mode", [Mode.PAPER, Mode.LIVE])
async def test_a_stop_ends_every_watch_with_one_word_and_leaves_no_task(mode: Mode) -> None:
    before = asyncio.all_tasks()
    async with lookout_on(memory_store(), mode=mode) as lookout:
        begun = [asyncio.Event() for _ in range(3)]

        async def follow(first: asyncio.Event) -> list[Any]:
            told: list[Any] = []
            async for event in lookout.watch():
                told.append(event)
                first.set()
            return told

        watchers = [asyncio.create_task(follow(first)) for first in begun]
        for first in begun:
            await first.wait()
        await lookout.stop()
        async with asyncio.timeout(SOON_S):
            for first, *rest in await asyncio.gather(*watchers):
                assert isinstance(first, Weather)
                (end,) = rest
                assert isinstance(end, UnavailableError)
                assert end.reason == "ROUTER_STOPPING"
        late = [event async for event in lookout.watch()]
        assert len(late) == 1
    assert asyncio.all_tasks() == before


async def test_a_watcher_that_leaves_leaves_no_task() -> None:
    async with lookout_on(memory_store()) as lookout:
        before = asyncio.all_tasks()
        watch = watching(lookout)
        await following(watch)
        waiting = asyncio.ensure_future(anext(watch))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        assert asyncio.all_tasks() == before


async def test_the_metrics_show_the_state_in_force_and_the_age_of_the_last_word(
    store: Store,
) -> None:
    def figure(name: str, **labels: str) -> float:
        found = REGISTRY.get_sample_value(name, labels)
        assert found is not None, name
        return found

    baton = await elected(store)
    async with lookout_on(store) as lookout:
        age_s = figure("portfolio_broker_heartbeat_age_seconds")
        assert age_s != age_s  # noqa: PLR0124 - NaN
        for weather in (CONNECTED, LOST):
            await baton.say(weather)
            await until_state(lookout, weather.state)

            async def shown(state: BrokerState = weather.state) -> bool:
                return figure("portfolio_broker_state", state=state) == 1

            await wait_until_async(shown)
            shown_states = {s: figure("portfolio_broker_state", state=s) for s in BrokerState}
            assert sum(shown_states.values()) == 1
            assert -1 < figure("portfolio_broker_heartbeat_age_seconds") < SOON_S


async def test_looks_under_load_are_paced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookout_module, "PACE_S", 0.3)
    store = memory_store()
    reads = Shaky(store.broker_reads)
    async with lookout_on(store, reads=reads):
        await wait_until_async(_at_least(reads, 1))
        began, looks = asyncio.get_running_loop().time(), reads.looks
        while asyncio.get_running_loop().time() < began + 1:
            store.feed.tell(LedgerEvent((), (), broker=True))  # type: ignore[attr-defined]
            await asyncio.sleep(0)
        assert 1 <= reads.looks - looks <= 4


def _at_least(reads: Shaky, looks: int) -> Callable[[], Any]:
    async def enough() -> bool:
        return reads.looks > looks

    return enough

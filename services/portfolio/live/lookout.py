"""The lookout: keeps what this replica knows of the broker fresh, for orders and for watchers.

The elected sender writes the weather and each comparison to the database; every replica reads them
when it is told of news, and each second in case it was not told. Whether an order is taken is then
decided from memory.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace

import structlog
from prometheus_client import Gauge

from services.portfolio.domain.order import Mode
from services.portfolio.domain.reconciliation import Reconciliation
from services.portfolio.domain.weather import BrokerState, Weather
from services.portfolio.live.ports import BrokerReads, Seen
from services.portfolio.ports import Clock, Feed, UnavailableError

LOOK_EVERY_S = 1.0
LOOK_WITHIN_S = 3.0
PACE_S = 0.05  # looks are no closer than this: under load each commit of an order is news

STATE = Gauge("portfolio_broker_state", "1 for the state that is in force.", ["state"])
HEARTBEAT_AGE = Gauge(
    "portfolio_broker_heartbeat_age_seconds",
    "Since the elected sender's last word; NaN before the first, and when no broker is used.",
)

log = structlog.get_logger()


class Lookout:
    """What a replica knows of the broker. With TRADING_MODE=PAPER that is OFF, without looking."""

    def __init__(self, reads: BrokerReads, feed: Feed, clock: Clock, trading_mode: Mode) -> None:
        self.trading_mode = trading_mode
        self._reads = reads
        self._feed = feed
        self._clock = clock
        self._seen = Seen(_before_the_first_word(clock, trading_mode), {})
        self._looked = asyncio.Event()  # set, and replaced, after each look
        self._news = asyncio.Event()
        self._stopped = False
        self._tasks: list[asyncio.Task[None]] = []
        self._show()
        if trading_mode is Mode.LIVE:
            self._tasks = [
                asyncio.create_task(self._look_forever(), name="broker-lookout"),
                asyncio.create_task(self._listen_forever(), name="broker-news"),
            ]

    def seen(self) -> Seen:
        """What is known at this moment; DOWN before the first look and without a sender's word."""
        return replace(self._seen, weather=self._seen.weather.seen_at(self._clock()))

    async def reconciliation(self) -> Reconciliation:
        """The ledger beside the broker as last compared, read now, also on PAPER.

        Raises:
            UnavailableError: The database is away.
        """
        return await self._reads.reconciliation()

    async def watch(self) -> AsyncIterator[Weather | UnavailableError]:
        """The weather as it is now, then each change within a second of it.

        An UnavailableError is the last item when the router stops.
        """
        told: Weather | None = None
        while not self._stopped:
            looked = self._looked  # taken first: a look during what follows is not missed
            weather = self.seen().weather
            if told is None or _differs(weather, told):
                told = weather
                yield weather
            else:
                await looked.wait()
        yield UnavailableError(
            "ROUTER_STOPPING", "The router is stopping. Call again to go on watching."
        )

    async def stop(self) -> None:
        """Looks no more, and ends every watch."""
        for task in self._tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        self._stopped = True
        self._looked.set()

    async def _look_forever(self) -> None:
        while True:
            self._news.clear()
            try:
                async with asyncio.timeout(LOOK_WITHIN_S):
                    await self._look()
            except (UnavailableError, TimeoutError):
                pass  # what was seen last ages; without a newer word it becomes DOWN
            except Exception:
                # A fault of ours must not leave this replica blind until it is started again.
                log.exception("look_failed", next=f"looking again in {LOOK_EVERY_S:g} s")
            self._show()
            self._looked.set()
            self._looked = asyncio.Event()
            await asyncio.sleep(PACE_S)
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY_S - PACE_S):
                    await self._news.wait()

    async def _look(self) -> None:
        # The weather first: a comparison read with CONNECTED is then no older than that word.
        weather = await self._reads.weather()
        compared = await self._reads.reconciliation()
        frozen = {row.symbol: row for row in compared.rows if row.frozen}
        self._seen = Seen(weather or self._seen.weather, frozen)

    def _show(self) -> None:
        weather = self.seen().weather
        for state in BrokerState:
            STATE.labels(state).set(state is weather.state)
        age_s = float("nan")
        if weather.heartbeat is not None:
            age_s = (self._clock() - weather.heartbeat).total_seconds()
        HEARTBEAT_AGE.set(age_s)

    async def _listen_forever(self) -> None:
        while True:
            with suppress(UnavailableError):
                async with self._feed.subscribe() as events:
                    self._news.set()  # of what came before it was listened to
                    async for event in events:
                        if event.broker:
                            self._news.set()
            await asyncio.sleep(LOOK_EVERY_S)


def _before_the_first_word(clock: Clock, trading_mode: Mode) -> Weather:
    if trading_mode is Mode.PAPER:
        return Weather(BrokerState.OFF, clock(), "TRADING_MODE=PAPER: no broker is used.")
    return Weather(BrokerState.DOWN, clock(), "No router has held the broker's line yet.")


def _differs(weather: Weather, other: Weather) -> bool:
    """Whether anything but the heartbeat is new."""
    return replace(weather, heartbeat=None) != replace(other, heartbeat=None)

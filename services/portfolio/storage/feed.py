"""The feed of commits: one LISTEN connection a router, and a bounded queue for each watcher."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import structlog

from services.portfolio.ports import LedgerEvent, UnavailableError
from services.portfolio.storage.address import AWAY, CONNECT_TIMEOUT_S, Address
from services.portfolio.storage.notices import CHANNEL, event_of

MOST_BEHIND = 1000  # events a slow watcher may lag before it is sent away
LONGEST_PAUSE_S = 5.0
PROBE_EVERY_S = 10.0
SETTINGS = {"application_name": "efficientfrontier-feed"}

log = structlog.get_logger()
Subscriber = asyncio.Queue[LedgerEvent | None]


class PostgresFeed:
    """Tells watchers of every commit. Connects on its own, again and again if need be."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._subscribers: set[Subscriber] = set()
        self._listening = asyncio.Event()
        self._task = asyncio.create_task(self._listen_forever(), name="ledger-feed")

    @asynccontextmanager
    async def subscribe(self) -> AsyncIterator[AsyncIterator[LedgerEvent]]:
        """Commits from the moment the block is entered.

        Raises, from the iterator as well:
            UnavailableError: The connection broke or the watcher was too slow: some may be missed.
        """
        if self._task.done():
            raise _missed("The router is stopping.")
        if not await _within(CONNECT_TIMEOUT_S, self._listening):
            raise _missed("The router cannot reach its database at the moment.")
        queue: Subscriber = asyncio.Queue(MOST_BEHIND)
        self._subscribers.add(queue)
        try:
            yield _events(queue)
        finally:
            self._subscribers.discard(queue)

    async def stop(self) -> None:
        """Ends every watch and the connection."""
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        self._send_away(self._subscribers)

    async def _listen_forever(self) -> None:
        pause_s = 0.1
        while True:
            with suppress(*AWAY):
                await self._listen()
                pause_s = 0.1
            self._listening.clear()
            self._send_away(self._subscribers)
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)

    async def _listen(self) -> None:
        """Listens until the connection breaks."""
        connection = await self._address.connect(SETTINGS)
        try:
            broken = asyncio.Event()
            connection.add_termination_listener(lambda _: broken.set())
            await connection.add_listener(CHANNEL, self._tell)
            self._listening.set()
            while not await _within(PROBE_EVERY_S, broken):
                # A server that vanished without a word is noticed only by asking it.
                await connection.fetchval("SELECT 1", timeout=CONNECT_TIMEOUT_S)
            log.warning("feed_lost", next="reconnecting; watchers are told to call again")
        finally:
            connection.terminate()

    def _tell(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        if not self._subscribers:
            return
        event = event_of(str(payload))
        for queue in list(self._subscribers):
            try:
                queue.put_nowait(event)
            except asyncio.QueueFull:
                self._send_away({queue})

    def _send_away(self, queues: set[Subscriber]) -> None:
        """Ends these watches: what waits is dropped, the end comes next."""
        for queue in list(queues):
            self._subscribers.discard(queue)
            while not queue.empty():
                queue.get_nowait()
            queue.put_nowait(None)


async def _events(queue: Subscriber) -> AsyncIterator[LedgerEvent]:
    while (event := await queue.get()) is not None:
        yield event
    raise _missed("Events may have been missed.")


async def _within(limit_s: float, event: asyncio.Event) -> bool:
    """Whether the event is set in time.

    Not by wait_for(): before Python 3.12 it swallows a cancellation that comes as the event does.
    """
    try:
        async with asyncio.timeout(limit_s):
            await event.wait()
    except TimeoutError:
        return False
    return True


def _missed(why: str) -> UnavailableError:
    return UnavailableError("DATABASE_UNAVAILABLE", f"{why} Call again to go on watching.")

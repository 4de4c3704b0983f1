"""Looking again and again: at once, when the feed tells of somebody concerned, and now and then.

Each replica has some who look so (at limits, at what is due). They are not elected, so what they
find they submit as commands that look again under the lock.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import suppress
from dataclasses import dataclass

import structlog

from services.portfolio.domain.errors import LedgerError
from services.portfolio.ports import Feed, LedgerEvent, UnavailableError

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Looks:
    """How one of them looks."""

    name: str  # in logs
    look: Callable[[], Awaitable[None]]
    concerned: Callable[[], Collection[str]]  # strategies whose commits are a reason to look
    every_s: float
    calm_s: float  # events that come closer together than this lead to one look

    async def run(self, feed: Feed) -> None:
        """Looks for ever."""
        while True:
            try:
                async with feed.subscribe() as events:
                    await self._look_on(events)
            except (UnavailableError, LedgerError) as error:
                # Some events may have been missed: it looks at everything when they are back.
                log.warning("looks_wait", of=self.name, why=error.message)
            except Exception:
                # A fault of ours must not end the looks until the router is started again.
                log.exception("look_failed", of=self.name, again_in_s=self.every_s)
            await asyncio.sleep(self.every_s)

    async def _look_on(self, events: AsyncIterator[LedgerEvent]) -> None:
        """Looks until the feed breaks, which it raises."""
        moved = asyncio.Event()
        listening = asyncio.create_task(self._listen(events, moved), name=f"{self.name}-feed")
        try:
            while True:
                moved.clear()
                await self.look()
                with suppress(TimeoutError):
                    async with asyncio.timeout(self.every_s):
                        await moved.wait()
                        await asyncio.sleep(self.calm_s)
                if listening.done():
                    await listening  # raises why
        finally:
            listening.cancel()
            await asyncio.wait([listening])  # a cancellation of our own still comes through

    async def _listen(self, events: AsyncIterator[LedgerEvent], moved: asyncio.Event) -> None:
        """Hears of those concerned; its end is heard of too."""
        try:
            async for event in events:
                if not set(event.strategies).isdisjoint(self.concerned()):
                    moved.set()
        finally:
            moved.set()

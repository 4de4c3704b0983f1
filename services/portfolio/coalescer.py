"""One worker that answers many callers at once: whatever waits is handled as one batch.

The worker is a task of its own: a caller that goes away cancels nothing but its own wait, and is
simply not answered. The queue is bounded; a caller that finds it full is told so at once.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import structlog

from services.portfolio.ports import UnavailableError

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")

log = structlog.get_logger()


class Coalescer(Generic[Item, Outcome]):
    """Hands waiting items to `run` in batches and each outcome, or error, to its caller."""

    def __init__(
        self,
        name: str,
        run: Callable[[Sequence[Item]], Awaitable[Sequence[Outcome | Exception]]],
        *,
        max_batch: int,
        max_waiting: int,
        pace_s: float = 0.0,
    ) -> None:
        self.name = name
        self._run = run
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._pace_s = pace_s
        self._began = 0.0  # the last batch, on the loop's clock
        self._last_size = 0
        self._waiting: deque[tuple[Item, asyncio.Future[Outcome]]] = deque()
        self._wake = asyncio.Event()
        self._stopping = False
        self._worker = asyncio.create_task(self._work(), name=name)

    @property
    def waiting(self) -> int:
        """How many items wait for the next batch."""
        return len(self._waiting)

    async def submit(self, item: Item) -> Outcome:
        """Waits for the item's outcome.

        Raises:
            UnavailableError: The queue is full (ROUTER_BUSY), or the router stops.
            Exception: Whatever `run` gave as this item's outcome.
        """
        if self._stopping:
            raise UnavailableError(
                "ROUTER_STOPPING", "The router is stopping. Repeat the call; another will answer."
            )
        if len(self._waiting) >= self._max_waiting:
            raise UnavailableError(
                "ROUTER_BUSY",
                f"{len(self._waiting)} calls wait already. Nothing was written; try again "
                "in a moment.",
            )
        answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, answer))
        self._wake.set()
        return await answer

    async def stop(self) -> None:
        """Takes no more items, finishes those that wait, and ends the worker."""
        self._stopping = True
        self._wake.set()
        await self._worker

    async def _work(self) -> None:
        while True:
            await self._wake.wait()
            await self._gather()
            batch = self._next_batch()
            self._last_size = len(batch)
            if batch:
                await self._answer(batch)
            elif self._stopping:
                return

    async def _gather(self) -> None:
        """Lets calls that arrive together be answered together.

        One turn of the loop always. Under load, when the batch before had more than one call,
        batches begin `pace_s` apart: a quick read would else be run for every second call.
        """
        loop = asyncio.get_running_loop()
        pause_s = self._began + self._pace_s - loop.time() if self._last_size > 1 else 0
        await asyncio.sleep(max(pause_s, 0))
        self._began = loop.time()

    def _next_batch(self) -> list[tuple[Item, asyncio.Future[Outcome]]]:
        """The items to handle now, less those whose callers have gone before it began."""
        batch: list[tuple[Item, asyncio.Future[Outcome]]] = []
        while self._waiting and len(batch) < self._max_batch:
            item, answer = self._waiting.popleft()
            if not answer.done():
                batch.append((item, answer))
        if not self._waiting and not self._stopping:
            self._wake.clear()
        return batch

    async def _answer(self, batch: list[tuple[Item, asyncio.Future[Outcome]]]) -> None:
        outcomes: Sequence[Outcome | Exception]
        try:
            outcomes = await self._run([item for item, _ in batch])
        except UnavailableError as error:
            outcomes = [error] * len(batch)
        except Exception as error:
            log.exception("batch_failed", worker=self.name, size=len(batch))
            outcomes = [error] * len(batch)
        for (_, answer), outcome in zip(batch, outcomes, strict=True):
            if answer.done():  # its caller has gone
                continue
            if isinstance(outcome, Exception):
                answer.set_exception(outcome)
            else:
                answer.set_result(outcome)

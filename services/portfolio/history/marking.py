"""Marking: keeps the prices that strategies saw, and closes the sessions that they end."""

from collections.abc import Sequence

from services.portfolio.caller import ROUTER
from services.portfolio.coalescer import Coalescer
from services.portfolio.domain.errors import StrategyNotFoundError
from services.portfolio.history.commands import CloseSession
from services.portfolio.history.sessions import session_at
from services.portfolio.ports import Clock, PriceMark, Reads, UnavailableError
from services.portfolio.writer import Writer

TRIES = 3  # to keep prices that begin a session: two, unless midnight comes in between


class Marking:
    """Takes the prices of many callers as one batch.

    The ledger itself knows the sessions, and says with each batch which prices begin one. As long
    as none does, that costs nothing; and whichever replica is told first, no price of a session is
    kept before the session before is closed.
    """

    def __init__(
        self,
        writer: Writer,
        reads: Reads,
        clock: Clock,
        *,
        max_batch: int,
        max_waiting: int,
        pace_s: float,
    ) -> None:
        self._writer = writer
        self._reads = reads
        self._clock = clock
        self._waiting: Coalescer[Sequence[PriceMark], bool] = Coalescer(
            "price-marks", self._keep, max_batch=max_batch, max_waiting=max_waiting, pace_s=pace_s
        )

    async def mark(self, marks: Sequence[PriceMark]) -> None:
        """Keeps prices that one strategy saw, all of one session.

        Raises:
            StrategyNotFoundError: There is none of this name.
            UnavailableError: The database is away, or the router is full or stopping.
        """
        name, given = marks[0].strategy_name, marks[0].session
        for _ in range(TRIES):
            if await self._waiting.submit(marks):
                return
            session = given or session_at(self._clock())
            close = CloseSession(name, session, given is not None)
            await self._writer.submit(close, by=ROUTER)  # the price was reported, not the close
        raise UnavailableError(
            "ROUTER_BUSY",
            f"Sessions of {name} ended {TRIES} times in a row. The prices were not kept; report "
            "them again.",
        )

    async def stop(self) -> None:
        """Finishes what waits and takes no more."""
        await self._waiting.stop()

    async def _keep(self, seen: Sequence[Sequence[PriceMark]]) -> Sequence[bool | Exception]:
        """Of each caller's prices: whether they were kept, or begin a session."""
        today = session_at(self._clock())
        kept = await self._reads.mark([mark for marks in seen for mark in marks], today)
        keys = [(marks[0].strategy_name, marks[0].session) for marks in seen]
        return [kept[key] if key in kept else StrategyNotFoundError(key[0]) for key in keys]

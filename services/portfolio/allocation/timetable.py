"""The timetable: has the policy carried out once in each new week, month or quarter.

Periods are those of closed sessions, not of the clock, so that a replay's months count as well. The
request_id of a period lets one rebalance in, whichever replica asks and however often.
"""

import asyncio
from datetime import date

import structlog

from services.portfolio.allocation.allocator import Allocator
from services.portfolio.allocation.ports import AllocationReads
from services.portfolio.domain.capital import Schedule, period_begun
from services.portfolio.domain.errors import LedgerError
from services.portfolio.domain.order import Mode
from services.portfolio.ports import UnavailableError

LOOK_EVERY_S = 1.0
PAUSE_S = 30.0  # after one that could not be computed

log = structlog.get_logger()


class Timetable:
    """Rebalances when a period begins."""

    def __init__(
        self,
        allocator: Allocator,
        reads: AllocationReads,
        mode: Mode,
        look_every_s: float = LOOK_EVERY_S,
    ) -> None:
        self._allocator = allocator
        self._reads = reads
        self._mode = mode
        self._look_every_s = look_every_s
        self._looked_at: tuple[Schedule, date | None, date | None] | None = None
        self._done = ""  # the period that was rebalanced last

    async def run(self) -> None:
        """Looks for ever."""
        while True:
            pause_s = self._look_every_s
            try:
                await self.look()
            except (UnavailableError, LedgerError) as error:
                log.warning("rebalance_waits", why=error.message, again_in_s=PAUSE_S)
                pause_s = max(pause_s, PAUSE_S)
            except Exception:
                # A fault of ours must not end the timetable until the router is started again.
                log.exception("rebalance_failed", again_in_s=PAUSE_S)
                pause_s = max(pause_s, PAUSE_S)
            await asyncio.sleep(pause_s)

    async def look(self) -> str:
        """Rebalances if a period has begun; returns the period, or nothing.

        Raises:
            UnavailableError: It cannot be computed now, or the database is away.
        """
        policy = await self._reads.policy()
        if policy.schedule is Schedule.ON_REQUEST:
            return ""
        seen = (policy.schedule, policy.since, await self._reads.newest_session())
        if seen == self._looked_at:
            return ""
        closed = await self._reads.closed_sessions(self._mode)
        period = period_begun(policy, *closed) if closed else ""
        if period in ("", self._done):
            self._looked_at = seen
            return ""
        if not await self._allocator.may_give(self._mode):
            return ""  # everybody is halted: it is looked at again when somebody is not
        request_id = f"rebalance:{self._mode}:{period}"
        plan = await self._allocator.rebalance(None, self._mode, request_id)
        log.info("rebalanced", period=period, mode=self._mode, plan_id=str(plan.plan_id))
        self._looked_at, self._done = seen, period
        return period

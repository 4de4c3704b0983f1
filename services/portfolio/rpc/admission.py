"""Admission: who comes in, how, and how often."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import grpc
from limits import RateLimitItemPerSecond
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from services.portfolio.caller import ANONYMOUS, Caller
from services.portfolio.rpc.context import Context
from services.portfolio.rpc.errors import RateLimitedError

BURST_S = 5  # so much may come at once of what is allowed in as long


class Rate:
    """So many calls a second of each caller, counted by this replica alone.

    All who call without credentials (AUTH=none) are one caller, `anonymous`: together they get what
    one gets. Callers are known by valid credentials, so there are never more of them here than were
    let in; of one that pauses, no more than the name is kept.
    """

    def __init__(self, calls_a_second: int) -> None:
        self._most = RateLimitItemPerSecond(calls_a_second * BURST_S, BURST_S)
        self._limiter = MovingWindowRateLimiter(MemoryStorage())
        self._calls_a_second = calls_a_second

    def take(self, caller: Caller) -> None:
        """Counts a call.

        Raises:
            RateLimitedError: It is one too many.
        """
        if not self._limiter.hit(self._most, caller.actor):
            free_at = self._limiter.get_window_stats(self._most, caller.actor).reset_time
            wait_s = max(math.ceil((free_at - time.time()) * 1000), 1) / 1000
            raise RateLimitedError(caller.actor, self._calls_a_second, wait_s)


@dataclass(frozen=True, slots=True)
class Admission:
    """What stands before every call."""

    identify: Callable[[Context], Caller] | None = None  # None: everybody comes in (AUTH=none)
    rate: Rate | None = None
    credentials: grpc.ServerCredentials | None = None  # None: without TLS

    def admit(self, context: Context) -> Caller:
        """Who calls, if it may call now.

        Raises:
            CallerError: It does not prove who it is, or calls too often.
        """
        caller = ANONYMOUS if self.identify is None else self.identify(context)
        if self.rate is not None:
            self.rate.take(caller)
        return caller


OPEN = Admission()

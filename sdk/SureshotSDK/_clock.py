"""Time for a Scheduler: a clock, a drift-free grid of ticks, and exchange sessions."""

import importlib
import math
import queue
import time
from datetime import UTC, date, datetime, timedelta
from typing import Any, Protocol


class Stop:
    """A wish to stop that can be awaited, and expressed from a signal handler.

    threading.Event is not safe there: its lock may be held by the very code that the signal
    interrupted. SimpleQueue.put is documented to be.
    """

    def __init__(self) -> None:
        self._wished = False
        self._wakes: queue.SimpleQueue[None] = queue.SimpleQueue()

    def __bool__(self) -> bool:
        return self._wished

    def wish(self) -> None:
        """Asks for the stop; whoever waits wakes up."""
        self._wished = True
        self._wakes.put(None)

    def wait(self, timeout_s: float | None) -> None:
        """Returns when the stop is wished, or after `timeout_s` seconds."""
        if self._wished:
            return
        try:
            self._wakes.get(timeout=timeout_s)
        except queue.Empty:
            return


class Clock(Protocol):
    """Where a Scheduler's time comes from."""

    def now(self) -> datetime:
        """The time of day, UTC."""

    def monotonic(self) -> float:
        """Seconds that never go back."""

    def wait(self, stop: Stop, timeout_s: float | None) -> None:
        """Lets `timeout_s` seconds pass (None: any number), or less once `stop` is wished."""


class SystemClock:
    """The machine's time."""

    def now(self) -> datetime:
        """The time of day, UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds that never go back."""
        return time.monotonic()

    def wait(self, stop: Stop, timeout_s: float | None) -> None:
        """Sleeps until the timeout or the stop."""
        stop.wait(timeout_s)


class Ticks:
    """The grid start + k * interval. Ticks that were missed are left out, never made up for."""

    def __init__(self, start: float, interval_s: float) -> None:
        self._start = start
        self._interval_s = interval_s
        self._next = 1
        self.missed = 0

    def delay_s(self, now: float) -> float:
        """Seconds from `now` to the next tick; counts those that have passed as `missed`."""
        if self._interval_s == 0:
            return 0.0
        # The hair's breadth keeps rounding from leaving out a tick that is due right now.
        upcoming = math.ceil((now - self._start) / self._interval_s - 1e-9)
        due = max(self._next, upcoming)
        self.missed = due - self._next
        self._next = due + 1
        return max(0.0, self._start + due * self._interval_s - now)


class Calendar(Protocol):
    """When there is something to look at."""

    def is_open(self, at: datetime) -> bool:
        """Whether the exchange trades at this time."""


class ExchangeCalendar:
    """The sessions of an exchange by its ISO 10383 code, such as XNYS (extra `calendar`).

    Raises: ValueError, when the code is unknown or exchange-calendars is not installed.
    """

    def __init__(self, code: str) -> None:
        try:
            self._package: Any = importlib.import_module("exchange_calendars")
        except ModuleNotFoundError as missing:
            raise ValueError(
                f"The calendar {code} needs exchange-calendars: install the extra `calendar`."
            ) from missing
        known = self._package.get_calendar_names()
        if code not in known:
            raise ValueError(f"No exchange calendar is called {code}; XNYS is New York's.")
        self._code = code
        self._day = date.min
        self._sessions: Any = None

    def is_open(self, at: datetime) -> bool:
        """Whether the exchange's regular session covers this minute."""
        day = at.astimezone(UTC).date()
        if day != self._day:  # a calendar ends some day; a strategy may run longer than that
            around = timedelta(days=15)
            self._sessions = self._package.get_calendar(
                self._code, start=day - around, end=day + around
            )
            self._day = day
        minute = at.astimezone(UTC).replace(second=0, microsecond=0)
        return bool(self._sessions.is_open_on_minute(minute))

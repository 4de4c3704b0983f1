"""A strategy's sign of life: a file that a container's health check looks at.

Its time of change lies in the future: until then the loop is to be back. So a check needs neither
the interval nor a connection (`python -m services.strategy.healthcheck`). It says that the loop
turns, not that the router or the prices can be reached: a restart would bring back neither.
"""

import os
import time
from pathlib import Path

# Waiting for a router that is away, or for a slow source of prices, is no hanging.
A_TICK_MAY_TAKE_S = 120.0


class Heartbeat:
    """Keeps the file up to date; with no `path` it does nothing."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def __bool__(self) -> bool:
        return self._path is not None

    def start(self) -> None:
        """The first beat. Raises: ValueError, when the file cannot be written."""
        try:
            self.beat(0.0)
        except OSError as wrong:
            raise ValueError(f"HEALTH_FILE {self._path} cannot be written: {wrong}.") from wrong

    def beat(self, pause_s: float) -> None:
        """Alive: the loop is back after a tick and a pause of `pause_s`. Raises: OSError."""
        if self._path is None:
            return
        self._path.touch()
        until = time.time() + pause_s + A_TICK_MAY_TAKE_S
        os.utime(self._path, (until, until))

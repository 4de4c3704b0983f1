"""A child process of a test: its output is kept, and it is gone when the test is."""

import signal
import subprocess
import sys
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from services.mesh.child import Child
from tests.support.waiting import wait_until

# Those whose logs a failing test shows; see tests/conftest.py.
shown_on_failure: weakref.WeakSet["Process"] = weakref.WeakSet()


class Process(Child):
    """A running process. Use it as a context manager, or call `stop`."""

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        log: Path,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(name, [str(word) for word in command], log, environ or {})
        shown_on_failure.add(self)

    __hash__ = object.__hash__

    @classmethod
    def of_module(
        cls,
        module: str,
        *arguments: str,
        log: Path,
        environ: Mapping[str, str] | None = None,
    ) -> Self:
        """`python -m module arguments`, not started yet."""
        return cls(module, [sys.executable, "-m", module, *arguments], log, environ)

    def __enter__(self) -> Self:
        """Starts it."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Ends it, by force if need be."""
        self.stop(deadline_s=10)

    def send(self, number: signal.Signals) -> None:
        """Sends a signal."""
        self.running.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and waits until it is gone."""
        self.running.kill()
        self.running.wait()

    def terminate(self) -> None:
        """SIGTERM, without waiting."""
        self.running.terminate()

    def wait(self, deadline_s: float = 30) -> int:
        """Waits until it ends; the exit code."""
        return self.running.wait(deadline_s)

    def wait_for_line(self, text: str, deadline_s: float = 30) -> str:
        """Waits until it has written a line that holds `text`, and returns the line."""

        def line() -> str | None:
            found = [line for line in self.output().splitlines() if text in line]
            assert found or self.exit_code() is None, f"ended without {text!r}:\n{self.output()}"
            return found[0] if found else None

        return wait_until(line, deadline_s, f"{text!r} from {self.name}") or ""

    @property
    def running(self) -> subprocess.Popen[bytes]:
        """The process of the last start."""
        assert self._process is not None, f"{self.name} was never started"
        return self._process

"""A child: one process of the mesh, with its log and a death that is certain.

A child lives in a session of its own, so that Ctrl-C in the terminal reaches the mesh alone, which
then stops its children in order. On Linux the kernel ends a child when the thread that started it
ends, so start children in the main thread; nothing is left behind even when the mesh is SIGKILLed.
"""

import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[2]
LOG_LIMIT_BYTES = 10_000_000


@dataclass
class Child:
    """One process. `start` may be called again once it has ended."""

    name: str
    command: Sequence[str]
    log: Path
    environ: Mapping[str, str] = field(default_factory=dict)  # beside the mesh's own
    stop_signal: signal.Signals = signal.SIGTERM
    orphan_signal: signal.Signals = signal.SIGKILL  # what the kernel sends when the mesh dies
    on_line: Callable[[str], None] | None = None  # gets each line of stdout, in another thread
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _log_start: int = field(default=0, init=False)

    def start(self) -> None:
        """Starts the process; its output is appended to the log."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(  # noqa: S603 (our own commands)
                [*dying_with_us(self.orphan_signal), *self.command],
                cwd=ROOT,
                env={**os.environ, **self.environ},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if self.on_line else log,
                stderr=log,
                start_new_session=True,
            )
        if self._process.stdout and self.on_line:
            threading.Thread(
                target=pass_on, args=(self._process.stdout, self.log, self.on_line), daemon=True
            ).start()

    @property
    def pid(self) -> int:
        """The process id of the last start."""
        if self._process is None:
            raise RuntimeError(f"{self.name} was never started")
        return self._process.pid

    def exit_code(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self._process.poll() if self._process else None

    def ask_to_stop(self) -> None:
        """Sends the stop signal, if the process still runs."""
        if self._process:
            self._process.send_signal(self.stop_signal)

    def stop(self, deadline_s: float = 10) -> None:
        """Ends the process and what it started; SIGKILL when it takes longer than the deadline."""
        if self._process is None:
            return
        self.ask_to_stop()
        try:
            self._process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def last_words(self) -> str:
        """The last line that it wrote to its log since its last start; empty if none."""
        lines = self.output().strip().splitlines()
        return lines[-1].strip() if lines else ""

    def output(self) -> str:
        """What it wrote to its log since its last start."""
        if not self.log.exists():
            return ""
        with self.log.open("rb") as log:
            is_whole = self.log.stat().st_size >= self._log_start  # else it was trimmed since
            log.seek(self._log_start if is_whole else 0)
            return log.read().decode(errors="replace")

    def trim_log(self) -> None:
        """Keeps the log bounded."""
        trim_log(self.log)


def trim_log(log: Path) -> None:
    """Bounds a log: beyond the limit it moves to NAME.1 and begins anew.

    It is copied and emptied, not renamed, because its process goes on appending to the open file.
    """
    if log.exists() and log.stat().st_size > LOG_LIMIT_BYTES:
        shutil.copyfile(log, log.with_name(log.name + ".1"))
        os.truncate(log, 0)


def pass_on(output: IO[bytes], log_path: Path, on_line: Callable[[str], None]) -> None:
    """Appends each line of a child's output to its log, and tells it."""
    with output, log_path.open("ab", buffering=0) as log:
        for line in output:
            log.write(line)
            on_line(line.decode(errors="replace").rstrip("\n"))


def dying_with_us(orphan_signal: signal.Signals) -> list[str]:
    """The command prefix that has the kernel signal a child when we die; empty where there is none.

    setpriv is part of util-linux. A prefix, unlike a preexec_fn, is safe beside threads.
    """
    setpriv = shutil.which("setpriv")
    return [setpriv, f"--pdeathsig={orphan_signal.name}"] if setpriv else []

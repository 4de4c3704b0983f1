"""Logs: one JSON object a line on standard error, with the call and trace it belongs to.

A line waits up to 50 ms for others, because writing each by itself cost a loaded router as much as
its domain did: every write gives the interpreter's lock away. Errors, and all that is logged while
no loop runs, are written at once.
"""

import asyncio
import atexit
import logging
import sys
from typing import BinaryIO

import orjson
import structlog
from structlog.typing import EventDict

from services.portfolio.caller import CALLER, TRACE_ID, TRACES

LONGEST_WAIT_S = 0.05


class LineWriter:
    """Writes lines to a stream, many at a time."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._lines: list[bytes] = []
        atexit.register(self.flush)

    def write(self, line: bytes) -> None:
        """Writes a line, soon."""
        self._lines.append(line)
        if len(self._lines) > 1:
            return  # the first of them has seen to it
        try:
            asyncio.get_running_loop().call_later(LONGEST_WAIT_S, self.flush)
        except RuntimeError:  # no loop runs
            self.flush()

    def write_now(self, line: bytes) -> None:
        """Writes a line, and all that wait before it."""
        self._lines.append(line)
        self.flush()

    def flush(self) -> None:
        """Writes what waits."""
        lines, self._lines = self._lines, []
        if lines:
            self._stream.write(b"\n".join(lines) + b"\n")
            self._stream.flush()

    # structlog calls the logger's method that is named after the level.
    debug = info = warning = write
    error = critical = exception = write_now


def configure_logs(level: str) -> None:
    """Sends every log line of this process to standard error as JSON."""
    number = logging.getLevelNamesMapping()[level]
    writer = LineWriter(sys.stderr.buffer)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            with_call,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(serializer=_line),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=lambda *_: writer,
        cache_logger_on_first_use=True,
    )
    # Libraries that log in the standard way: their warnings, in the same form.
    logging.basicConfig(
        level=max(number, logging.WARNING),
        stream=sys.stderr,
        format='{"time": "%(asctime)s", "level": "warning", "event": "library", '
        '"logger": "%(name)s", "message": "%(message)s"}',
    )


def with_call(_logger: object, _level: str, entry: EventDict) -> EventDict:
    """Says within whose call, and in which trace, a line is logged."""
    if trace_id := TRACE_ID.get():
        entry.setdefault("trace", trace_id)
    if traces := TRACES.get():
        entry.setdefault("traces", traces)
    caller = CALLER.get()
    if caller.role is not None:  # else anybody, or the router itself
        entry.setdefault("actor", caller.actor)
    return entry


def _line(entry: dict[str, object], **_: object) -> bytes:
    return orjson.dumps(entry, default=str)

"""Logs: one JSON object a line on standard error, with the id of the call it belongs to."""

import logging
import sys

import orjson
import structlog


def configure_logs(level: str) -> None:
    """Sends every log line of this process to standard error as JSON."""
    number = logging.getLevelNamesMapping()[level]
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(serializer=_line),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.BytesLoggerFactory(sys.stderr.buffer),
        cache_logger_on_first_use=True,
    )
    # Libraries that log in the standard way: their warnings, in the same form.
    logging.basicConfig(
        level=max(number, logging.WARNING),
        stream=sys.stderr,
        format='{"time": "%(asctime)s", "level": "warning", "event": "library", '
        '"logger": "%(name)s", "message": "%(message)s"}',
    )


def _line(entry: dict[str, object], **_: object) -> bytes:
    return orjson.dumps(entry, default=str)

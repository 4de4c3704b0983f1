"""What a strategy says: one line an event, as text for people or as JSON for a supervisor."""

import json
import logging
import math
import sys
from datetime import UTC, datetime
from typing import Any

from SureshotSDK import _tracing

logger = logging.getLogger("SureshotSDK")


class EventLog:
    """Says a strategy's events with its name."""

    def __init__(self, strategy_name: str) -> None:
        self._strategy_name = strategy_name

    def say(self, event: str, text: str, *, level: int = logging.INFO, **fields: Any) -> None:
        """Logs one line: `text` for people, `event` and `fields` for programs."""
        named = {"event": event, "strategy_name": self._strategy_name, **fields}
        if trace := _tracing.trace_id():
            named["trace"] = trace
        logger.log(level, "%s %s", self._strategy_name, text, extra={"text": text, "fields": named})


def configure(*, as_json: bool) -> None:
    """Sends the lines to standard output, unless the program has set up logging itself."""
    if logger.hasHandlers():
        return
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        _JsonLine() if as_json else logging.Formatter("%(asctime)s %(levelname)s %(message)s")
    )
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)


class _JsonLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = getattr(record, "fields", {"event": "note"})
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname,
            "message": getattr(record, "text", record.getMessage()),
            **{name: _plain(value) for name, value in fields.items()},
        }
        return json.dumps(line, default=str)


def _plain(value: Any) -> Any:
    # JSON has no nan.
    return None if isinstance(value, float) and not math.isfinite(value) else value

"""Where a recorded feed is, kept in a small file, so that a restart goes on where it stopped."""

import json
import logging
import os
from datetime import date
from pathlib import Path

_logger = logging.getLogger("SureshotSDK")


class Cursor:
    """The last session that was done, of one feed and followed symbol, in the file `path`.

    It is written after a session's tick is done. A crash between an order and the write shows the
    same session again, which is harmless: the strategy asks the router whether it is invested, and
    finds its decision already carried out.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def last_done(self, feed: str, symbol: str) -> date | None:
        """The last session done; None: begin at the beginning, as for another feed or symbol."""
        try:
            kept = json.loads(self._path.read_text())
            if (kept["feed"], kept["symbol"]) != (feed, symbol):
                return None
            return date.fromisoformat(kept["last_done"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as broken:
            text = "%s cannot be read (%s): the price history begins again."
            _logger.warning(text, self._path, broken)
            return None

    def write(self, feed: str, symbol: str, last_done: date) -> None:
        """Keeps the place; a reader sees the old one or the new one, never half of it."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        kept = {"feed": feed, "symbol": symbol, "last_done": last_done.isoformat()}
        fresh = self._path.with_suffix(f".{os.getpid()}.new")
        fresh.write_text(json.dumps(kept) + "\n")
        fresh.replace(self._path)

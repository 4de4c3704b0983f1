"""The library that speaks to IB Gateway and TWS: ib_async, or the older ib_insync.

Both have the same names in this use. One environment holds one of them, for both bring a module
called eventkit; should both be there, ib_async is the one that is still maintained.
"""

import importlib
import logging
from importlib.util import find_spec
from typing import Any


def find_library() -> str:
    """The name of the library that is installed. Raises: ValueError, when none is."""
    for name in ("ib_async", "ib_insync"):
        if find_spec(name) is not None:
            return name
    raise ValueError(
        "PRICE_FEED=ibkr needs ib_insync or ib_async: install the extra `ibkr`, "
        "as in pip install 'efficientfrontier-portfolio[ibkr]'."
    )


def load_library() -> Any:
    """Imports the library.

    It wants the importing thread to have an event loop: call this where one runs.
    """
    name = find_library()
    # It logs each failed attempt to connect in several lines; the feed says it in one. A program
    # that sets up logging still gets the library's lines.
    logging.getLogger(name).addHandler(logging.NullHandler())
    return importlib.import_module(name)

"""The client library of Interactive Brokers: ib_async where it is installed, else ib_insync.

Their `IB` classes are alike, and both bring a module named eventkit, so that an environment is made
for one of them. It is imported when the line is first opened, on the loop that will use it:
eventkit asks for the event loop at its import, and a router in PAPER needs neither.
"""

import asyncio
import logging
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from services.portfolio.live.ports import LineError

NAMES = ("ib_async", "ib_insync")


def load() -> ModuleType:
    """The library; must be called on the loop that will use it.

    Raises:
        LineError: Neither is installed, or there is no time-zone database, without which both drop
            executions with no more than a log line.
    """
    name = next((name for name in NAMES if find_spec(name)), None)
    if name is None:
        raise LineError(
            "LIVE needs ib_insync or ib_async, and neither is installed. Install the extra `ibkr`: "
            "pip install 'efficientfrontier-portfolio[ibkr]'"
        )
    try:
        ZoneInfo("US/Eastern")
    except ZoneInfoNotFoundError as error:
        raise LineError(
            "This machine has no time-zone database, without which executions cannot be read. "
            "Install it: pip install tzdata"
        ) from error
    for part in ("client", "wrapper", "ib"):
        # What they would say of errors is translated and logged by the line.
        logging.getLogger(f"{name}.{part}").setLevel(logging.CRITICAL)
    # Both ask the policy for the loop, which knows only what was set; uvloop.run sets none.
    asyncio.set_event_loop(asyncio.get_running_loop())
    return import_module(name)

"""Tells whether this container's strategy is alive, by the file that its loop keeps up to date.

`python -m services.strategy.healthcheck` ends with 0 when it is, else with 1 and the reason. It
imports nothing of the SDK, so that asking often costs little.
"""

import os
import sys
import time
from pathlib import Path


def main() -> str | None:
    """None: the strategy is alive; else what to say of it."""
    path = os.environ.get("HEALTH_FILE")
    if not path:
        return "HEALTH_FILE is not set: give strategy and check the same file."
    try:
        expected = Path(path).stat().st_mtime
    except FileNotFoundError:
        return f"{path} is not there: the strategy has not started."
    late_s = time.time() - expected
    return f"The strategy's loop is {late_s:.0f} s late." if late_s > 0 else None


if __name__ == "__main__":
    sys.exit(main())

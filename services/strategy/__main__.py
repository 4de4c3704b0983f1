"""Runs one strategy by its name, as in `python -m services.strategy spxl`.

The name is the strategy's own (IncredibleLeverage_SPXL) or its end (spxl), in any case; without one
it is that of STRATEGY. What the strategy's file sets can be set otherwise by an option or by the
environment variable beside it.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from services.strategy.above_average import AboveAverage
from services.strategy.avl import AVL
from services.strategy.hood import HOOD
from services.strategy.nvdl import NVDL
from services.strategy.ptir import PTIR
from services.strategy.spxl import SPXL

STRATEGIES: tuple[type[AboveAverage], ...] = (SPXL, PTIR, NVDL, HOOD, AVL)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the strategy that the command line names; the process's exit code is returned."""
    options = _parser().parse_args(arguments)
    if options.list:
        print("\n".join(strategy.name for strategy in STRATEGIES))
        return 0
    found = find(options.name or "")
    if found is None:
        names = ", ".join(strategy.name for strategy in STRATEGIES)
        return _refuse(f"No strategy is called {options.name!r}; there are {names}.")
    try:
        strategy = found(
            symbol=options.symbol,
            sma_window=options.sma_window,
            interval_s=options.interval_s,
            feed=options.feed,
        )
        strategy.run()
    except ValueError as wrong:  # a setting; its text says which, and what to do
        return _refuse(str(wrong))
    return 0


def find(name: str) -> type[AboveAverage] | None:
    """The strategy of this name or end of a name, in any case; None: there is none."""
    wanted = name.lower()
    for strategy in STRATEGIES:
        if wanted in {strategy.name.lower(), strategy.name.lower().rpartition("_")[2]}:
            return strategy
    return None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m services.strategy")
    parser.add_argument(
        "name",
        nargs="?",
        default=os.environ.get("STRATEGY"),
        help="such as spxl or IncredibleLeverage_SPXL (STRATEGY)",
    )
    parser.add_argument("--list", action="store_true", help="print every strategy's name")
    for option, what in (
        ("--symbol", "the symbol to follow (SYMBOL)"),
        ("--sma-window", "sessions in the moving average (SMA_WINDOW)"),
        ("--interval-s", "seconds between looks at the price (INTERVAL_S)"),
        ("--feed", "replay, csv:FOLDER, yahoo or ibkr (PRICE_FEED)"),
    ):
        variable = what.rpartition("(")[2].rstrip(")")
        parser.add_argument(option, default=os.environ.get(variable) or None, help=what)
    return parser


def _refuse(text: str) -> int:
    print(text, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())

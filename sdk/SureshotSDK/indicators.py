"""Indicators: numbers that follow a price, one update at a time.

Every indicator has `update(price)` (a new price), `replace(price)` (a newer price of the same
session), `ready` and `get_value()`. Before it is ready, get_value() is nan, so that every
comparison with it is False; a Scheduler calls on_data only once its `sma` is ready.

`EMA` and `RSI` are talipp's. `SMA` is computed here, exactly: a running mean in floats, talipp's
included, is off in its last digits by an amount that depends on where it began, and a price that
equals its average would then be "above" it for one process and not for another.
"""

import math
from collections import deque
from decimal import Decimal
from typing import Any

import talipp.indicators  # type: ignore[import-untyped]  # has no stubs


class SMA:
    """The mean of the last `window` prices, exact in decimals, rounded once to a float."""

    def __init__(self, window: int) -> None:
        self.window = _checked(window)
        self._prices: deque[Decimal] = deque()
        self._sum = Decimal(0)

    def update(self, price: float) -> None:
        """Takes a new price; the oldest leaves the window."""
        exact = Decimal(repr(float(price)))
        self._prices.append(exact)
        self._sum += exact
        if len(self._prices) > self.window:
            self._sum -= self._prices.popleft()

    def replace(self, price: float) -> None:
        """Takes a newer price in place of the last one. Raises: IndexError, when there is none."""
        self._sum -= self._prices.pop()
        self.update(price)

    @property
    def ready(self) -> bool:
        """Whether the window is full."""
        return len(self._prices) == self.window

    def get_value(self) -> float:
        """The average in the price's unit; nan until `ready`."""
        return float(self._sum / self.window) if self.ready else math.nan


class _Talipp:
    """An indicator of talipp behind the names used here, with bounded memory."""

    def __init__(self, window: int, indicator: Any) -> None:
        self.window = _checked(window)
        self._indicator = indicator

    def update(self, price: float) -> None:
        """Takes a new price."""
        self._indicator.add(float(price))
        kept = len(self._indicator.input_values)
        # talipp keeps every price for ever. It needs one more than its window to go on.
        if kept > 1_000 + 4 * self.window:
            self._indicator.purge_oldest(kept - 4 * self.window)

    def replace(self, price: float) -> None:
        """Takes a newer price in place of the last one."""
        self._indicator.update(float(price))

    @property
    def ready(self) -> bool:
        """Whether enough prices have come."""
        return not math.isnan(self.get_value())

    def get_value(self) -> float:
        """The indicator's value; nan until `ready`."""
        values = self._indicator.output_values
        return math.nan if not values or values[-1] is None else float(values[-1])


class EMA(_Talipp):
    """The exponential moving average with weight 2 / (window + 1), begun with a simple mean."""

    def __init__(self, window: int) -> None:
        super().__init__(window, talipp.indicators.EMA(window))


class RSI(_Talipp):
    """Wilder's relative strength index, 0 to 100."""

    def __init__(self, window: int = 14) -> None:
        super().__init__(_checked(window, least=2), talipp.indicators.RSI(window))


def _checked(window: int, least: int = 1) -> int:
    if window < least:
        raise ValueError(f"This indicator's window is at least {least}; got {window}.")
    return window

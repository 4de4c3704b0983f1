"""Twice Palantir, while Palantir is in an upward trend.

PTIR returns twice the day's move of PLTR. The share itself says when to hold it.
"""

from services.strategy.above_average import AboveAverage


class PTIR(AboveAverage):
    """Holds PTIR while PLTR is above its average of 50 sessions."""

    name = "IncredibleLeverage_PTIR"
    symbol = "PLTR"
    positionSymbol = "PTIR"  # noqa: N815 - the documented name
    sma_window = 50

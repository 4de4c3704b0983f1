"""Twice Broadcom, while Broadcom is in an upward trend.

AVL returns twice the day's move of AVGO. The share itself says when to hold it.
"""

from services.strategy.above_average import AboveAverage


class AVL(AboveAverage):
    """Holds AVL while AVGO is above its average of 50 sessions."""

    name = "IncredibleLeverage_AVL"
    symbol = "AVGO"
    positionSymbol = "AVL"  # noqa: N815 - the documented name
    sma_window = 50

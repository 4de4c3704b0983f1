"""Twice NVIDIA, while NVIDIA is in an upward trend.

NVDL returns twice the day's move of NVDA. The share itself says when to hold it.
"""

from services.strategy.above_average import AboveAverage


class NVDL(AboveAverage):
    """Holds NVDL while NVDA is above its average of 50 sessions."""

    name = "IncredibleLeverage_NVDL"
    symbol = "NVDA"
    positionSymbol = "NVDL"  # noqa: N815 - the documented name
    sma_window = 50

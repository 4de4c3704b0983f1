"""Three times the S&P 500, while the index is in an upward trend.

SPXL returns three times the day's move of the S&P 500. SPY, which follows the index itself, says
when to hold it: its average is not distorted by the leverage.
"""

from services.strategy.above_average import AboveAverage


class SPXL(AboveAverage):
    """Holds SPXL while SPY is above its average of 50 sessions."""

    name = "IncredibleLeverage_SPXL"
    symbol = "SPY"
    positionSymbol = "SPXL"  # noqa: N815 - the documented name
    sma_window = 50

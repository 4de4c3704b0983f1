"""Robinhood, while Robinhood is in an upward trend.

HOOD is held unleveraged: the share moves more in a day than most leveraged funds do.
"""

from services.strategy.above_average import AboveAverage


class HOOD(AboveAverage):
    """Holds HOOD while HOOD is above its average of 50 sessions."""

    name = "IncredibleLeverage_HOOD"
    symbol = "HOOD"
    positionSymbol = "HOOD"  # noqa: N815 - the documented name
    sma_window = 50

"""The idea that the five strategies share: be there while the trend is up.

A leveraged fund multiplies each day's move of what it is leveraged on, and loses most in long
declines. So hold it only while the price of what it follows is above its moving average, and hold
cash otherwise. The price at the average counts as not above it.
"""

from typing import ClassVar

from SureshotSDK.Scheduler import Scheduler


class AboveAverage(Scheduler):
    """Holds `positionSymbol` while the price of `symbol` is above its moving average."""

    name: ClassVar[str]

    def on_data(self, price: float) -> None:
        """Buys all when the price is above the average, sells all when it is not."""
        if price > self.sma.get_value():
            if not self.invested:
                self.buy_all(self.positionSymbol)
        elif self.invested:
            self.sell_all(self.positionSymbol)

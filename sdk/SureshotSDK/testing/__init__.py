# ruff: noqa: N999 - the documented import path
"""For people who write strategies: a portfolio in memory, a clock by hand, a run over prices.

from SureshotSDK.testing import run_over

def test_it_buys_when_the_price_rises_above_its_average():
    portfolio = run_over(MyStrategy(sma_window=3), [10, 10, 10, 11])
    assert portfolio.invested("MyStrategy_SPXL")
"""

from SureshotSDK.testing._memory import InMemoryPortfolio
from SureshotSDK.testing._run import ManualClock, prices_feed, run_over

__all__ = ["InMemoryPortfolio", "ManualClock", "prices_feed", "run_over"]

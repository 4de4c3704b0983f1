"""Indicators: the average is pandas' rolling mean, and the same wherever it began."""

import math

import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st

from SureshotSDK.indicators import EMA, RSI, SMA

CENTS = st.integers(min_value=1, max_value=10_000_000).map(lambda cents: cents / 100)


@given(st.lists(CENTS, min_size=1, max_size=80), st.integers(min_value=1, max_value=20))
def test_the_sma_is_the_rolling_mean(prices: list[float], window: int) -> None:
    average = SMA(window)
    values = []
    for price in prices:
        average.update(price)
        values.append(average.get_value())
    expected = pandas.Series(prices).rolling(window).mean().tolist()
    assert values == pytest.approx(expected, rel=1e-9, nan_ok=True)


@given(st.lists(CENTS, min_size=10, max_size=200), CENTS)
def test_the_sma_does_not_depend_on_where_it_began(prices: list[float], noise: float) -> None:
    long, short = SMA(10), SMA(10)
    for price in [noise * 1e6 / 7, *prices]:
        long.update(price)
    for price in prices[-10:]:
        short.update(price)
    assert long.get_value() == short.get_value()


def test_a_price_at_its_average_is_not_above_it() -> None:
    average = SMA(3)
    for price in (5e9, 10.1, 10.1, 10.1):
        average.update(price)
    assert average.get_value() == 10.1


def test_a_newer_price_replaces_the_last_one() -> None:
    average = SMA(2)
    for price in (1, 2, 3):
        average.update(price)
    average.replace(5)
    assert average.get_value() == 3.5


def test_an_indicator_that_is_not_ready_compares_as_false() -> None:
    average = SMA(2)
    average.update(1)
    assert not average.ready
    assert math.isnan(average.get_value())
    assert not average.get_value() < 5
    assert not average.get_value() > 5


def test_the_ema_is_pandas_ewm_begun_with_a_mean_and_keeps_its_memory_bounded() -> None:
    prices = [100 + math.sin(n) * 10 for n in range(3000)]
    average = EMA(10)
    for price in prices:
        average.update(price)
    begun = [sum(prices[:10]) / 10, *prices[10:]]
    expected = pandas.Series(begun).ewm(alpha=2 / 11, adjust=False).mean().iloc[-1]
    assert average.ready
    assert average.get_value() == pytest.approx(expected)
    assert len(average._indicator.input_values) < 1100


def test_the_rsi_is_100_while_prices_only_rise() -> None:
    index = RSI(3)
    assert not index.ready
    for price in range(1, 10):
        index.update(price)
    index.replace(11)
    assert index.get_value() == 100


@pytest.mark.parametrize("make", [lambda: SMA(0), lambda: EMA(-1), lambda: RSI(1)])
def test_a_window_that_is_too_small_is_refused(make: type) -> None:
    with pytest.raises(ValueError, match="at least"):
        make()

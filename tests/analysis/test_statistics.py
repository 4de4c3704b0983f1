"""The statistics are those of established libraries, on real curves and on the odd ones."""

import re
from collections.abc import Sequence
from dataclasses import fields, replace
from datetime import date, timedelta
from functools import cache
from math import inf, isclose, isfinite, nan, prod, sqrt

import empyrical
import numpy as np
import pandas as pd
import pytest
from empyrical.stats import drawdown_series
from hypothesis import assume, given
from hypothesis import strategies as st
from skfolio import measures
from skfolio.datasets import load_sp500_dataset

from services.portfolio.analysis.statistics import (
    SESSIONS_A_YEAR,
    Day,
    Performance,
    Trading,
    drawdowns,
    performance,
    returns_of,
)
from tests.ledger.amounts import PROPERTY

MONDAY = date(2024, 1, 1)
IDLE = Trading(traded_value=0, orders=0, commission=0, slippage=0)
STRETCHES = {
    "one day": slice(0, 1),
    "two days": slice(0, 2),
    "a week": slice(100, 105),
    "the crash of 1990": slice(140, 200),
    "2008 and 2009": slice(4540, 5045),
    "all": slice(None),
}
ODD = {
    "one gain": [0.02],
    "one loss": [-0.02],
    "flat": [0.0] * 30,
    "one flat day": [0.0],
    "the same gain": [0.25] * 12,  # all of it exact in binary: no volatility to the last bit
    "all losing": [-0.01, -0.02, -0.005, -0.03, -0.001, -0.015],
    "all gaining": [0.01, 0.02, 0.005, 0.03],
    "a loss first": [-0.1, 0.02, 0.03, -0.01, 0.2],
    "flat but for one": [0.0] * 20 + [0.01] + [0.0] * 20,
    "loses all at last": [0.01, -0.02, 0.05, -1.0],
    "loses all, and nothing happens then": [0.01, -0.02, -1.0, 0.0, 0.0],
}
# Now and then all is lost, and then stays lost. 50 halvings or doublings are a growth that can be.
RETURNS = st.lists(
    st.floats(-0.5, 1) | st.sampled_from([0.0, -0.0, 1e-9, -1.0]), min_size=1, max_size=50
)


def days_of(growth: Sequence[float], equity: float = 1000, exposure: float = 1) -> list[Day]:
    """A curve of one close a day, from MONDAY on."""
    return [
        Day(MONDAY + timedelta(days), float(index), equity * float(index), exposure)
        for days, index in enumerate(growth)
    ]


def days_after(returns: Sequence[float]) -> list[Day]:
    return days_of([float(index) for index in np.cumprod(1 + np.array(returns))])


@cache
def prices() -> pd.DataFrame:
    closes: pd.DataFrame = load_sp500_dataset()
    return closes


def stock(name: str, stretch: str) -> tuple[list[Day], pd.Series]:
    """The curve of a stock bought at the close before the stretch, and its returns by pandas."""
    returns = prices()[name].pct_change().iloc[1:][STRETCHES[stretch]]
    before = int(prices().index.searchsorted(returns.index[0])) - 1
    growth = prices()[name].loc[returns.index] / prices()[name].iloc[before]
    days = [
        Day(session.date(), index, 100_000 * index, 1.0)
        for session, index in zip(pd.DatetimeIndex(growth.index), growth.tolist(), strict=True)
    ]
    return days, returns


def same(ours: float | None, theirs: float) -> bool:
    """Equal to 1e-9; None is what the libraries give as NaN or infinite."""
    if ours is None:
        return not isfinite(theirs)
    return isclose(ours, theirs, rel_tol=1e-9, abs_tol=1e-12)


def require_same_as_empyrical(days: list[Day], returns: pd.Series) -> None:
    ours = performance(days, IDLE)
    theirs = {
        "total_return": empyrical.cum_returns_final(returns),
        "annual_return": empyrical.annual_return(returns),
        "volatility": empyrical.annual_volatility(returns),
        "sharpe_ratio": empyrical.sharpe_ratio(returns),
        "sortino_ratio": empyrical.sortino_ratio(returns),
        "max_drawdown": -empyrical.max_drawdown(returns),
        "calmar_ratio": empyrical.calmar_ratio(returns),
        "drawdown": -drawdown_series(returns).iloc[-1],
    }
    for name, figure in theirs.items():
        assert same(getattr(ours, name), figure), (name, getattr(ours, name), figure)
    assert ours.days == len(returns)


def require_same_as_skfolio(days: list[Day], returns: pd.Series) -> None:
    ours = performance(days, IDLE)
    daily = returns.to_numpy()
    falls = measures.get_drawdowns(daily, compounded=True)
    deviation = measures.standard_deviation(daily)
    downside = measures.semi_deviation(daily, min_acceptable_return=0, biased=True)
    year = sqrt(SESSIONS_A_YEAR)
    with np.errstate(divide="ignore"):  # a week may be without a loss
        theirs = {
            "volatility": deviation * year,
            "sharpe_ratio": measures.mean(daily) / deviation * year,
            "sortino_ratio": measures.mean(daily) / downside * year,
            "max_drawdown": measures.max_drawdown(falls),
        }
    for name, figure in theirs.items():
        assert same(getattr(ours, name), float(figure)), (name, getattr(ours, name), figure)
    np.testing.assert_allclose(drawdowns(days), -falls, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("stretch", STRETCHES)
def test_every_figure_of_real_curves_is_empyricals(stretch: str) -> None:
    assert prices().shape == (8313, 20)
    for name in prices().columns:
        require_same_as_empyrical(*stock(name, stretch))


@pytest.mark.parametrize("stretch", ["a week", "the crash of 1990", "2008 and 2009", "all"])
def test_risk_of_real_curves_is_skfolios(stretch: str) -> None:
    for name in prices().columns:
        require_same_as_skfolio(*stock(name, stretch))


@pytest.mark.parametrize("odd", ODD)
def test_every_figure_of_an_odd_curve_is_empyricals(odd: str) -> None:
    require_same_as_empyrical(days_after(ODD[odd]), pd.Series(ODD[odd]))


@PROPERTY
@given(st.lists(st.integers(-5000, 10_000).map(lambda bp: bp / 10_000), min_size=1, max_size=50))
def test_every_figure_of_any_curve_is_empyricals(returns: list[float]) -> None:
    # Whether equal returns have a volatility is a matter of the last bit; a test below is on that.
    assume(len(returns) == 1 or len(set(returns)) > 1)
    require_same_as_empyrical(days_after(returns), pd.Series(returns))


def test_returns_of_real_curves_are_those_of_the_prices() -> None:
    for name in prices().columns:
        days, returns = stock(name, "all")
        assert len(days) == 8312
        np.testing.assert_allclose(returns_of(days), returns, rtol=1e-9, atol=1e-12)


def test_the_win_rate_of_real_curves_counts_gains_and_losses_alone() -> None:
    for name in prices().columns:
        days, returns = stock(name, "all")
        gains, losses = int((returns > 0).sum()), int((returns < 0).sum())
        assert 0 < gains + losses < len(returns)
        assert performance(days, IDLE).win_rate == gains / (gains + losses)


def test_the_figures_of_a_week_are_those_by_hand() -> None:
    growth = [1.01, 1.01, 0.909, 0.9999, 1.0]
    equity = [1010.0, 2020.0, 1818.0, 1999.8, 2000.0]
    exposure = [1.0, 0.0, 1.0, 0.5, 0.0]
    days = [
        Day(MONDAY + timedelta(number), *close)
        for number, close in enumerate(zip(growth, equity, exposure, strict=True))
    ]
    trading = Trading(traded_value=6000, orders=4, commission=4.5, slippage=-1.25)

    week = performance(days, trading)

    assert returns_of(days) == pytest.approx([0.01, 0, -0.1, 0.1, 0.0001 / 0.9999])
    assert drawdowns(days) == pytest.approx([0, 0, 0.1, 0.01, 0.01 / 1.01])
    assert (week.first_session, week.last_session, week.days) == (MONDAY, date(2024, 1, 5), 5)
    assert week.total_return == 0
    assert week.annual_return == 0
    assert week.calmar_ratio == 0
    assert week.max_drawdown == pytest.approx(0.1)
    assert week.drawdown == pytest.approx(0.01 / 1.01)
    assert week.exposure == 0.5
    assert week.turnover == pytest.approx(3000 / 1769.56 * 252 / 5)
    assert week.win_rate == 3 / 4
    assert (week.orders, week.commission, week.slippage) == (4, 4.5, -1.25)


def test_all_of_the_equity_bought_and_sold_once_in_a_year_is_a_turnover_of_1() -> None:
    days = days_of([1.0] * SESSIONS_A_YEAR, equity=50_000)

    year = performance(days, replace(IDLE, traded_value=100_000, orders=2))

    assert year.turnover == 1


def test_no_days_have_no_figures() -> None:
    none = performance([], IDLE)

    undefined = {field.name for field in fields(none) if getattr(none, field.name) is None}
    assert undefined == {field.name for field in fields(none)} - {
        "days",
        "orders",
        "commission",
        "slippage",
    }
    assert none.days == 0


@pytest.mark.parametrize(
    ("returns", "undefined"),
    [
        ([0.02], {"volatility", "sharpe_ratio", "sortino_ratio", "calmar_ratio"}),
        ([-0.02], {"volatility", "sharpe_ratio", "sortino_ratio"}),
        ([0.0, 0.0, 0.0], {"sharpe_ratio", "sortino_ratio", "calmar_ratio", "win_rate"}),
        ([0.01, 0.02], {"sortino_ratio", "calmar_ratio"}),
        ([-0.01, 0.02], set()),
    ],
)
def test_a_figure_that_is_not_defined_is_none(returns: list[float], undefined: set[str]) -> None:
    figures = performance(days_after(returns), IDLE)

    assert {field.name for field in fields(figures) if getattr(figures, field.name) is None} == (
        undefined
    )


def test_steady_growth_that_no_float_holds_exactly_has_no_sharpe_ratio() -> None:
    days = days_of([1.0001**number for number in range(1, 501)])
    noise = np.array(returns_of(days)).std()
    assert 0 < noise < 1e-15

    steady = performance(days, IDLE)

    assert steady.sharpe_ratio is None
    assert steady.volatility == pytest.approx(0, abs=1e-12)


def test_a_last_digit_lost_is_no_loss() -> None:
    days = days_of([1.25, 1.25 - 2.3e-16, 1.5])
    assert min(returns_of(days)) < 0 < max(drawdowns(days))

    figures = performance(days, IDLE)

    assert (figures.sortino_ratio, figures.calmar_ratio, figures.win_rate) == (None, None, 1)


def test_the_smallest_loss_that_a_ledger_of_ten_billion_shows_counts() -> None:
    cent = 0.01 / 5e9
    figures = performance(days_of([1.0, 1 - cent, 1.5]), IDLE)

    assert figures.win_rate == 1 / 2
    assert figures.max_drawdown == pytest.approx(cent, rel=1e-3)
    assert figures.sortino_ratio is not None
    assert figures.calmar_ratio is not None


def test_without_equity_there_is_no_turnover() -> None:
    days = days_of([1.0, 1.0], equity=0, exposure=0)

    figures = performance(days, replace(IDLE, traded_value=100))

    assert (figures.turnover, figures.exposure) == (None, 0)


@pytest.mark.parametrize("growth", [-0.01, nan, inf, 1e-19, 1e21])
def test_a_growth_that_the_ledger_cannot_hold_is_refused(growth: float) -> None:
    days = days_of([1.0, growth], equity=0)
    days[1] = replace(days[1], equity=5.0)

    for figures_of in (returns_of, drawdowns, lambda days: performance(days, IDLE)):
        said = re.escape(f"2024-01-02 has growth {growth}, equity 5.0 and exposure 1.")
        with pytest.raises(ValueError, match=said):
            figures_of(days)


@pytest.mark.parametrize("figure", [nan, inf, -inf])
def test_an_equity_or_exposure_that_is_no_number_is_refused(figure: float) -> None:
    with pytest.raises(ValueError, match=f"equity {figure} and"):
        performance([Day(MONDAY, 1.0, figure, 1.0)], IDLE)
    with pytest.raises(ValueError, match=f"exposure {figure}\\."):
        performance([Day(MONDAY, 1.0, 1.0, figure)], IDLE)


def test_sessions_out_of_order_or_twice_are_refused() -> None:
    first, second = days_of([1.0, 1.1])
    for days in ([second, first], [first, first]):
        with pytest.raises(ValueError, match="Give each session once, the earliest first"):
            performance(days, IDLE)


def test_growth_out_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"from 0 on 2024-01-02 to 0\.5 on 2024-01-03"):
        performance(days_of([1.0, 0.0, 0.5]), IDLE)


@PROPERTY
@given(RETURNS)
def test_the_returns_link_to_the_total_return(returns: list[float]) -> None:
    days = days_after(returns)

    linked = prod(1 + change for change in returns_of(days))

    assert isclose(linked, days[-1].growth, rel_tol=1e-12)
    assert performance(days, IDLE).total_return == days[-1].growth - 1


@PROPERTY
@given(RETURNS)
def test_a_drawdown_is_from_0_to_1_and_none_is_above_the_maximum(returns: list[float]) -> None:
    days = days_after(returns)
    figures = performance(days, IDLE)
    falls = drawdowns(days)

    assert figures.max_drawdown == max(falls)
    assert figures.drawdown == falls[-1]
    assert all(0 <= fall <= 1 for fall in falls)
    if -1.0 in returns:
        assert figures.max_drawdown == figures.drawdown == 1


@PROPERTY
@given(RETURNS, st.floats(1e-3, 1e9), st.floats(0, 1e6))
def test_more_money_changes_no_ratio(returns: list[float], scale: float, traded: float) -> None:
    days = days_after(returns)
    larger = [replace(day, equity=day.equity * scale) for day in days]

    one = performance(days, replace(IDLE, traded_value=traded))
    other = performance(larger, replace(IDLE, traded_value=traded * scale))

    assert replace(one, turnover=None) == replace(other, turnover=None)
    if one.turnover is None or other.turnover is None:
        assert one.turnover == other.turnover
    else:
        assert isclose(one.turnover, other.turnover, rel_tol=1e-12)


@PROPERTY
@given(
    st.lists(st.floats(1e-18, 1e20) | st.sampled_from([1e-18, 1.0, 1e20]), max_size=40),
    st.booleans(),
    st.floats(-1e20, 1e20),
)
def test_no_figure_is_ever_nan_or_infinite(
    growth: list[float], loses_all: bool, equity: float
) -> None:
    days = [replace(day, equity=equity) for day in days_of([*growth, 0.0] if loses_all else growth)]

    figures = performance(days, replace(IDLE, traded_value=1e20))

    assert all(isfinite(figure) for figure in floats_of(figures))


def floats_of(figures: Performance) -> list[float]:
    values = [getattr(figures, field.name) for field in fields(figures)]
    return [value for value in values if isinstance(value, float)]


def test_a_year_that_grows_beyond_all_floats_has_no_annual_return() -> None:
    figures = performance(days_of([100.0]), IDLE)

    assert figures.annual_return is None
    assert figures.total_return == 99
    with np.errstate(over="ignore"):
        assert empyrical.annual_return(pd.Series([99.0])) == inf


def test_a_ratio_beyond_all_floats_is_none() -> None:
    growth = 10 ** (307 / 126)  # in two days: 1e307 in a year of 252

    figures = performance(days_of([growth / 0.99, growth]), IDLE)

    assert figures.annual_return == pytest.approx(1e307)
    assert figures.max_drawdown == pytest.approx(0.01)
    assert figures.calmar_ratio is None

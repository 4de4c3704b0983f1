"""How a strategy, or the whole, has done: return, risk and trading from its daily closes. Pure.

Floats, not Decimal: these figures describe the ledger, nothing is booked from them, and roots and
powers are not exact in any arithmetic. Sums are (math.fsum), so that a long history adds no noise.
A year has 252 sessions and the risk-free rate is 0 throughout.

Returns are time-weighted: they come from the growth index, which deposits and transfers leave as
it is (CFA Institute, Global Investment Performance Standards for Firms, 2020).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from itertools import pairwise
from math import fsum, isfinite, sqrt

SESSIONS_A_YEAR = 252
# What is not larger cannot be told from 0: a growth of 18 decimals held in a float has about that
# much noise after some years, and of ten billion USD it is a cent. A ratio over it means nothing.
NOISE = 1e-12
LEAST_GROWTH, MOST_GROWTH = 1e-18, 1e20  # what NUMERIC(38, 18) holds, besides 0


@dataclass(frozen=True, slots=True)
class Day:
    """A book, or the whole, at the close of one session."""

    session: date
    growth: float  # what 1 USD put in at the beginning has become; 0 once all is lost
    equity: float  # USD
    exposure: float  # value of the positions / equity; 0 when equity is 0


@dataclass(frozen=True, slots=True)
class Trading:
    """What was traded over the same sessions, and what that cost. In USD, finite."""

    traded_value: float  # purchases and sales together
    orders: int  # filled in whole or in part
    commission: float
    slippage: float  # what fills were worse than the prices seen; below 0 when better


@dataclass(frozen=True, slots=True)
class Performance:
    """The figures of a curve. Returns, volatility and drawdowns are shares: 0.01 is 1 %.

    A figure that is not defined is None (too few days, no volatility, no drawdown, no equity) and
    so is one that no float can hold; none is ever NaN or infinite.
    """

    first_session: date | None
    last_session: date | None
    days: int
    total_return: float | None
    annual_return: float | None
    volatility: float | None  # a year
    sharpe_ratio: float | None
    sortino_ratio: float | None
    max_drawdown: float | None  # 0 to 1
    calmar_ratio: float | None
    drawdown: float | None  # the present one, 0 to 1
    exposure: float | None  # mean of the closes
    turnover: float | None  # a year
    win_rate: float | None  # 0 to 1
    orders: int
    commission: float  # USD
    slippage: float  # USD


def possible_growth(growth: float) -> float:
    """Growth as a curve may have it: a LIVE book that owes more than it has counts as lost."""
    return growth if growth >= LEAST_GROWTH else 0.0


def performance(days: Sequence[Day], trading: Trading) -> Performance:
    """All figures of a curve from its first close on, and of the trading in the same sessions.

    A part of a longer curve is one of its own once its growth is divided by the growth at the close
    before it.

    Raises:
        ValueError: The days are not in order, or a figure of one of them cannot be.
    """
    returns = returns_of(days)
    falls = drawdowns(days)
    annual_return = _annual_return(days)
    max_drawdown = max(falls, default=None)
    return Performance(
        first_session=days[0].session if days else None,
        last_session=days[-1].session if days else None,
        days=len(days),
        total_return=days[-1].growth - 1 if days else None,
        annual_return=annual_return,
        volatility=_volatility(returns),
        sharpe_ratio=_sharpe_ratio(returns),
        sortino_ratio=_sortino_ratio(returns),
        max_drawdown=max_drawdown,
        calmar_ratio=_calmar_ratio(annual_return, max_drawdown),
        drawdown=falls[-1] if falls else None,
        exposure=_mean([day.exposure for day in days]),
        turnover=_turnover(days, trading.traded_value),
        win_rate=_win_rate(returns),
        orders=trading.orders,
        commission=trading.commission,
        slippage=trading.slippage,
    )


def returns_of(days: Sequence[Day]) -> list[float]:
    """The time-weighted return of each day, as a share; the first day's is from a growth of 1.

    Source: GIPS 2020, time-weighted returns, which link geometrically to the total return.
    Once all is lost nothing is left to gain or lose: the returns from then on are 0.

    Raises:
        ValueError: The days are not in order, or a figure of one of them cannot be.
    """
    _require_curve(days)
    growth = [1.0, *(day.growth for day in days)]
    return [after / before - 1 if before else 0.0 for before, after in pairwise(growth)]


def drawdowns(days: Sequence[Day]) -> list[float]:
    """How far growth is below its highest so far, at each close: 0 at a high, 1 when all is lost.

    The first high is 1, so that a curve which begins with a loss begins with a drawdown. The
    largest is the maximum drawdown (M. Magdon-Ismail and A. Atiya, Maximum Drawdown, Risk 17(10),
    2004).

    Raises:
        ValueError: The days are not in order, or a figure of one of them cannot be.
    """
    _require_curve(days)
    highest = 1.0
    falls = []
    for day in days:
        highest = max(highest, day.growth)
        falls.append(1 - day.growth / highest)
    return falls


def _require_curve(days: Sequence[Day]) -> None:
    for day in days:
        possible = not day.growth or LEAST_GROWTH <= day.growth <= MOST_GROWTH
        if not (possible and isfinite(day.equity) and isfinite(day.exposure)):
            raise ValueError(
                f"The close of {day.session} has growth {day.growth}, equity {day.equity} and "
                f"exposure {day.exposure}. Growth must be 0 or from {LEAST_GROWTH} to "
                f"{MOST_GROWTH}, equity and exposure finite: correct the valuation."
            )
    for before, after in pairwise(days):
        if before.session >= after.session:
            raise ValueError(
                f"The close of {after.session} comes after that of {before.session}. "
                "Give each session once, the earliest first."
            )
        if not before.growth and after.growth:
            raise ValueError(
                f"Growth rose from 0 on {before.session} to {after.growth} on {after.session}, "
                "but nothing grows out of 0: begin a new curve."
            )


def _annual_return(days: Sequence[Day]) -> float | None:
    """The yearly return that compounds to the total return; the geometric mean of the returns.

    Source: GIPS 2020, which does not let less than a year be annualized: show the number of days
    beside it. None without days, and beyond what a float holds.
    """
    if not days:
        return None
    try:
        compounded: float = days[-1].growth ** (SESSIONS_A_YEAR / len(days))
    except OverflowError:
        return None
    return compounded - 1


def _volatility(returns: Sequence[float]) -> float | None:
    """Sample standard deviation of the returns, a year. None under two days.

    Source: W. F. Sharpe, The Sharpe Ratio, Journal of Portfolio Management 21(1), 1994: days are
    taken to be independent, so that variance grows with time.
    """
    deviation = _deviation(returns)
    return None if deviation is None else deviation * sqrt(SESSIONS_A_YEAR)


def _sharpe_ratio(returns: Sequence[float]) -> float | None:
    """Mean daily return over its sample standard deviation, a year.

    Source: W. F. Sharpe, The Sharpe Ratio, Journal of Portfolio Management 21(1), 1994, ex post and
    over cash that earns nothing. None under two days and without volatility.
    """
    return _annual(_ratio(_mean(returns), _deviation(returns)))


def _sortino_ratio(returns: Sequence[float]) -> float | None:
    """Mean daily return over the root mean square of the losses, gains counted as 0, a year.

    Source: F. A. Sortino and L. N. Price, Performance Measurement in a Downside Risk Framework,
    Journal of Investing 3(3), 1994, with 0 as the least that is accepted. None under two days and
    without a loss.
    """
    if len(returns) < 2:
        return None
    downside = sqrt(fsum(min(change, 0.0) ** 2 for change in returns) / len(returns))
    return _annual(_ratio(_mean(returns), downside))


def _calmar_ratio(annual_return: float | None, max_drawdown: float | None) -> float | None:
    """Annual return over maximum drawdown.

    Source: T. W. Young, Calmar Ratio: A Smoother Tool, Futures, October 1991; of the whole curve,
    where Young takes the last 36 months. None without a drawdown.
    """
    return _ratio(annual_return, max_drawdown)


def _turnover(days: Sequence[Day], traded_value: float) -> float | None:
    """Half of all that was bought and sold, over the mean equity, a year; 1 is all of it once.

    Source: SEC Form N-1A, Item 13, portfolio turnover rate. That takes the lesser of purchases and
    sales over the mean value of the securities. Here it is the mean of the two, as a book that
    only buys has traded too, over the equity, as a book in cash holds no securities. None without
    days or equity.
    """
    a_year = _ratio(traded_value / 2 * SESSIONS_A_YEAR, _mean([day.equity for day in days]))
    return None if a_year is None else a_year / len(days)


def _win_rate(returns: Sequence[float]) -> float | None:
    """Days with a gain, of the days with a gain or a loss: days in cash count as neither.

    Source: a convention, QuantStats' win_rate. None without such a day.
    """
    gains = sum(change > NOISE for change in returns)
    losses = sum(change < -NOISE for change in returns)
    return gains / (gains + losses) if gains + losses else None


def _mean(figures: Sequence[float]) -> float | None:
    return fsum(figures) / len(figures) if figures else None


def _deviation(returns: Sequence[float]) -> float | None:
    """Sample standard deviation (n - 1), a day. None under two days."""
    mean = _mean(returns)
    if mean is None or len(returns) < 2:
        return None
    return sqrt(fsum((change - mean) ** 2 for change in returns) / (len(returns) - 1))


def _ratio(numerator: float | None, denominator: float | None) -> float | None:
    """None if either is, if the denominator is not above NOISE, or if no float holds the ratio."""
    if numerator is None or denominator is None or denominator <= NOISE:
        return None
    ratio = numerator / denominator
    return ratio if isfinite(ratio) else None


def _annual(daily_ratio: float | None) -> float | None:
    """A ratio of means a day to deviations a day, as a ratio a year (Sharpe 1994)."""
    return None if daily_ratio is None else daily_ratio * sqrt(SESSIONS_A_YEAR)

"""Allocation policies: from strategies' daily returns to weights.

Every policy keeps the limits. Equal, fixed, inverse-volatility and risk-parity weights are found
first and fitted into the limits, in proportion; for minimum variance and maximum Sharpe the limits
are part of the problem. What a policy cannot do, its fallback does, and the solution says why.
Floats throughout: these are estimates, and the ledger rounds what it makes of them.
"""

from dataclasses import dataclass, replace

import numpy as np

from services.portfolio.allocation import convex
from services.portfolio.allocation.convex import NoAllocationError
from services.portfolio.allocation.estimates import Estimates, Matrix, judged
from services.portfolio.allocation.limits import (
    DUST,
    HALVINGS,
    Limits,
    Mask,
    Vector,
    fitted,
    nearest,
    reconciled,
)
from services.portfolio.allocation.request import Solution
from services.portfolio.domain.capital import Method, RiskReturn

JUDGING = frozenset(Method) - {Method.EQUAL, Method.FIXED}  # by what strategies have done
SMALLEST_WEIGHT = 1e-7  # what a solver leaves of a weight that should be at its lower bound


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Weights are wanted for N strategies. All weights are shares of the capital."""

    method: Method
    fallback: Method
    names: tuple[str, ...]
    returns: Matrix  # (T, N) daily, simple; NaN before a strategy's first day
    current: Vector  # (N,)
    lower: Vector  # (N,)
    upper: Vector  # (N,)
    fixed: Vector  # (N,), for FIXED; what they leave stays cash
    cash_floor: float = 0.0  # 0 to 1; all else is invested
    max_turnover: float | None = None  # sum of |new - current| / 2; None: any
    min_days: int = 60
    frontier_points: int = 0


def solve(problem: Problem) -> Solution:
    """Finds the weights by the method, or by the fallback, or equal ones, which always exist.

    A strategy that may hold something but has too little history gets an equal share, within its
    bounds and as far as the turnover limit allows; the method divides the rest among the others.
    The same input gives the same weights, whatever the order of the names.
    """
    problem = _in_order(problem)
    history = judged(problem.returns, problem.min_days)
    reasons: list[str] = []
    for method in dict.fromkeys((problem.method, problem.fallback, Method.EQUAL)):
        limits, conflict = reconciled(_limits(problem, method))
        if conflict:
            reasons.append(conflict)
            if method in JUDGING and method is not problem.fallback:
                continue
            weights = fitted(limits, np.ones(len(problem.names)))  # nothing is left to choose
            break
        try:
            weights = _weights(method, problem, limits, history)
        except NoAllocationError as error:
            reasons.append(str(error))
            continue
        break
    if method is not problem.method:
        reasons.append(f"The weights are by {method}; {problem.method} was asked for.")
    return Solution(
        weights=dict(zip(problem.names, weights.tolist(), strict=True)),
        method=method,
        because=" ".join(dict.fromkeys(reasons)),
        notes=_notes(problem, method, history),
        days=len(history.returns) if history.known.any() else 0,
        current=history.point(problem.current),
        proposed=history.point(weights),
        strategies=_strategies(problem.names, history),
        frontier=_frontier(problem, history),
    )


def _in_order(problem: Problem) -> Problem:
    """The same problem with its names sorted."""
    order = sorted(range(len(problem.names)), key=lambda place: problem.names[place])
    return replace(
        problem,
        names=tuple(problem.names[place] for place in order),
        returns=problem.returns[:, order],
        current=problem.current[order],
        lower=problem.lower[order],
        upper=problem.upper[order],
        fixed=problem.fixed[order],
    )


def _limits(problem: Problem, method: Method) -> Limits:
    """What the weights must keep. All that may be invested is, except that FIXED takes its word."""
    upper = np.minimum(problem.upper, 1.0)
    budget = 1 - problem.cash_floor
    if method is Method.FIXED and problem.fixed.any():
        budget = min(budget, float(np.clip(problem.fixed, problem.lower, upper).sum()))
    most = np.inf if problem.max_turnover is None else 2 * problem.max_turnover
    return Limits(problem.lower, upper, budget, problem.current, float(most))


def _weights(method: Method, problem: Problem, limits: Limits, history: Estimates) -> Vector:
    """The weights (N,) by one method.

    Raises:
        NoAllocationError: It has no answer to this problem.
    """
    if method is Method.EQUAL:
        return fitted(limits, np.ones(len(problem.names)))
    if method is Method.FIXED:
        if not problem.fixed.any():
            raise NoAllocationError("No strategy has a fixed weight.")
        return fitted(limits, problem.fixed)
    judging = history.known & (limits.upper > 0)
    if judging.sum() < 2:
        raise NoAllocationError(
            f"{method} needs 2 strategies with {problem.min_days} days of history, and "
            f"{judging.sum()} of {len(problem.names)} have them."
        )
    weights = _given(limits, judging)
    rest = limits.of(judging, weights)
    weights[judging] = _by_history(method, history.returns[:, judging[history.known]], rest)
    return weights


def _given(limits: Limits, judging: Mask) -> Vector:
    """What strategies get that the method does not judge: nothing, or an equal share if they may.

    They go towards their equal share as far as the others' bounds and the turnover limit allow.

    Raises:
        NoAllocationError: Their bounds leave the others no room.
    """
    may = limits.upper > 0
    share = np.where(may, limits.budget / max(may.sum(), 1), 0.0)
    share = np.clip(share, limits.lower, limits.upper)
    start = np.clip(limits.current, limits.lower, limits.upper)

    def on_the_way(part: float) -> Vector:
        return np.where(judging, limits.current, start + part * (share - start))

    def leaves_room(part: float) -> bool:
        given = on_the_way(part)
        spent = limits.moved(given)
        return spent <= limits.max_moved and limits.of(judging, given).reachable()

    if leaves_room(1.0):
        return on_the_way(1.0)
    if not leaves_room(0.0):
        raise NoAllocationError(
            "What strategies without enough history hold leaves no room for the others within "
            "their bounds and the turnover limit."
        )
    least, most = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (least + most) / 2
        least, most = (middle, most) if leaves_room(middle) else (least, middle)
    return on_the_way(least)


def _by_history(method: Method, returns: Matrix, limits: Limits) -> Vector:
    """The weights (K,) of the strategies that are judged by their returns (T, K)."""
    if method is Method.INVERSE_VOLATILITY:
        return fitted(limits, 1 / returns.std(axis=0))
    if method is Method.RISK_PARITY:
        return fitted(limits, convex.risk_parity(returns))
    if _is_one_point(limits):
        return nearest(limits)
    if method is Method.MINIMUM_VARIANCE:
        weights = convex.minimum_variance(returns, limits)
    else:
        weights = convex.maximum_sharpe(returns, limits)
    # The solver keeps the limits to its tolerance; fitted, they are kept to the letter.
    weights = np.where(weights - limits.lower < SMALLEST_WEIGHT, limits.lower, weights)
    return fitted(limits, weights)


def _is_one_point(limits: Limits) -> bool:
    """Whether the limits leave nothing to choose, which a solver would only stumble over."""
    return (
        limits.budget < DUST
        or limits.budget - limits.lower.sum() < DUST
        or limits.upper.sum() - limits.budget < DUST
        or limits.max_moved - limits.moved(nearest(limits)) < DUST
    )


def _notes(problem: Problem, method: Method, history: Estimates) -> dict[str, str]:
    """Why strategies are not judged by their history, where the method would judge them."""
    if method not in JUDGING:
        return {}
    return {
        problem.names[place]: f"{lack}; its share is an equal one"
        for place, lack in sorted(history.lacking.items())
        if problem.upper[place] > 0
    }


def _strategies(names: tuple[str, ...], history: Estimates) -> dict[str, RiskReturn]:
    """Each known strategy's own risk and return."""
    volatility = np.sqrt(np.diag(history.covariance))
    return {
        names[place]: RiskReturn(float(risk), float(mean))
        for place, risk, mean in zip(
            np.flatnonzero(history.known), volatility, history.mean, strict=True
        )
    }


def _frontier(problem: Problem, history: Estimates) -> tuple[RiskReturn, ...]:
    """The efficient frontier within bounds and cash floor; empty if there is nothing to choose."""
    limits, _ = reconciled(replace(_limits(problem, Method.EQUAL), max_moved=np.inf))
    judging = history.known & (limits.upper > 0)
    if problem.frontier_points < 2 or judging.sum() < 2:
        return ()
    try:
        weights = _given(limits, judging)
        rest = limits.of(judging, weights)
        if _is_one_point(rest):
            return ()
        found = convex.frontier(
            history.returns[:, judging[history.known]], rest, problem.frontier_points
        )
    except NoAllocationError:
        return ()
    points = []
    for chosen in found:
        weights[judging] = chosen
        points.append(history.point(weights))
    return tuple(point for point in points if point is not None)

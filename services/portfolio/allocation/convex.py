"""The policies that a solver finds, on skfolio's formulations.

They are solved by Clarabel's supernodal method (faer), which takes a third of the time of its
default for 1,000 strategies. Returns are scaled first: weights do not depend on the scale, a
solver's tolerances do.
"""

import warnings
from collections.abc import Callable
from typing import Any

import cvxpy
import numpy as np
from skfolio import RiskMeasure
from skfolio.exceptions import OptimizationError
from skfolio.moments import LedoitWolf
from skfolio.optimization import MeanRisk, ObjectiveFunction, RiskBudgeting
from skfolio.prior import EmpiricalPrior

from services.portfolio.allocation.estimates import DAYS_A_YEAR, Matrix
from services.portfolio.allocation.limits import Limits, Vector

TOLERANCES = (1e-11, 1e-9, 1e-7)  # each where the one before cannot be met
FRONTIER_TOLERANCES = (1e-8,)


class NoAllocationError(Exception):
    """A policy has no answer to this problem; the message is a sentence that says why."""


def minimum_variance(returns: Matrix, limits: Limits) -> Vector:
    """The weights of least variance within the limits.

    Raises:
        NoAllocationError: The solver failed.
    """
    return limits.budget * _mean_risk(
        returns, limits, TOLERANCES, objective_function=ObjectiveFunction.MINIMIZE_RISK
    )


def maximum_sharpe(returns: Matrix, limits: Limits) -> Vector:
    """The weights of the highest Sharpe ratio within the limits, the risk-free rate being 0.

    Raises:
        NoAllocationError: No weights within the limits have a positive expected return, or the
            solver failed.
    """
    mean = returns.mean(axis=0) * DAYS_A_YEAR
    highest = _highest_within_all(mean, limits)
    if highest <= 0:
        raise NoAllocationError(
            "The highest expected return within the limits is "
            f"{highest:.4f} a year, so that no Sharpe ratio can be maximised."
        )
    return limits.budget * _mean_risk(
        returns,
        limits,
        TOLERANCES,
        objective_function=ObjectiveFunction.MAXIMIZE_RATIO,
        risk_measure=RiskMeasure.STANDARD_DEVIATION,
    )


def risk_parity(returns: Matrix) -> Vector:
    """Weights that sum to 1, each contributing the same to the variance.

    Raises:
        NoAllocationError: The solver failed.
    """
    return _fit(RiskBudgeting, returns, TOLERANCES)


def frontier(returns: Matrix, limits: Limits, points: int) -> list[Vector]:
    """Efficient weights from the least variance to the highest return, evenly spaced in return.

    Raises:
        NoAllocationError: The solver failed.
    """
    safest = _mean_risk(returns, limits, FRONTIER_TOLERANCES)
    mean = returns.mean(axis=0)
    best = _highest_return(mean, limits) / limits.budget
    targets = np.linspace(mean @ safest, mean @ best, points)[1:-1]
    if not len(targets) or targets[-1] - targets[0] < 1e-12:
        return [limits.budget * safest]
    between = _mean_risk(
        returns, limits, FRONTIER_TOLERANCES, targets=targets, raise_on_failure=False
    )
    solved = between[np.isfinite(between).all(axis=1)]
    return [limits.budget * weights for weights in (safest, *solved, best)]


def _highest_return(mean: Vector, limits: Limits) -> Vector:
    """The weights of the highest expected return within bounds and budget."""
    weights = limits.lower.copy()
    left = limits.budget - weights.sum()
    for place in np.argsort(-mean, kind="stable"):
        more = min(left, limits.upper[place] - weights[place])
        weights[place] += more
        left -= more
    return weights


def _highest_within_all(mean: Vector, limits: Limits) -> float:
    """The highest expected return within bounds, budget and turnover limit."""
    if not np.isfinite(limits.max_moved):
        return float(mean @ _highest_return(mean, limits))
    weights, moved = cvxpy.Variable(len(mean)), cvxpy.Variable(len(mean))
    kept = [
        weights >= limits.lower,
        weights <= limits.upper,
        weights.sum() == limits.budget,
        weights - limits.current <= moved,
        limits.current - weights <= moved,
        moved.sum() <= limits.max_moved,
    ]
    problem = cvxpy.Problem(cvxpy.Maximize(mean @ weights), kept)
    return float(problem.solve(cvxpy.CLARABEL))  # type: ignore[no-untyped-call]


def _mean_risk(
    returns: Matrix,
    limits: Limits,
    tolerances: tuple[float, ...],
    targets: Vector | None = None,
    **options: Any,
) -> Vector:
    """Weights that sum to 1, of which the budget's share is within the limits.

    With `targets` (daily expected returns), a row for each, NaN where the solver failed.
    """
    scale = _scale(returns)
    bounds = {
        "min_weights": limits.lower / limits.budget,
        "max_weights": np.minimum(limits.upper / limits.budget, 1.0),
        "min_return": None if targets is None else targets * scale,
        "add_constraints": _turnover(limits) if np.isfinite(limits.max_moved) else None,
    }
    return _fit(lambda **solver: MeanRisk(**bounds, **options, **solver), returns, tolerances)


def _turnover(limits: Limits) -> Callable[[cvxpy.Variable], list[cvxpy.Constraint]]:
    """The turnover limit, as skfolio takes it.

    For the Sharpe ratio the solver's weights are a multiple of the true ones. Their sum has a
    variable of its own, without which the constraint would be a dense matrix.
    """
    current, most = limits.current / limits.budget, limits.max_moved / limits.budget

    def constraints(weights: cvxpy.Variable) -> list[cvxpy.Constraint]:
        total, moved = cvxpy.Variable(), cvxpy.Variable(len(current))
        change = weights - current * total
        return [
            total == weights.sum(),
            change <= moved,
            -change <= moved,
            moved.sum() <= most * total,
        ]

    return constraints


def _fit(make: Callable[..., Any], returns: Matrix, tolerances: tuple[float, ...]) -> Vector:
    """The weights of an optimiser of skfolio, at the first tolerance that the solver meets."""
    failures = []
    for tolerance in tolerances:
        optimiser = make(
            prior_estimator=EmpiricalPrior(covariance_estimator=LedoitWolf(store_precision=False)),
            solver_params={
                "direct_solve_method": "faer",
                "max_threads": 1,
                "tol_gap_abs": tolerance,
                "tol_gap_rel": tolerance,
                "tol_feas": tolerance,
            },
        )
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if len(tolerances) > 1:
                    warnings.filterwarnings("error", message="Solution may be inaccurate")
                optimiser.fit(returns * _scale(returns))
        except (OptimizationError, ValueError, UserWarning) as error:
            failures.append(str(error).partition(".")[0])
            continue
        weights: Vector = optimiser.weights_
        return weights
    why = "; ".join(dict.fromkeys(failures))
    raise NoAllocationError(f"The solver found no weights within the limits ({why}).")


def _scale(returns: Matrix) -> float:
    """Brings the average variance to 1."""
    return float(1 / np.sqrt(returns.var(axis=0).mean()))

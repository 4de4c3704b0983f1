"""Allocation policies, beside solutions found in another way, and within their limits always."""

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize  # type: ignore[import-untyped]
from skfolio.datasets import load_sp500_dataset

from services.portfolio.allocation.limits import Limits, Vector, fitted, nearest
from services.portfolio.allocation.policies import Problem, solve
from services.portfolio.allocation.request import Solution, sharpe_ratio
from services.portfolio.domain.capital import Method

CONVEX = [Method.MINIMUM_VARIANCE, Method.MAXIMUM_SHARPE]
SLACK = 1e-8


def problem(returns: Vector, method: Method = Method.EQUAL, **changes: Any) -> Problem:
    """A problem without limits, all in equal shares now."""
    count = returns.shape[1]
    one = Problem(
        method=method,
        fallback=Method.EQUAL,
        names=tuple(f"S{place:03}" for place in range(count)),
        returns=returns,
        current=np.full(count, 1 / max(count, 1)),
        lower=np.zeros(count),
        upper=np.ones(count),
        fixed=np.zeros(count),
    )
    return replace(one, **changes)


def weights_of(solution: Solution) -> Vector:
    return np.array([solution.weights[name] for name in sorted(solution.weights)])


@cache
def twenty_stocks() -> Vector:
    """Daily returns of 20 stocks from 1990 to 2022, as if each were a strategy."""
    prices: Vector = load_sp500_dataset().to_numpy()
    return prices[1:] / prices[:-1] - 1


def invented(days: int, count: int, seed: int = 0) -> Vector:
    """Returns that a few factors drive, with a drift above 0."""
    random = np.random.default_rng(seed)
    factors = random.normal(0, 0.01, (days, 3)) @ random.normal(0.3, 0.5, (3, count))
    own = random.normal(0, 1, (days, count)) * random.uniform(0.005, 0.02, count)
    return 0.0005 + factors + own


def shrunk_covariance(returns: Vector) -> Vector:
    """Ledoit and Wolf (2004), written out from the paper's section 3.3."""
    days, count = returns.shape
    centred = returns - returns.mean(axis=0)
    sample = centred.T @ centred / days
    target = np.eye(count) * np.trace(sample) / count
    distance = ((sample - target) ** 2).sum()
    noise = sum(((np.outer(row, row) - sample) ** 2).sum() for row in centred) / days**2
    part = min(noise, distance) / distance
    shrunk: Vector = part * target + (1 - part) * sample
    return shrunk


def independent_solution(task: Problem) -> Vector:
    """The same problem by sequential quadratic programming: bought and sold beside each other."""
    covariance = shrunk_covariance(task.returns) * 252
    mean = task.returns.mean(axis=0) * 252
    count, current = len(mean), task.current
    budget = 1 - task.cash_floor

    def weights(moves: Vector) -> Vector:
        return current + moves[:count] - moves[count:]

    def objective(moves: Vector) -> float:
        chosen = weights(moves)
        variance = float(chosen @ covariance @ chosen)
        if task.method is Method.MINIMUM_VARIANCE:
            return 100 * variance
        return float(-10 * (mean @ chosen) / np.sqrt(variance))

    def slope(moves: Vector) -> Vector:
        chosen = weights(moves)
        risk = covariance @ chosen
        if task.method is Method.MINIMUM_VARIANCE:
            by_weight = 200 * risk
        else:
            variance = chosen @ risk
            by_weight = -10 * (mean / np.sqrt(variance) - (mean @ chosen) * risk / variance**1.5)
        return np.concatenate([by_weight, -by_weight])

    both = np.concatenate([np.eye(count), -np.eye(count)], axis=1)
    constraints = [
        {
            "type": "eq",
            "fun": lambda moves: weights(moves).sum() - budget,
            "jac": lambda _: both.sum(axis=0),
        },
        {"type": "ineq", "fun": lambda moves: weights(moves) - task.lower, "jac": lambda _: both},
        {"type": "ineq", "fun": lambda moves: task.upper - weights(moves), "jac": lambda _: -both},
    ]
    if task.max_turnover is not None:
        most = 2 * task.max_turnover
        constraints.append(
            {
                "type": "ineq",
                "fun": lambda moves: most - moves.sum(),
                "jac": lambda moves: -np.ones_like(moves),
            }
        )
    found = minimize(
        objective, np.zeros(2 * count), jac=slope, bounds=[(0, 1)] * (2 * count),
        constraints=constraints, method="SLSQP", options={"ftol": 1e-16, "maxiter": 5000},
    )  # fmt: skip
    return weights(found.x)


LIMITS: dict[str, dict[str, Any]] = {
    "no limits": {},
    "bounds": {"lower": np.full(20, 0.02), "upper": np.full(20, 0.1)},
    "cash floor": {"cash_floor": 0.25, "upper": np.full(20, 0.12)},
    "turnover": {"cash_floor": 0.1, "upper": np.full(20, 0.15), "max_turnover": 0.2},
    "turnover from elsewhere": {
        "current": np.concatenate([np.full(4, 0.2), np.full(16, 0.0125)]),
        "upper": np.full(20, 0.19),
        "max_turnover": 0.3,
    },
}


@pytest.mark.parametrize("limits", LIMITS)
@pytest.mark.parametrize("method", CONVEX)
def test_weights_over_thirty_years_equal_an_independent_solution(
    method: Method, limits: str
) -> None:
    task = problem(twenty_stocks(), method, **LIMITS[limits])

    solution = solve(task)

    assert solution.because == ""
    assert solution.method is method
    assert np.abs(weights_of(solution) - independent_solution(task)).max() < 1e-4


def test_the_shrunk_covariance_is_ledoit_and_wolfs() -> None:
    solution = solve(problem(twenty_stocks()))

    equal = np.full(20, 1 / 20)
    covariance = shrunk_covariance(twenty_stocks()) * 252
    assert solution.proposed is not None
    assert solution.proposed.volatility == pytest.approx(np.sqrt(equal @ covariance @ equal), 1e-9)
    assert solution.days == len(twenty_stocks())


def test_no_weights_have_a_higher_sharpe_ratio_or_a_lower_variance_than_the_best() -> None:
    best = solve(problem(twenty_stocks(), Method.MAXIMUM_SHARPE, frontier_points=15))
    safest = solve(problem(twenty_stocks(), Method.MINIMUM_VARIANCE))

    assert best.sharpe_ratio is not None
    assert safest.proposed is not None
    ratios = [sharpe_ratio(point) or 0.0 for point in best.frontier]
    assert len(ratios) == 15
    assert max(ratios) <= best.sharpe_ratio + 1e-9
    assert max(ratios) > best.sharpe_ratio - 0.02
    risks = [point.volatility for point in best.frontier]
    assert min(risks) == pytest.approx(safest.proposed.volatility, abs=1e-5)
    assert risks == sorted(risks)
    assert [point.expected_return for point in best.frontier] == sorted(
        point.expected_return for point in best.frontier
    )


def test_equal_weights_are_equal() -> None:
    solution = solve(problem(invented(100, 8), cash_floor=0.2))

    assert weights_of(solution) == pytest.approx(np.full(8, 0.1), abs=1e-15)


def test_fixed_weights_mean_what_they_say_and_leave_the_rest_as_cash() -> None:
    fixed = np.array([0.2, 0.1, 0.0, 0.3])

    solution = solve(problem(invented(100, 4), Method.FIXED, fixed=fixed))

    assert weights_of(solution) == pytest.approx(fixed, abs=1e-15)
    assert solution.because == ""


def test_fixed_weights_above_what_may_be_invested_shrink_in_proportion() -> None:
    fixed = np.array([0.6, 0.6])

    solution = solve(problem(invented(100, 2), Method.FIXED, fixed=fixed, cash_floor=0.4))

    assert weights_of(solution) == pytest.approx([0.3, 0.3])


def test_inverse_volatility_weights_keep_their_proportions_beside_one_at_its_bound() -> None:
    returns = invented(400, 5)
    inverse = 1 / returns.std(axis=0)
    upper = np.array([0.05, 1, 1, 1, 1])

    weights = weights_of(solve(problem(returns, Method.INVERSE_VOLATILITY, upper=upper)))

    assert weights[0] == 0.05
    assert weights[1:] == pytest.approx(0.95 * inverse[1:] / inverse[1:].sum())


@pytest.mark.parametrize("seed", range(3))
def test_risk_parity_gives_each_strategy_the_same_part_of_the_risk(seed: int) -> None:
    returns = invented(500, 12, seed)

    weights = weights_of(solve(problem(returns, Method.RISK_PARITY)))

    parts = weights * (shrunk_covariance(returns) @ weights)
    assert parts / parts.mean() == pytest.approx(np.ones(12), abs=1e-5)


def test_a_new_strategy_gets_an_equal_share_and_the_method_divides_the_rest() -> None:
    returns = invented(300, 5)
    returns[:-12, 2] = np.nan
    others = [0, 1, 3, 4]

    solution = solve(problem(returns, Method.MINIMUM_VARIANCE))
    without = solve(problem(returns[:, others], Method.MINIMUM_VARIANCE))

    weights = weights_of(solution)
    assert weights[2] == pytest.approx(0.2)
    assert weights[others] == pytest.approx(0.8 * weights_of(without), abs=1e-7)
    assert solution.notes == {"S002": "new: 12 of 60 days of history; its share is an equal one"}
    assert "S002" not in solution.strategies
    assert solution.days == 300


def test_a_new_strategy_gets_no_more_than_the_turnover_limit_allows() -> None:
    returns = invented(300, 5)
    returns[:-12, 2] = np.nan
    current = np.array([0.25, 0.25, 0.0, 0.25, 0.25])

    solution = solve(problem(returns, Method.MINIMUM_VARIANCE, current=current, max_turnover=0.05))

    weights = weights_of(solution)
    assert solution.method is Method.MINIMUM_VARIANCE
    assert weights[2] == pytest.approx(0.05)
    assert np.abs(weights - current).sum() / 2 <= 0.05 + SLACK


def test_a_strategy_that_never_traded_is_no_haven_for_minimum_variance() -> None:
    returns = invented(300, 4)
    returns[:, 1] = 0.0
    returns[5, 1] = 0.01

    solution = solve(problem(returns, Method.MINIMUM_VARIANCE))

    assert solution.weights["S001"] == pytest.approx(0.25)
    assert solution.notes["S001"].startswith("idle: its equity moved on 1 of the last 300 days")


@pytest.mark.parametrize("method", Method)
def test_strategies_without_any_movement_or_history_break_nothing(method: Method) -> None:
    for returns in (np.zeros((100, 3)), np.full((100, 3), np.nan), np.zeros((0, 3))):
        solution = solve(problem(returns, method, fixed=np.full(3, 1 / 3), frontier_points=5))

        assert weights_of(solution) == pytest.approx(np.full(3, 1 / 3))
        assert solution.proposed is None
        assert solution.frontier == ()
        assert (solution.because == "") == (method in {Method.EQUAL, Method.FIXED})


@pytest.mark.parametrize("method", Method)
def test_no_strategies_at_all_get_nothing(method: Method) -> None:
    assert solve(problem(np.zeros((30, 0)), method, frontier_points=3)).weights == {}


def test_too_little_history_falls_back_and_says_so_with_figures() -> None:
    returns = invented(100, 3)
    returns[:-10, 1:] = np.nan
    fixed = np.array([0.5, 0.3, 0.2])

    solution = solve(problem(returns, Method.MAXIMUM_SHARPE, fallback=Method.FIXED, fixed=fixed))

    assert solution.method is Method.FIXED
    assert weights_of(solution) == pytest.approx(fixed)
    assert solution.because == (
        "MAXIMUM_SHARPE needs 2 strategies with 60 days of history, and 1 of 3 have them. "
        "The weights are by FIXED; MAXIMUM_SHARPE was asked for."
    )


def test_losing_strategies_have_no_maximum_sharpe_ratio() -> None:
    returns = invented(300, 3)
    returns -= returns.mean(axis=0) + 0.001

    solution = solve(problem(returns, Method.MAXIMUM_SHARPE, fallback=Method.INVERSE_VOLATILITY))

    assert solution.method is Method.INVERSE_VOLATILITY
    assert "within the limits is -0.2520 a year" in solution.because


def test_a_gain_that_the_turnover_limit_keeps_out_of_reach_falls_back() -> None:
    returns = invented(300, 3)
    returns += np.array([0.001, -0.002, -0.002]) - returns.mean(axis=0)
    current = np.array([0.0, 0.5, 0.5])

    solution = solve(problem(returns, Method.MAXIMUM_SHARPE, current=current, max_turnover=0.05))

    assert solution.method is Method.EQUAL
    assert "The highest expected return within the limits is -0.4662 a year" in solution.because
    assert np.abs(weights_of(solution) - current).sum() / 2 <= 0.05 + SLACK


CONTRADICTIONS: dict[str, tuple[dict[str, Any], Vector]] = {
    "The lower bounds add up to 1.2000 of the capital, and 0.9000 may be invested": (
        {"lower": np.full(4, 0.3), "cash_floor": 0.1},
        np.full(4, 0.225),
    ),
    "The upper bounds add up to 0.6000 of the capital, less than the 1.0000": (
        {"upper": np.array([0.1, 0.1, 0.2, 0.2])},
        np.array([0.1, 0.1, 0.2, 0.2]),
    ),
    "need a turnover of 0.2500, and 0.1000 is allowed": (
        {"cash_floor": 0.5, "max_turnover": 0.1},
        np.full(4, 0.2),
    ),
}


@pytest.mark.parametrize("sentence", CONTRADICTIONS)
@pytest.mark.parametrize("method", Method)
def test_limits_that_contradict_each_other_are_met_as_far_as_can_be(
    method: Method, sentence: str
) -> None:
    limits, expected = CONTRADICTIONS[sentence]
    if method is Method.FIXED:
        limits = {**limits, "fixed": np.ones(4)}

    solution = solve(problem(invented(200, 4), method, **limits))

    assert weights_of(solution) == pytest.approx(expected)
    assert solution.method is (method if method is Method.FIXED else Method.EQUAL)
    assert (sentence in solution.because) or (method is Method.FIXED and "upper" in sentence)


def test_a_removed_strategy_gets_nothing_and_a_pinned_one_stays() -> None:
    lower, upper = np.array([0.0, 0.3, 0, 0, 0]), np.array([0.0, 0.3, 1, 1, 1])
    for method in Method:
        solution = solve(
            problem(
                0.002 + invented(300, 5),
                method,
                lower=lower,
                upper=upper,
                fixed=np.full(5, 0.2),
                frontier_points=5,
            )
        )

        weights = weights_of(solution)
        assert solution.because == ""
        assert weights[:2] == pytest.approx([0.0, 0.3])
        assert len(solution.frontier) == 5


def test_the_order_of_the_names_changes_nothing() -> None:
    returns = invented(200, 6)
    names = ("B", "A", "F", "C", "E", "D")
    order = [3, 0, 5, 1, 4, 2]
    for method in Method:
        one = problem(returns, method, names=names, frontier_points=4)
        other = replace(
            one, names=tuple(names[place] for place in order), returns=returns[:, order]
        )

        assert solve(one) == solve(other)


fractions = st.floats(0, 1).map(lambda value: round(value, 3))


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """Any problem of a few strategies, with limits that may or may not go together."""
    count = draw(st.integers(1, 5))
    returns = invented(draw(st.sampled_from([30, 90])), count, draw(st.integers(0, 3)))
    for column in range(count):
        kind = draw(st.sampled_from(["old", "old", "old", "new", "idle", "unheard of"]))
        if kind == "new":
            returns[:-9, column] = np.nan
        elif kind == "idle":
            returns[:, column] = 0.0
        elif kind == "unheard of":
            returns[:, column] = np.nan
    each = st.lists(fractions, min_size=count, max_size=count).map(np.array)
    bounds = [draw(each), draw(each)] if draw(st.booleans()) else [np.zeros(count), np.ones(count)]
    current = draw(each)
    return problem(
        returns,
        draw(st.sampled_from(Method)),
        fallback=draw(st.sampled_from(Method)),
        lower=np.minimum(*bounds) / draw(st.sampled_from([1, count])),
        upper=np.maximum(*bounds),
        current=current / max(current.sum(), 1.0),
        fixed=draw(each),
        cash_floor=draw(st.sampled_from([0.0, 0.1, 0.5, 1.0])),
        max_turnover=draw(st.none() | fractions),
        min_days=20,
        frontier_points=3,
    )


@given(problems())
@settings(max_examples=150, deadline=None)
def test_the_limits_hold_whatever_is_asked(task: Problem) -> None:
    solution = solve(task)

    weights, budget = weights_of(solution), 1 - task.cash_floor
    far = task.max_turnover is not None and "need a turnover of" in solution.because
    assert (weights >= 0).all()
    if task.max_turnover is not None:
        assert np.abs(weights - task.current).sum() / 2 <= task.max_turnover + SLACK
    if not far:
        assert weights.sum() <= budget + SLACK
        assert (weights <= task.upper + SLACK).all()
        assert "lower bounds" in solution.because or (weights >= task.lower - SLACK).all()
    if not far and solution.method is not Method.FIXED and "upper bounds" not in solution.because:
        assert weights.sum() == pytest.approx(budget, abs=SLACK)
    assert (solution.method is task.method) or solution.because
    assert set(solution.weights) == set(task.names)


@given(problems())
@settings(max_examples=100, deadline=None)
def test_fitted_weights_are_never_further_than_the_nearest_allows(task: Problem) -> None:
    limits = Limits(task.lower, task.upper, 0.7, task.current, 0.2)
    closest = limits.moved(nearest(limits))

    weights = fitted(limits, task.fixed)

    assert limits.moved(weights) <= 0.2 + SLACK
    if closest <= 0.2 and task.lower.sum() <= 0.7 <= task.upper.sum():
        assert weights.sum() == pytest.approx(0.7)
        assert (weights >= task.lower - SLACK).all()
        assert (weights <= task.upper + SLACK).all()


def test_weights_are_found_where_the_solver_cannot_meet_its_first_tolerances() -> None:
    random = np.random.default_rng(14)
    days = int(random.integers(70, 300))
    market = random.normal(0.0005, 0.012, days)
    returns = np.stack(
        [
            market * random.uniform(0.5, 2) + random.normal(random.normal(0, 0.001), 0.015, days)
            for _ in range(5)
        ],
        axis=1,
    )
    returns[random.random(returns.shape) < random.choice([0, 0.5])] = 0
    found = solve(
        problem(
            returns,
            Method.MAXIMUM_SHARPE,
            current=random.dirichlet(np.ones(5)),
            cash_floor=0.05,
            max_turnover=0.3,
        )
    )
    assert (found.method, found.because) == (Method.MAXIMUM_SHARPE, "")

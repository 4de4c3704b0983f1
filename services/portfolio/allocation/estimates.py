"""What the past says of strategies: who has enough of it, and the risk and return it shows."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from skfolio.moments import LedoitWolf

from services.portfolio.allocation.limits import Mask, Vector
from services.portfolio.domain.capital import RiskReturn

Matrix = npt.NDArray[np.float64]

DAYS_A_YEAR = 252
ACTIVE_DAYS = 20  # with fewer days of a return that is not 0, a strategy's volatility says nothing
SMALLEST_RETURN = 1e-12


@dataclass(frozen=True, slots=True)
class Estimates:
    """Annual risk and return of the strategies that have enough history.

    The K known ones are judged on the days that all of them have. `returns` is (days, K), `mean`
    (K,), `covariance` (K, K), shrunk by Ledoit and Wolf (2004), "A well-conditioned estimator for
    large-dimensional covariance matrices".
    """

    known: Mask  # (N,): which of all strategies
    lacking: dict[int, str]  # what the others lack, by their place
    returns: Matrix
    mean: Vector
    covariance: Matrix

    def point(self, weights: Vector) -> RiskReturn | None:
        """Risk and return of weights (N,) of all strategies; None if none has enough history."""
        if not self.known.any():
            return None
        known = weights[self.known]
        variance = max(float(known @ self.covariance @ known), 0.0)
        return RiskReturn(variance**0.5, float(known @ self.mean))


def judged(returns: Matrix, min_days: int) -> Estimates:
    """Judges daily returns (T, N), NaN before a strategy's first day."""
    days = np.isfinite(returns).sum(axis=0)
    known: Mask = days >= max(min_days, 2)
    lacking = {
        int(place): f"new: {days[place]} of {max(min_days, 2)} days of history"
        for place in np.flatnonzero(~known)
    }
    active = (np.abs(_common(returns, known)) > SMALLEST_RETURN).sum(axis=0)
    span = len(_common(returns, known))
    needed = min(ACTIVE_DAYS, max(min_days, 2))
    for place, count in zip(np.flatnonzero(known), active, strict=True):
        if count < needed:
            known[place] = False
            lacking[int(place)] = (
                f"idle: its equity moved on {count} of the last {span} days, and {needed} are "
                "needed to judge it"
            )
    shared = _common(returns, known)
    if not known.any():
        return Estimates(known, lacking, shared, np.zeros(0), np.zeros((0, 0)))
    covariance = LedoitWolf(store_precision=False).fit(shared).covariance_ * DAYS_A_YEAR
    return Estimates(known, lacking, shared, shared.mean(axis=0) * DAYS_A_YEAR, covariance)


def _common(returns: Matrix, known: Mask) -> Matrix:
    """The days, up to the last, on which all known ones have a return."""
    chosen = returns[:, known]
    return chosen[np.isfinite(chosen).all(axis=1)]

"""What is asked of the optimiser, and what it answers; both cross to its process as JSON.

Light on purpose: the router imports this, and never the libraries that do the work.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from services.portfolio.domain.capital import AllocationPolicy, Method, RiskReturn
from services.portfolio.domain.order import Mode

FRONTIER_POINTS = 12


@dataclass(frozen=True, slots=True)
class Request:
    """Weights are wanted for the strategies named in `current`, whose curves the database holds.

    `current` are shares of the capital now. A strategy that must not be touched is pinned by a
    bound whose min_weight and max_weight are its current weight; one that goes has max_weight 0.
    """

    policy: AllocationPolicy
    mode: Mode
    current: Mapping[str, Decimal]
    frontier_points: int = FRONTIER_POINTS  # 0: none


@dataclass(frozen=True, slots=True)
class Solution:
    """The weights found, and what is known of them. Figures are annual; risk-free is 0.

    Expected returns are arithmetic means of daily returns x 252, volatilities follow from the
    shrunk covariance. Strategies without enough history, and cash, count as 0 in both.
    """

    weights: Mapping[str, float]  # of each strategy, as shares of the capital; the rest is cash
    method: Method  # that the weights are by
    because: str  # sentences that say why it is not what was asked for, or empty
    notes: Mapping[str, str]  # of strategies that are treated in a way of their own
    days: int  # of history that all strategies with enough of it have in common
    current: RiskReturn | None  # None: no strategy has enough history
    proposed: RiskReturn | None
    strategies: Mapping[str, RiskReturn]  # of those with enough history, each on its own
    frontier: tuple[RiskReturn, ...]  # within bounds and cash floor, whatever the turnover

    @property
    def sharpe_ratio(self) -> float | None:
        """Of the proposed weights; None without risk or history."""
        return sharpe_ratio(self.proposed)


def sharpe_ratio(point: RiskReturn | None) -> float | None:
    """Expected return over volatility, the risk-free rate being 0; None without risk."""
    if point is None or point.volatility <= 0:
        return None
    return point.expected_return / point.volatility


@dataclass(frozen=True, slots=True)
class Question:
    """What the optimiser's process is told."""

    request: Request
    database_url: str = field(repr=False)  # may hold a password


@dataclass(frozen=True, slots=True)
class Answer:
    """What it says: a solution, or a reason of the contract with a sentence."""

    solution: Solution | None = None
    reason: str = ""
    message: str = ""

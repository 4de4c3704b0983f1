"""The limits within which weights are looked for: bounds, the cash floor, the turnover limit.

Where they contradict each other, the cash floor comes first, then upper bounds, then the turnover
limit, then lower bounds; a sentence says what gave way.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

DUST = 1e-9  # of the capital: differences below it count as none
HALVINGS = 200


@dataclass(frozen=True, slots=True)
class Limits:
    """Weights must lie in lower <= w <= upper, sum to `budget`, and move at most `max_moved`."""

    lower: Vector
    upper: Vector
    budget: float  # the share of the capital that is not kept as cash
    current: Vector
    max_moved: float  # sum of |new - current|, twice the turnover; infinite: any

    def moved(self, weights: Vector) -> float:
        """How far these weights are from the current ones: sum of |new - current|."""
        return float(np.abs(weights - self.current).sum())

    def reachable(self) -> bool:
        """Whether any weights keep all of the limits."""
        if self.lower.sum() > self.budget + DUST or self.upper.sum() < self.budget - DUST:
            return False
        return self.moved(nearest(self)) <= self.max_moved + DUST

    def of(self, chosen: Mask, others: Vector) -> "Limits":
        """The limits that remain for the chosen ones when all others get `others`."""
        moved = np.abs(others - self.current)[~chosen].sum()
        return Limits(
            self.lower[chosen],
            self.upper[chosen],
            self.budget - float(others[~chosen].sum()),  # below 0: the others get too much
            self.current[chosen],
            self.max_moved - float(moved),
        )


def reconciled(limits: Limits) -> tuple[Limits, str]:
    """The limits with bounds that the budget can meet, and what gave way, or nothing.

    A turnover limit that keeps the bounds out of reach is left as it is: `fitted` goes as far as
    it allows.
    """
    limits, gave_way = _met_by_budget(replace(limits, lower=np.minimum(limits.lower, limits.upper)))
    needed = limits.moved(nearest(limits))
    if needed > limits.max_moved + DUST:
        gave_way.append(
            f"The bounds and the cash floor need a turnover of {needed / 2:.4f}, and "
            f"{limits.max_moved / 2:.4f} is allowed: the weights move towards them that far."
        )
    return limits, " ".join(gave_way)


def _met_by_budget(limits: Limits) -> tuple[Limits, list[str]]:
    least, most, budget = limits.lower.sum(), limits.upper.sum(), limits.budget
    if least > budget + DUST:
        return replace(limits, lower=limits.lower * (budget / least)), [
            f"The lower bounds add up to {least:.4f} of the capital, and {budget:.4f} may be "
            "invested: each strategy gets its lower bound in proportion."
        ]
    if most < budget - DUST:
        return replace(limits, budget=float(most)), [
            f"The upper bounds add up to {most:.4f} of the capital, less than the {budget:.4f} "
            "to be invested: each strategy gets its upper bound, the rest stays cash."
        ]
    return limits, []


def nearest(limits: Limits) -> Vector:
    """The weights within bounds and budget that move least from the current ones."""
    return _spread(limits, np.clip(limits.current, limits.lower, limits.upper))


def fitted(limits: Limits, target: Vector) -> Vector:
    """Weights in the target's proportions, as far as the limits allow.

    One that would pass a bound stays at it, and the others share the rest in their proportions.
    With a turnover limit, the weights go from the nearest ones towards these while it lasts; if
    even the nearest are too far, from the current ones towards the nearest.
    """
    wanted = _scaled(limits, target)
    if limits.moved(wanted) <= limits.max_moved:
        return wanted
    start = nearest(limits)
    needed = limits.moved(start)
    if needed > limits.max_moved:
        return limits.current + (limits.max_moved / needed) * (start - limits.current)
    least, most = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (least + most) / 2
        if limits.moved(start + middle * (wanted - start)) <= limits.max_moved:
            least = middle
        else:
            most = middle
    return start + least * (wanted - start)


def _scaled(limits: Limits, target: Vector) -> Vector:
    """The multiple of the target that, cut to the bounds, comes to the budget."""

    def cut(multiple: float) -> Vector:
        return np.clip(multiple * target, limits.lower, limits.upper)

    least, most = 0.0, 1.0
    while cut(most).sum() < limits.budget and most < 1e18:
        least, most = most, 2 * most
    for _ in range(HALVINGS):
        middle = (least + most) / 2
        if cut(middle).sum() < limits.budget:
            least = middle
        else:
            most = middle
    # What is missing is a rounding, or belongs to strategies whose target is 0.
    return _spread(limits, cut(least))


def _spread(limits: Limits, weights: Vector) -> Vector:
    """Adds what is missing to the budget, or takes what is too much, in proportion to the room."""
    missing = limits.budget - weights.sum()
    room = limits.upper - weights if missing > 0 else weights - limits.lower
    total = room.sum()
    if total <= 0:
        return weights
    share = min(max(missing / total, -1.0), 1.0)
    spread: Vector = np.clip(weights + share * room, limits.lower, limits.upper)
    return spread

"""Values to draw: deterministic, of any size."""

from datetime import date, timedelta
from itertools import accumulate
from random import Random

from services.portfolio.domain.capital import RiskReturn
from services.portfolio.pictures.figures import Dot, Weights

NAMES = [f"Leverage_{symbol}" for symbol in ("SPXL", "PTIR", "NVDL", "HOOD", "AVL")]
DOTS = [
    Dot(name, RiskReturn(*point), 0.2, weight)
    for name, point, weight in zip(
        NAMES,
        [(0.31, 0.16), (0.12, 0.04), (0.45, 0.29), (0.38, -0.05), (0.22, 0.11)],
        [0.25, 0.3, 0.15, 0.0, 0.25],
        strict=True,
    )
]
CURVE = [RiskReturn(0.11 + 0.34 * i**2 / 400, 0.05 + 0.24 * i / 20) for i in range(21)]
NOW, PROPOSED = RiskReturn(0.24, 0.11), RiskReturn(0.18, 0.155)


def week(days: int) -> list[date]:
    """Sessions, Monday to Friday, from January 2001 on."""
    first = date(2001, 1, 1)
    return [first + timedelta(days=day + day // 5 * 2) for day in range(days)]


def walk(seed: int, days: int) -> list[float]:
    """A growth curve."""
    rng = Random(seed)
    return list(accumulate((1 + rng.gauss(0.0004, 0.01) for _ in range(days)), float.__mul__))


def history(strategies: int, days: int) -> list[Weights]:
    """Shares that sum to 1 with the rest."""
    rng = Random(strategies)
    shares = []
    for day in week(days):
        parts = [rng.random() for _ in range(strategies + 1)]
        total = sum(parts)
        of = {f"S_{i:04}": part / total for i, part in enumerate(parts[1:])}
        shares.append(Weights(day, of, parts[0] / total))
    return shares

"""What a fresh system knows: the five strategies, with equal shares of the paper capital."""

from decimal import ROUND_DOWN, Decimal

from services.portfolio.commands import UpsertPortfolio
from services.portfolio.router import Router

STRATEGIES = tuple(
    f"IncredibleLeverage_{symbol}" for symbol in ("SPXL", "PTIR", "NVDL", "HOOD", "AVL")
)
CENT = Decimal("0.01")


async def seed(router: Router, capital: Decimal) -> None:
    """Creates the five strategies if there is no strategy at all.

    The share is rounded down to the cent. Replicas that start together set the same cash, which
    books it once.
    """
    if await router.reads.portfolios():
        return
    share = (capital / len(STRATEGIES)).quantize(CENT, ROUND_DOWN)
    for name in STRATEGIES:
        await router.writer.submit(UpsertPortfolio(name, share, reason="PORTFOLIO_CAPITAL"))

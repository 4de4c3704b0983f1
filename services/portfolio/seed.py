"""What a fresh system knows: the five strategies, with equal shares of the paper capital."""

from decimal import ROUND_DOWN, Decimal

from services.portfolio.commands import UpsertPortfolio
from services.portfolio.router import Router

STRATEGIES = tuple(
    f"IncredibleLeverage_{symbol}" for symbol in ("SPXL", "PTIR", "NVDL", "HOOD", "AVL")
)
CENT = Decimal("0.01")


async def seed(router: Router, capital: Decimal) -> None:
    """Creates those of the five strategies that are missing, unless there are others.

    The share is rounded down to the cent. Replicas that start together send the same request_id,
    so each strategy gets its cash once.
    """
    known = {portfolio.strategy_name for portfolio in await router.reads.portfolios()}
    if not known <= set(STRATEGIES):
        return
    share = (capital / len(STRATEGIES)).quantize(CENT, ROUND_DOWN)
    for name in STRATEGIES:
        if name not in known:
            request_id = f"PORTFOLIO_CAPITAL:{name}"
            await router.writer.submit(
                UpsertPortfolio(name, share, reason="PORTFOLIO_CAPITAL", request_id=request_id)
            )

"""What a fresh system knows: the five strategies, with equal shares of the paper capital."""

from dataclasses import dataclass
from decimal import ROUND_DOWN, Decimal

from services.portfolio.batch import Batch
from services.portfolio.commands import PortfolioOf
from services.portfolio.domain import ledger
from services.portfolio.domain.book import RequestedMode, State, Strategy
from services.portfolio.domain.order import Mode
from services.portfolio.ports import Needs, Reads
from services.portfolio.writer import Writer

STRATEGIES = tuple(
    f"IncredibleLeverage_{symbol}" for symbol in ("SPXL", "PTIR", "NVDL", "HOOD", "AVL")
)
CAPITAL = "PORTFOLIO_CAPITAL"
CENT = Decimal("0.01")


async def seed(writer: Writer, reads: Reads, capital: Decimal) -> None:
    """Creates those of the five strategies that are missing, unless there are others.

    The share is rounded down to the cent. Replicas that start together send the same request_id,
    so each strategy gets its cash once.
    """
    known = {portfolio.strategy_name for portfolio in await reads.portfolios()}
    if not known <= set(STRATEGIES):
        return
    share = (capital / len(STRATEGIES)).quantize(CENT, ROUND_DOWN)
    for name in STRATEGIES:
        if name not in known:
            await writer.submit(SeedStrategy(name, share, f"{CAPITAL}:{name}"))


@dataclass(frozen=True, slots=True)
class SeedStrategy:
    """Create a strategy on PAPER with cash, unless it is there.

    On PAPER under TRADING_MODE=LIVE too: the paper capital is no money for a LIVE book. Its
    requested mode is put in force after that.
    """

    strategy_name: str
    cash: Decimal
    request_id: str

    def needs(self) -> Needs:  # noqa: D102 - as in Command
        return Needs(strategies=(self.strategy_name,), valued=True)

    def run(self, batch: Batch) -> PortfolioOf:  # noqa: D102 - as in Command
        desk = batch.desk
        if batch.find_strategy(self.strategy_name) is None:
            book, entries = ledger.open_book(
                self.strategy_name, Mode.PAPER, self.cash, CAPITAL, desk.now, desk.actor
            )
            batch.record_strategy(
                Strategy(
                    self.strategy_name,
                    RequestedMode.AUTO,
                    Mode.PAPER,
                    State.ACTIVE,
                    "",
                    desk.now,
                    portfolio_halted=batch.whole.halted,
                )
            )
            batch.record_cash(book, entries)
        return PortfolioOf(self.strategy_name)

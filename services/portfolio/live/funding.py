"""Which strategies trade LIVE, and the first cash of their books."""

from decimal import Decimal

from services.portfolio.domain.book import mode_to_be
from services.portfolio.domain.money import ZERO
from services.portfolio.domain.order import Mode
from services.portfolio.live.commands import FollowMode, ShareCash
from services.portfolio.ports import Reads
from services.portfolio.writer import Writer


async def follow_modes(writer: Writer, reads: Reads, trading_mode: Mode) -> tuple[str, ...]:
    """Puts every strategy's requested mode in force, if its book is flat.

    Returns the names of those that are LIVE afterwards.
    """
    for portfolio in await reads.portfolios():
        if mode_to_be(portfolio.requested_mode, trading_mode) is not portfolio.mode:
            await writer.submit(FollowMode(portfolio.strategy_name))
    portfolios = await reads.portfolios()
    return tuple(p.strategy_name for p in portfolios if p.mode is Mode.LIVE)


class Funding:
    """Shares the LIVE capital among books that have just become LIVE."""

    def __init__(self, writer: Writer, reads: Reads, capital: Decimal) -> None:
        self._writer = writer
        self._reads = reads
        self._capital = capital

    async def share(self, account_cash: Decimal | None, strategies_cash: Decimal) -> None:
        """Puts requested modes in force, and shares what the account has and no book has, in USD.

        Never more than the capital in all: the rest of the account is not the strategies'.
        """
        names = await follow_modes(self._writer, self._reads, Mode.LIVE)
        available = ZERO if account_cash is None else account_cash - strategies_cash
        if names and available > 0:
            await self._writer.submit(ShareCash(names, self._capital, available))

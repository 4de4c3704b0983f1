"""Which strategies trade LIVE, and the first cash of their books."""

from decimal import Decimal

from services.portfolio.domain.money import ZERO
from services.portfolio.domain.order import Mode
from services.portfolio.live.commands import FollowMode, ShareCash
from services.portfolio.promotion.ports import PromotionReads
from services.portfolio.writer import Writer


async def follow_modes(
    writer: Writer, reads: PromotionReads, trading_mode: Mode, *, at_once: bool = False
) -> tuple[str, ...]:
    """Puts the mode that each strategy is to have in force, if its book is flat.

    `at_once`: AUTO counts as promoted. Returns the names of those that are LIVE afterwards.
    """
    for footing in await reads.footings():
        if footing.mode_to_be(trading_mode, at_once=at_once) is not footing.mode:
            await writer.submit(FollowMode(footing.strategy_name))
    return tuple(f.strategy_name for f in await reads.footings() if f.mode is Mode.LIVE)


class Funding:
    """Shares the LIVE capital among books that have just become LIVE."""

    def __init__(
        self, writer: Writer, reads: PromotionReads, capital: Decimal, *, at_once: bool = False
    ) -> None:
        self._writer = writer
        self._reads = reads
        self._capital = capital
        self._at_once = at_once

    async def share(self, account_cash: Decimal | None, strategies_cash: Decimal) -> None:
        """Puts requested modes in force, and shares what the account has and no book has, in USD.

        Never more than the capital in all: the rest of the account is not the strategies'.
        """
        live = await follow_modes(self._writer, self._reads, Mode.LIVE, at_once=self._at_once)
        available = ZERO if account_cash is None else account_cash - strategies_cash
        if live and available > 0:
            footings = await self._reads.footings()
            names = tuple(f.strategy_name for f in footings if f.has_live_book)
            await self._writer.submit(ShareCash(names, self._capital, available))

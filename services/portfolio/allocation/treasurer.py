"""The treasurer: sees to it that what is due moves as soon as it can.

Each replica has one, and none is elected: the command looks again under the lock, so that whoever
comes second moves nothing.
"""

from services.portfolio.allocation.commands import SettleDue
from services.portfolio.allocation.ports import AllocationReads
from services.portfolio.domain.capital import RESERVE
from services.portfolio.domain.money import ZERO
from services.portfolio.domain.order import Mode
from services.portfolio.domain.transfers import Purse, settlement
from services.portfolio.looks import Looks
from services.portfolio.ports import Feed
from services.portfolio.writer import Writer

LOOK_EVERY_S = 5.0
CALM_S = 0.1  # events that come closer together than this lead to one look
MOST_AT_ONCE = 250  # strategies that one command holds still


class Treasurer:
    """Settles dues."""

    def __init__(
        self,
        writer: Writer,
        reads: AllocationReads,
        feed: Feed,
        look_every_s: float = LOOK_EVERY_S,
    ) -> None:
        self._writer = writer
        self._reads = reads
        self._feed = feed
        self._look_every_s = look_every_s
        self._concerned = {RESERVE}  # whose commits may let something move

    async def run(self) -> None:
        """Settles for ever: at once, then when somebody concerned trades, and now and then."""
        looks = Looks("treasurer", self.look, lambda: self._concerned, self._look_every_s, CALM_S)
        await looks.run(self._feed)

    async def look(self) -> None:
        """Settles what can be settled now.

        Raises:
            UnavailableError: The database is away.
        """
        concerned = {RESERVE}
        for mode in Mode:
            purses = {purse.strategy_name: purse for purse in await self._reads.purses(mode)}
            reserve = purses.pop(RESERVE, Purse(RESERVE, ZERO, ZERO))
            concerned |= purses.keys()
            owing = [purse for purse in purses.values() if purse.due]
            if moves := settlement(owing, reserve):
                await self._settle(mode, sorted(moves.keys() - {RESERVE}))
        self._concerned = concerned

    async def _settle(self, mode: Mode, names: list[str]) -> None:
        plan = await self._reads.last_plan(mode)
        assert plan is not None  # noqa: S101 - nothing is due before a plan is carried out
        for first in range(0, len(names), MOST_AT_ONCE):
            some = tuple(names[first : first + MOST_AT_ONCE])
            await self._writer.submit(SettleDue(mode, some, plan.plan_id))

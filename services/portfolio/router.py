"""The router: the use cases that the transport calls, composed of a writer, reads and a feed."""

from collections.abc import Sequence

from services.portfolio.allocation.allocator import Allocator
from services.portfolio.coalescer import Coalescer
from services.portfolio.domain.errors import StrategyNotFoundError
from services.portfolio.history.history import History
from services.portfolio.history.marking import Marking
from services.portfolio.live.lookout import Lookout
from services.portfolio.pictures.gallery import Gallery
from services.portfolio.ports import Clock, Feed, PriceMark, Reads
from services.portfolio.promotion.reviewer import Reviewer
from services.portfolio.risk.ports import RiskReads
from services.portfolio.views import InvestedView
from services.portfolio.writer import Writer

MAX_BATCH = 256
MAX_WAITING = 4096
# Under load a batch of reads or marks begins every 3 ms. Without it a read of 0.2 ms was run for
# every second call, which cost the router as much as the rest of the call.
PACE_S = 0.003


class Router:
    """What the servicers call."""

    def __init__(
        self,
        writer: Writer,
        reads: Reads,
        feed: Feed,
        lookout: Lookout,
        clock: Clock,
        *,
        history: History,
        risk: RiskReads,
        reviewer: Reviewer,
        allocator: Allocator,
        gallery: Gallery,
    ) -> None:
        self.writer = writer
        self.reads = reads
        self.feed = feed
        self.lookout = lookout
        self.clock = clock
        self.history = history
        self.risk = risk
        self.reviewer = reviewer
        self.allocator = allocator
        self.gallery = gallery
        self._invested: Coalescer[str, InvestedView] = Coalescer(
            "invested-reads",
            self._read_invested,
            max_batch=MAX_BATCH,
            max_waiting=MAX_WAITING,
            pace_s=PACE_S,
        )
        self._marking = Marking(
            writer, reads, clock, max_batch=MAX_BATCH, max_waiting=MAX_WAITING, pace_s=PACE_S
        )

    async def invested(self, strategy_name: str) -> InvestedView:
        """What a strategy holds, as committed no earlier than this call began.

        Raises:
            StrategyNotFoundError: There is none of this name.
        """
        return await self._invested.submit(strategy_name)

    async def mark(self, marks: Sequence[PriceMark]) -> None:
        """Keeps prices that one strategy saw; the first of a session close the one before.

        Raises:
            StrategyNotFoundError: There is none of this name.
        """
        await self._marking.mark(marks)

    async def stop(self) -> None:
        """Finishes what waits and takes no more."""
        await self.writer.stop()
        await self._marking.stop()
        await self._invested.stop()

    async def _read_invested(self, names: Sequence[str]) -> Sequence[InvestedView | Exception]:
        found = await self.reads.invested(set(names))
        return [found.get(name) or StrategyNotFoundError(name) for name in names]

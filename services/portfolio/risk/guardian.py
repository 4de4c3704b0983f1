"""The guardian: looks whether a limit halts a strategy or everything, and who fell silent.

There is one in each replica, and none is elected: what they find they submit as commands that look
again under the lock, so that whoever comes second does nothing. It looks every second, and when a
strategy that is watched trades or reports prices. A strategy without limits costs nothing.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from services.portfolio.commands import Command
from services.portfolio.domain.errors import LedgerError
from services.portfolio.domain.order import Order
from services.portfolio.domain.risk import Heights, Whole, beyond, growth_of_whole, is_silent
from services.portfolio.looks import Looks
from services.portfolio.ports import BookKey, Clock, Feed, UnavailableError
from services.portfolio.risk.commands import HaltAllForRisk, HaltForRisk, NoteSilence, SellTheRest
from services.portfolio.risk.ports import RiskReads, Standing, WholeHeights
from services.portfolio.writer import Writer

LOOK_EVERY_S = 1.0
CALM_S = 0.25  # events that come closer together than this lead to one look
# With 1,000 strategies and years of closes, reading the heights of the whole takes seconds. Before
# they are read again, this many times as long must have passed.
RESTS = 10.0
# What a broker refuses again and again is not sent to it every second.
FIRST_PAUSE = timedelta(seconds=1)
LONGEST_PAUSE = timedelta(seconds=60)

log = structlog.get_logger()


class Guardian:
    """Looks, judges, and submits what is to be done."""

    def __init__(
        self,
        writer: Writer,
        reads: RiskReads,
        feed: Feed,
        clock: Clock,
        look_every_s: float = LOOK_EVERY_S,
        rests: float = RESTS,
    ) -> None:
        self._writer = writer
        self._reads = reads
        self._feed = feed
        self._clock = clock
        self._look_every_s = look_every_s
        self._rests = rests
        self._watched: set[str] = set()  # whose trades and prices may lead to a halt
        self._heights: dict[BookKey, tuple[int, Heights]] = {}
        self._whole: WholeHeights | None = None
        self._read_whole_after = 0.0  # by the loop's clock
        self._sales: dict[str, _Retry] = {}

    async def run(self) -> None:
        """Looks for ever."""
        looks = Looks("guardian", self.look, lambda: self._watched, self._look_every_s, CALM_S)
        await looks.run(self._feed)

    async def look(self) -> None:
        """Looks once at everything that is to be watched.

        Raises:
            UnavailableError: The database is away.
        """
        whole, standings = await self._reads.standings()
        all_watched = whole.limits.may_halt and not whole.halted
        self._watched = {
            each.strategy_name for each in standings if all_watched or each.limits.may_halt
        }
        commands: list[Command] = [
            *await self._halts(standings),
            *self._silences(standings),
            *self._sales_to_go_on(standings),
        ]
        if all_watched:
            commands += await self._halts_of_all(whole, standings)
        # At once, so that the writer takes them into one transaction.
        await asyncio.gather(*map(self._submit, commands))

    def _silences(self, standings: Sequence[Standing]) -> list[Command]:
        """Strategies whose silence began or ended, by this replica's clock."""
        now = self._clock()
        return [
            NoteSilence(each.strategy_name)
            for each in standings
            if is_silent(each.limits.lease_s, each.seen_time, now) is not each.silent
        ]

    def _sales_to_go_on(self, standings: Sequence[Standing]) -> list[Command]:
        """Strategies that are to be flat and are not; after each order, a pause that grows."""
        now = self._clock()
        names = [each.strategy_name for each in standings if each.flattening]
        self._sales = {name: self._sales[name] for name in names if name in self._sales}
        return [
            SellTheRest(name)
            for name in names
            if name not in self._sales or self._sales[name].again <= now
        ]

    async def _halts(self, standings: Sequence[Standing]) -> list[Command]:
        """Strategies beyond a limit of their own."""
        watched = [
            each for each in standings if each.limits.may_halt and not each.halted and each.last
        ]
        await self._learn_heights(watched)
        found: list[Command] = []
        for each in watched:
            number, heights = self._heights.get(each.key, (0, None))
            if heights and number == each.number and beyond(each.limits, each.growth, heights):
                found.append(HaltForRisk(*each.key, number, heights))
        return found

    async def _learn_heights(self, watched: Sequence[Standing]) -> None:
        """Reads the heights of books that were valued since they were read."""
        known = {each.key: self._heights.get(each.key, (0, None))[0] for each in watched}
        new = [each.key for each in watched if known[each.key] != each.number]
        self._heights = {key: self._heights[key] for key in known if key in self._heights}
        if new:
            self._heights |= await self._reads.heights(new)

    async def _halts_of_all(self, whole: Whole, standings: Sequence[Standing]) -> list[Command]:
        """The halt of everything, when the whole is beyond its limits."""
        numbers = {each.key: each.number for each in standings if each.last}
        seen = await self._learn_whole(numbers)
        if seen is None:
            return []
        growths = {each.key: each.growth for each in standings}
        parts = [(part, growths[key]) for key, part in seen.parts.items()]
        growth = growth_of_whole(seen.heights.close, parts)
        if not beyond(whole.limits, growth, seen.heights):
            return []
        return [HaltAllForRisk(seen.heights, seen.parts)]

    async def _learn_whole(self, numbers: dict[BookKey, int]) -> WholeHeights | None:
        """The heights of the whole as of these valuations; None while they cannot be had."""
        if self._is_of(numbers):
            return self._whole
        clock = asyncio.get_running_loop().time
        begun = clock()
        if begun < self._read_whole_after:
            return None
        self._whole = await self._reads.heights_of_whole()
        ended = clock()
        self._read_whole_after = ended + self._rests * (ended - begun)
        return self._whole if self._is_of(numbers) else None

    def _is_of(self, numbers: dict[BookKey, int]) -> bool:
        parts = self._whole.parts if self._whole else {}
        return {key: part.number for key, part in parts.items()} == numbers

    async def _submit(self, command: Command) -> None:
        try:
            answer = await self._writer.submit(command)
        except (LedgerError, UnavailableError) as error:
            log.warning("guardian_refused", command=type(command).__name__, why=error.message)
            return
        if isinstance(command, SellTheRest) and isinstance(answer, Order):
            before = self._sales.get(command.strategy_name)
            pause = min(2 * before.pause, LONGEST_PAUSE) if before else FIRST_PAUSE
            self._sales[command.strategy_name] = _Retry(self._clock() + pause, pause)


@dataclass(frozen=True, slots=True)
class _Retry:
    """When to order the same sale again, if it comes to nothing."""

    again: datetime
    pause: timedelta

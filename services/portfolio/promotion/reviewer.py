"""The reviewer: asks the rule about strategies on AUTO as their sessions close, and on request.

Each replica has one. They need no election: of two that decide the same, the command lets one in.
"""

import asyncio
from collections.abc import AsyncIterator, Collection
from dataclasses import replace
from datetime import date

import structlog

from services.portfolio.analysis.statistics import Trading, performance
from services.portfolio.domain.book import RequestedMode
from services.portfolio.domain.errors import LedgerError, StrategyNotFoundError
from services.portfolio.domain.order import Mode
from services.portfolio.domain.promotion import Decision, Results, Rule, judged
from services.portfolio.live.commands import FollowMode
from services.portfolio.ports import Clock, Feed, LedgerEvent, UnavailableError
from services.portfolio.promotion.commands import Decide
from services.portfolio.promotion.ports import Footing, PromotionReads, Record
from services.portfolio.writer import Writer

LOOK_EVERY_S = 1.0  # what changed within it is looked at in one read
LOOK_AT_ALL_EVERY_S = 60.0
PACE_S = 0.02  # reviews are no closer than this: orders go before
NO_TRADING = Trading(0.0, 0, 0.0, 0.0)  # no rule asks for it

log = structlog.get_logger()


class Reviewer:
    """Decides which strategies on AUTO are promoted, and sees to it that modes follow."""

    def __init__(
        self,
        writer: Writer,
        reads: PromotionReads,
        feed: Feed,
        clock: Clock,
        rule: Rule,
        trading_mode: Mode = Mode.PAPER,
    ) -> None:
        self.reads = reads
        self._writer = writer
        self._feed = feed
        self._clock = clock
        self._rule = rule
        self._trading_mode = trading_mode
        self._reviewed: dict[str, date | None] = {}  # the session that each was last reviewed in

    async def review(self, strategy_name: str) -> Decision:
        """Asks the rule about a strategy now; what was decided is a fact, whatever it is.

        Raises:
            StrategyNotFoundError: There is none of this name.
            UnavailableError: The database is away.
        """
        await self._review(strategy_name, even_if_it_says_the_same=True)
        (newest,) = await self.reads.decisions(strategy_name, None, 1)
        return newest

    async def run(self) -> None:
        """Reviews for ever: whoever's session has closed, and whoever waited and is flat now."""
        while True:
            try:
                await self._listen()
            except UnavailableError:
                pass  # some may have been missed: all are looked at when the feed is back
            except Exception:
                # A fault of ours must not end the reviews until the router is started again.
                log.exception("review_failed", next=f"looking again in {LOOK_EVERY_S:g} s")
            await asyncio.sleep(LOOK_EVERY_S)

    async def look(self, names: Collection[str] | None = None) -> None:
        """Reviews the named strategies where there is need; all of them unless named.

        Raises:
            UnavailableError: The database is away.
        """
        for footing in await self.reads.footings(names):
            try:
                await self._look_at(footing)
            except (LedgerError, ValueError) as error:  # a curve that cannot be, say
                log.warning("not_reviewed", strategy=footing.strategy_name, why=str(error))

    async def _listen(self) -> None:
        """Looks at those that the feed tells of, and now and then at all, until the feed breaks."""
        told: set[str] = set()
        async with self._feed.subscribe() as events:
            gathering = asyncio.create_task(_gather(events, told), name="promotion-feed")
            try:
                await self._look_while(gathering, told)
            finally:
                gathering.cancel()

    async def _look_while(self, gathering: "asyncio.Task[None]", told: set[str]) -> None:
        now = asyncio.get_running_loop().time
        all_at = now()
        while not gathering.done():
            names = set(told)
            told.clear()
            if now() >= all_at:
                all_at = now() + LOOK_AT_ALL_EVERY_S
                await self.look()
            elif names:
                await self.look(names)
            await asyncio.sleep(LOOK_EVERY_S)
        await gathering  # raises why it has ended

    async def _look_at(self, footing: Footing) -> None:
        name = footing.strategy_name
        wanted = footing.mode_to_be(self._trading_mode, at_once=self._rule.at_once)
        if wanted is not footing.mode and footing.is_flat:
            await self._writer.submit(FollowMode(name))
        is_asked = footing.requested_mode is RequestedMode.AUTO and not self._rule.at_once
        if is_asked and (name not in self._reviewed or self._reviewed[name] != footing.session):
            await self._review(name, even_if_it_says_the_same=False)
            self._reviewed[name] = footing.session
            await asyncio.sleep(PACE_S)

    async def _review(self, strategy_name: str, *, even_if_it_says_the_same: bool) -> None:
        record = await self.reads.record(strategy_name)
        if record is None:
            raise StrategyNotFoundError(strategy_name)
        strategy, last = record.strategy, record.last
        verdict = judged(self._rule, strategy, self._results(record))
        is_news = verdict.promoted is not strategy.promoted or not verdict.repeats(last)
        if is_news or even_if_it_says_the_same:
            after = None if last is None else last.decision_id
            await self._writer.submit(Decide(strategy_name, verdict, after))

    def _results(self, record: Record) -> Results:
        """What the rule asks of a record."""
        days = record.days
        whole = performance(days, NO_TRADING)
        sharpe_ratio = whole.sharpe_ratio
        if record.strategy.mode is Mode.LIVE and len(days) > self._rule.live_days:
            before, latest = days[-self._rule.live_days - 1], days[-self._rule.live_days :]
            base = before.growth or 1.0
            part = [replace(day, growth=day.growth / base) for day in latest]
            sharpe_ratio = performance(part, NO_TRADING).sharpe_ratio
        age_s = None
        if record.price_time is not None:
            age_s = (self._clock() - record.price_time).total_seconds()
        return Results(len(days), record.trades, sharpe_ratio, whole.max_drawdown, age_s)


async def _gather(events: AsyncIterator[LedgerEvent], told: set[str]) -> None:
    async for event in events:
        told.update(event.strategies)

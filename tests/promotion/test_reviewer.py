"""The reviewer on a store: what it records, when it keeps quiet, and that replicas agree."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from itertools import count, cycle

import pytest

from services.portfolio.commands import BuyAll, CreateOrder, SellAll, UpsertPortfolio
from services.portfolio.domain.book import RequestedMode
from services.portfolio.domain.errors import LedgerError, StrategyNotFoundError
from services.portfolio.domain.order import Mode, Order, Side, Status
from services.portfolio.domain.promotion import Decision, Outcome, Rule, Verdict
from services.portfolio.domain.weather import BrokerState, Weather
from services.portfolio.history.commands import CloseSession
from services.portfolio.live.commands import BookExecution, EndOrder, FollowMode
from services.portfolio.live.gate import LiveBroker
from services.portfolio.live.ports import Seen
from services.portfolio.ports import Broker, OrderFilter, PriceMark, UnavailableError
from services.portfolio.promotion.commands import Decide
from services.portfolio.promotion.reviewer import Reviewer
from services.portfolio.writer import Writer
from tests.ledger.live_desk import executed
from tests.ledger.values import d
from tests.ports.stores import Store, postgresql_store, run_sql
from tests.support.waiting import wait_until_async
from tests.writer.desks import AT_ONCE, assert_balanced, order_of, rules

NAME = "A"
GOOD = Verdict("promotion", True, "Good.", ())
BAD = Verdict("demotion", False, "Bad.", ())
RULE = Rule(min_days=3, min_trades=1, min_sharpe=0.5, max_drawdown=0.25, live_days=3)
FIRST = date(2024, 1, 1)


@dataclass(frozen=True)
class Desk:
    """A router's writer and reviewer, and a strategy that reports its sessions."""

    store: Store
    writer: Writer
    reviewer: Reviewer
    sessions: Iterator[int]

    async def session(self, price: str) -> None:
        """Begins the next session, at a price; the one before is closed."""
        day = FIRST + timedelta(days=next(self.sessions))
        await self.writer.submit(CloseSession(NAME, day, given=True))
        await self.mark(price)

    async def mark(self, price: str) -> None:
        """The strategy sees a price."""
        await self.store.reads.mark([PriceMark(NAME, "SPXL", d(price), datetime.now(UTC))])

    async def decisions(self) -> list[Decision]:
        """All decisions, oldest first."""
        return (await self.store.promotion.decisions(NAME, None, 1000))[::-1]

    async def told(self) -> list[tuple[str, Outcome]]:
        """By which rule, and what followed."""
        return [(each.rule, each.outcome) for each in await self.decisions()]

    async def mode(self) -> Mode:
        """The mode in force."""
        (footing,) = await self.store.promotion.footings([NAME])
        return footing.mode


@asynccontextmanager
async def desk_on(
    store: Store, rule: Rule = RULE, trading_mode: Mode = Mode.LIVE
) -> AsyncIterator[Desk]:
    """A desk on the store; it is CONNECTED, and every ledger is checked in the end."""

    def now() -> datetime:
        return datetime.now(UTC)

    live = LiveBroker(lambda: Seen(Weather(BrokerState.CONNECTED, now()), {}), d("0.02"))
    brokers: dict[Mode, Broker] = {Mode.PAPER: AT_ONCE, Mode.LIVE: live}
    writer = Writer(
        store.ledger,
        replace(rules(), brokers=brokers, trading_mode=trading_mode, promote_at_once=rule.at_once),
    )
    reviewer = Reviewer(writer, store.promotion, store.feed, now, rule, trading_mode)
    try:
        yield Desk(store, writer, reviewer, count())
    finally:
        await writer.stop()
    await assert_balanced(store.reads)


@asynccontextmanager
async def running(reviewer: Reviewer) -> AsyncIterator[None]:
    """The reviewer does what it does in a router."""
    task = asyncio.create_task(reviewer.run())
    try:
        yield
        assert not task.done()
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def good_days(desk: Desk) -> None:
    """Days on paper that are just enough: it bought, made money, and sold."""
    await desk.writer.submit(UpsertPortfolio(NAME, d(10_000)))
    await desk.session("100")
    await desk.writer.submit(BuyAll(NAME, "SPXL", d(100)))
    for price in ("101", "103", "104"):
        await desk.session(price)
    await desk.writer.submit(SellAll(NAME, "SPXL", d(104)))


async def went_live(desk: Desk) -> None:
    """It was promoted, and its LIVE book has cash."""
    await good_days(desk)
    assert (await desk.reviewer.review(NAME)).outcome is Outcome.CHANGED
    await desk.writer.submit(UpsertPortfolio(NAME, d(10_000)))


async def test_good_days_on_paper_promote_a_flat_strategy(store: Store) -> None:
    async with desk_on(store) as desk:
        await good_days(desk)
        decision = await desk.reviewer.review(NAME)
        assert (decision.rule, decision.outcome) == ("promotion", Outcome.CHANGED)
        assert await desk.mode() is Mode.LIVE
        assert [(each.figure, each.value, each.holds) for each in decision.evidence[:2]] == [
            ("days on paper", "3", True),
            ("trades", "2", True),
        ]
        assert all(each.holds for each in decision.evidence)


async def test_a_bad_day_live_demotes_and_sixty_days_begin_anew(store: Store) -> None:
    async with desk_on(store) as desk:
        await went_live(desk)
        await desk.writer.submit(CreateOrder(NAME, "SPXL", Side.BUY, d(90), d(100)))
        stays = await desk.reviewer.review(NAME)
        assert (stays.rule, stays.outcome) == ("demotion", Outcome.STAYS)
        await bought_at_the_broker(desk)
        await desk.session("100")
        await desk.session("70")
        await desk.session("70")
        waits = await desk.reviewer.review(NAME)
        assert (waits.rule, waits.outcome) == ("demotion", Outcome.WAITS_UNTIL_FLAT)
        fall, _, flat = waits.evidence
        assert (fall.figure, fall.value, fall.wanted) == (
            "maximum drawdown LIVE",
            "0.27",
            "at most 0.2",
        )
        assert (flat.value, flat.holds) == ("90 SPXL held", False)
        assert await desk.mode() is Mode.LIVE
        sale = await order_of(desk.writer, SellAll(NAME, "SPXL", d(70)))
        await sold_at_the_broker(desk, sale.order_id)
        await desk.reviewer.look()
        assert await desk.mode() is Mode.PAPER
        again = await desk.reviewer.review(NAME)
        assert (again.rule, again.outcome) == ("promotion", Outcome.STAYS)
        assert (again.evidence[0].value, again.evidence[0].holds) == ("0", False)


async def test_a_live_strategy_that_has_lost_more_than_it_had_is_demoted(store: Store) -> None:
    async with desk_on(store) as desk:
        await went_live(desk)
        await desk.session("100")
        order = await order_of(desk.writer, CreateOrder(NAME, "SPXL", Side.BUY, d(90), d(100)))
        await desk.writer.submit(executed(order, "buy.01", 90, 300))  # a price nobody foresaw
        await desk.session("100")
        await desk.session("100")
        await desk.reviewer.look()
        newest = (await desk.decisions())[-1]
        assert (newest.rule, newest.outcome) == ("demotion", Outcome.WAITS_UNTIL_FLAT)
        assert newest.evidence[0].value == "1"


async def bought_at_the_broker(desk: Desk) -> None:
    (order,) = await desk.store.reads.orders(OrderFilter(NAME, None, Status.PENDING), None, 10)
    await desk.writer.submit(execution_of(order, "buy"))


async def sold_at_the_broker(desk: Desk, order_id: object) -> None:
    (order,) = await desk.store.reads.orders(OrderFilter(NAME, None, Status.PENDING), None, 10)
    assert order.order_id == order_id
    await desk.writer.submit(execution_of(order, "sale"))


async def test_a_verdict_that_says_the_same_is_kept_only_on_request(store: Store) -> None:
    async with desk_on(store) as desk:
        await desk.writer.submit(UpsertPortfolio(NAME, d(10_000)))
        for closes, decided in ((0, 1), (1, 2), (2, 2), (3, 3), (4, 3)):
            await desk.session("100")
            await desk.reviewer.look()
            await desk.reviewer.look()
            # The first close gives it a drawdown, of 0; the third makes enough days.
            assert await desk.told() == [("promotion", Outcome.STAYS)] * decided, closes
        await desk.reviewer.review(NAME)
        assert len(await desk.decisions()) == 4


async def test_who_has_a_mode_by_name_is_asked_about_on_request_alone(store: Store) -> None:
    async with desk_on(store) as desk:
        await desk.writer.submit(UpsertPortfolio(NAME, d(10), RequestedMode.LIVE))
        await desk.session("100")
        await desk.reviewer.look()
        assert await desk.told() == []
        decision = await desk.reviewer.review(NAME)
        assert (decision.rule, decision.outcome) == ("request", Outcome.STAYS)
        assert (decision.from_mode, decision.to_mode) == (Mode.LIVE, Mode.LIVE)


async def test_at_once_is_live_without_a_day_on_paper(store: Store) -> None:
    async with desk_on(store, Rule(at_once=True)) as desk:
        await desk.writer.submit(UpsertPortfolio(NAME, d(10_000)))
        await desk.session("100")
        await desk.reviewer.look()
        assert (await desk.mode(), await desk.told()) == (Mode.LIVE, [])
        assert (await desk.reviewer.review(NAME)).outcome is Outcome.STAYS


async def test_under_trading_mode_paper_a_review_still_says_what_the_rule_would(
    store: Store,
) -> None:
    async with desk_on(store, trading_mode=Mode.PAPER) as desk:
        await good_days(desk)
        decision = await desk.reviewer.review(NAME)
        assert (decision.rule, decision.outcome, decision.to_mode) == (
            "promotion",
            Outcome.STAYS,
            Mode.PAPER,
        )
        assert decision.reason == "All that the rule asks holds."
        (footing,) = await desk.store.promotion.footings([NAME])
        assert footing.promoted


async def test_nobody_is_reviewed_who_does_not_exist(store: Store) -> None:
    async with desk_on(store) as desk:
        with pytest.raises(StrategyNotFoundError):
            await desk.reviewer.review("Nobody")
        assert await desk.store.promotion.decisions(None, None, 10) == []


async def test_of_two_replicas_that_review_at_the_same_time_one_decides(store: Store) -> None:
    async with desk_on(store) as desk, desk_on(store) as other:
        await good_days(desk)
        both = (desk.reviewer.look(), other.reviewer.look())
        await asyncio.gather(*both)
        changed, *later = await desk.told()
        assert changed == ("promotion", Outcome.CHANGED)
        # Who came late enough to see it LIVE was asked by the other rule.
        assert later in ([], [("demotion", Outcome.STAYS)])


async def test_a_running_reviewer_sees_each_close_and_each_flat_moment(store: Store) -> None:
    async with desk_on(store) as desk, running(desk.reviewer):
        await desk.writer.submit(UpsertPortfolio(NAME, d(10_000)))
        await desk.session("100")
        await desk.writer.submit(BuyAll(NAME, "SPXL", d(100)))
        for price in ("101", "103", "104"):
            await desk.session(price)

        async def waits() -> bool:
            return ("promotion", Outcome.WAITS_UNTIL_FLAT) in await desk.told()

        await wait_until_async(waits, 20, "it waits until it is flat")
        await desk.store.cut()  # what the feed tells meanwhile is made up for

        async def sold() -> bool:
            try:
                await desk.writer.submit(SellAll(NAME, "SPXL", d(104), "sale"))
            except UnavailableError:
                return False  # the writer's connection was cut too
            return True

        await wait_until_async(sold, 20, "sold")

        async def live() -> bool:
            return await desk.mode() is Mode.LIVE

        await wait_until_async(live, 20, "LIVE once it is flat")
        assert (await desk.told())[-1] == ("promotion", Outcome.CHANGED)


async def test_a_mode_never_changes_between_an_order_and_its_end(migrated_url: str) -> None:
    """Two routers: on one the strategy trades as fast as it can, the other promotes and demotes."""
    async with (
        postgresql_store(migrated_url) as one,
        postgresql_store(migrated_url) as two,
        desk_on(one) as desk,
        desk_on(two) as other,
    ):
        await desk.writer.submit(UpsertPortfolio(NAME, d(10_000), RequestedMode.LIVE))
        await desk.writer.submit(UpsertPortfolio(NAME, d(10_000), RequestedMode.AUTO))
        trading = asyncio.create_task(trade(desk, rounds=150))
        verdicts = cycle((GOOD, BAD))
        while not trading.done():
            last = (await other.decisions())[-1]
            await other.writer.submit(Decide(NAME, next(verdicts), last.decision_id))
            for _ in range(3):
                await other.writer.submit(FollowMode(NAME))
        await trading
        outcomes = Counter(each.outcome for each in await desk.decisions())
        assert outcomes[Outcome.CHANGED] > 5
        assert outcomes[Outcome.WAITS_UNTIL_FLAT] > 5
        assert await run_sql(migrated_url, CAUGHT) == []


# Orders, apart from twins', that were accepted before a change of their strategy's mode and ended
# after it.
CAUGHT = """
SELECT o.order_id, d.decision_id FROM orders o JOIN decisions d USING (strategy_name)
WHERE d.outcome = 'CHANGED' AND o.twin_of IS NULL
  AND o.create_time < d.time AND o.update_time > d.time
"""


async def trade(desk: Desk, rounds: int) -> None:
    """Buys and sells; what goes to the broker is filled, or rejected, a little later."""
    for number in range(rounds):
        side = BuyAll(NAME, "SPXL", d(100)) if number % 2 else SellAll(NAME, "SPXL", d(100))
        try:
            order = await order_of(desk.writer, side)
        except LedgerError:
            await desk.writer.submit(UpsertPortfolio(NAME))
            continue
        await asyncio.sleep(0.002)  # in which a mode might change
        if order.is_open and number % 3:
            await desk.writer.submit(execution_of(order, f"{number}"))
        elif order.is_open:
            await desk.writer.submit(EndOrder(order.order_id, Status.REJECTED, "no"))


def execution_of(order: Order, name: str) -> BookExecution:
    """The broker fills an order whole, at its price."""
    return executed(order, f"{name}.01", str(order.quantity), str(order.price))

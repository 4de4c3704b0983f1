"""Limits that halt: drawdown and daily loss, of a strategy and of the whole."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from services.portfolio.commands import SellAll, UpsertPortfolio
from services.portfolio.domain.book import RequestedMode, State, Strategy, new_book
from services.portfolio.domain.errors import PortfolioHaltedError, StrategyHaltedError
from services.portfolio.domain.ledger import open_book
from services.portfolio.domain.order import Mode
from services.portfolio.domain.risk import Heights, Limits, Whole, beyond
from services.portfolio.ports import Changes, Needs
from services.portfolio.risk.commands import (
    HaltAllForRisk,
    HaltForRisk,
    HaltPortfolio,
    ResumePortfolio,
)
from services.portfolio.risk.guardian import Guardian
from services.portfolio.risk.ports import RiskReads, Standing
from tests.ledger.values import d
from tests.ports.stores import Store
from tests.risk.desk import RiskDesk, desk_on
from tests.support.waiting import wait_until_async


@asynccontextmanager
async def watching(desk: RiskDesk) -> AsyncIterator[None]:
    """The guardian at work."""
    task = asyncio.create_task(desk.guardian.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def state(desk: RiskDesk, name: str) -> State:
    return (await desk.view(name)).state


@pytest.mark.parametrize(
    ("growth", "within"), [("0.8", True), ("0.799999999999999999", False), ("1.2", True)]
)
def test_what_is_exactly_at_a_limit_is_within_it(growth: str, within: bool) -> None:
    heights = Heights(d(1), d(1))
    for limits in (Limits(max_drawdown=d("0.2")), Limits(max_daily_loss=d("0.2"))):
        assert (not beyond(limits, d(growth), heights)) is within
    assert not beyond(Limits(), d(growth), heights)


def test_the_drawdown_is_from_the_high_and_the_daily_loss_from_the_close() -> None:
    heights = Heights(d("2"), d("1.6"))
    both = Limits(max_drawdown=d("0.25"), max_daily_loss=d("0.1"))
    assert not beyond(both, d("1.5"), heights)
    assert beyond(both, d("1.43"), heights) == (
        "max_drawdown 0.25 is exceeded: growth 1.43 is 0.285 below the high of 2."
    )
    assert beyond(replace(both, max_drawdown=None), d("1.43"), heights) == (
        "max_daily_loss 0.1 is exceeded: growth 1.43 is 0.10625 below the last close of 1.6."
    )
    assert not beyond(both, d(0), Heights(d(0), d(0)))  # nothing is left to be lost


async def test_a_drawdown_at_its_limit_halts_nobody_and_one_beyond_it_does(
    desk: RiskDesk,
) -> None:
    await desk.open("A", max_drawdown="0.2")
    await desk.buy_all("A", "100")
    await desk.mark("A", "80")
    await desk.guardian.look()
    assert await state(desk, "A") is State.ACTIVE
    await desk.mark("A", "79.99")
    await desk.guardian.look()
    why = "max_drawdown 0.2 is exceeded: growth 0.7999 is 0.2001 below the high of 1."
    with pytest.raises(StrategyHaltedError, match=r"growth 0\.7999"):
        await desk.buy("A", "1", "80")
    assert (await desk.view("A")).halt_reason == why
    *_, halt = await desk.events("A")
    assert (halt.kind, halt.reason, halt.actor) == ("HALT", why, "router")
    await desk.guardian.look()
    assert await desk.told("A") == ["LIMITS", "HALT"]
    assert (await desk.view("A")).invested  # it only halts


async def test_the_drawdown_is_from_the_highest_close_and_money_is_no_gain(desk: RiskDesk) -> None:
    await desk.open("A", max_drawdown="0.2")
    await desk.buy_all("A", "100")
    await desk.close("A", 1)
    await desk.mark("A", "150")
    await desk.close("A", 2)
    await desk.submit(UpsertPortfolio("A", d(100000)))  # on top of 1500 USD in shares
    await desk.submit(UpsertPortfolio("A", d(0)))
    await desk.mark("A", "120")
    await desk.guardian.look()
    assert await state(desk, "A") is State.ACTIVE
    await desk.mark("A", "119.9")
    await desk.guardian.look()
    assert "below the high of 1.5" in (await desk.view("A")).halt_reason


async def test_the_daily_loss_is_from_the_last_close(desk: RiskDesk) -> None:
    await desk.open("A", max_daily_loss="0.05")
    await desk.buy_all("A", "100")
    await desk.close("A", 1)
    for day, price in ((2, "96"), (3, "92"), (4, "88")):
        await desk.mark("A", price)
        await desk.guardian.look()
        await desk.close("A", day)
    assert await state(desk, "A") is State.ACTIVE
    await desk.mark("A", "83.6")  # exactly 5% below 88
    await desk.guardian.look()
    assert await state(desk, "A") is State.ACTIVE
    await desk.mark("A", "83.59")
    await desk.guardian.look()
    assert "max_daily_loss 0.05" in (await desk.view("A")).halt_reason


@pytest.mark.parametrize("limit", ["max_drawdown", "max_daily_loss"])
async def test_after_a_resume_it_begins_anew_where_it_was_resumed(
    desk: RiskDesk, limit: str
) -> None:
    await desk.open("A", **{limit: "0.2"})
    await desk.buy_all("A", "100")
    await desk.close("A", 1)
    await desk.mark("A", "70")
    await desk.guardian.look()
    assert await state(desk, "A") is State.HALTED
    await desk.resume("A")
    await desk.guardian.look()
    await desk.mark("A", "56")  # 20% below 70
    await desk.guardian.look()
    assert await state(desk, "A") is State.ACTIVE
    await desk.mark("A", "55.99")
    await desk.guardian.look()
    assert await state(desk, "A") is State.HALTED
    assert await desk.told("A") == ["LIMITS", "HALT", "RESUME", "HALT"]


async def test_a_halt_is_judged_again_under_the_lock(desk: RiskDesk) -> None:
    await desk.open("A", max_drawdown="0.2")
    await desk.buy_all("A", "100")
    ((_, (standing,)), heights) = (
        await desk.store.risk.standings(),
        await desk.store.risk.heights([("A", Mode.PAPER)]),
    )
    number, seen = heights["A", Mode.PAPER]
    assert number == standing.number
    command = HaltForRisk("A", Mode.PAPER, number, seen)
    await desk.mark("A", "79")
    await desk.mark("A", "81")  # it has recovered since the guardian looked
    await desk.submit(command)
    await desk.mark("A", "79")
    await desk.submit(replace(command, number=number + 1))  # it was valued since
    await desk.submit(replace(command, mode=Mode.LIVE))
    assert await state(desk, "A") is State.ACTIVE
    await desk.submit(command)
    await desk.submit(command)
    assert await desk.told("A") == ["LIMITS", "HALT"]


async def test_a_loss_of_the_whole_halts_all(desk: RiskDesk) -> None:
    await desk.open("A", "1000")
    await desk.open("B", "3000")
    await desk.buy_all("A", "100")
    await desk.buy_all("B", "100")
    await desk.limit("", max_drawdown="0.25")
    await desk.mark("A", "10")  # 900 of 4000
    await desk.mark("B", "96.66666667")
    await desk.guardian.look()
    assert await state(desk, "A") is State.ACTIVE
    await desk.mark("B", "96.6")
    await desk.guardian.look()
    for name in "AB":
        with pytest.raises(PortfolioHaltedError):
            await desk.buy(name, "1", "1")
    assert (await desk.view("B")).halt_reason.startswith("max_drawdown 0.25 is exceeded: growth")
    assert await desk.told() == ["LIMITS", "HALT"]
    await desk.guardian.look()
    assert len(await desk.events()) == 2
    # After the resume it begins anew, for the whole and for it alone.
    await desk.submit(ResumePortfolio())
    await desk.guardian.look()
    assert await state(desk, "A") is State.ACTIVE
    await desk.mark("B", "71.7")
    await desk.guardian.look()
    assert await state(desk, "A") is State.ACTIVE
    await desk.mark("B", "71.6")
    await desk.guardian.look()
    assert await state(desk, "A") is State.HALTED


async def test_the_daily_loss_of_the_whole_is_weighted_by_what_each_had(desk: RiskDesk) -> None:
    await desk.open("A", "1000")
    await desk.open("B", "3000")
    for name in "AB":
        await desk.buy_all(name, "100")
        await desk.close(name, 1)
        await desk.mark(name, "200")
        await desk.close(name, 2)
    await desk.limit("", max_daily_loss="0.1")
    # Of 8000 at the close, 800 may be lost; that A gets more cash is no gain.
    await desk.submit(UpsertPortfolio("A", d(2000)))  # 4000 now; 10000 in all
    await desk.mark("B", "166.66666667")
    await desk.guardian.look()
    assert await state(desk, "A") is State.ACTIVE
    await desk.mark("B", "166.6")
    await desk.guardian.look()
    assert await state(desk, "A") is State.HALTED


async def test_a_halt_of_all_is_judged_again_under_the_lock(desk: RiskDesk) -> None:
    await desk.open("A", max_drawdown="0.9")
    await desk.buy_all("A", "100")
    await desk.limit("", max_drawdown="0.2")
    seen = await desk.store.risk.heights_of_whole()
    command = HaltAllForRisk(seen.heights, seen.parts)
    await desk.submit(command)
    await desk.mark("A", "79")
    await desk.open("B")  # is not among what was seen
    await desk.submit(command)
    assert await desk.told("") == ["LIMITS"]
    seen = await desk.store.risk.heights_of_whole()
    await desk.submit(HaltAllForRisk(seen.heights, seen.parts))
    assert await desk.told("") == ["LIMITS"]  # B's 1000 USD make it 10.5%
    await desk.mark("A", "50")
    await desk.submit(HaltAllForRisk(seen.heights, seen.parts))
    assert await desk.told("") == ["LIMITS", "HALT"]


async def test_the_guardian_acts_on_trades_and_prices_as_they_come(store: Store) -> None:
    async with desk_on(store) as desk, watching(desk):
        await desk.open("A", max_drawdown="0.2")
        await desk.buy_all("A", "100")
        await desk.mark("A", "50")

        async def halted() -> bool:
            return await state(desk, "A") is State.HALTED

        await wait_until_async(halted, 10, "A is halted by its price")
        await desk.resume("A")
        await desk.submit(SellAll("A", "SPXL", d("25")))
        await wait_until_async(halted, 10, "A is halted by its trade")


async def test_the_guardian_goes_on_when_its_feed_is_cut(store: Store) -> None:
    async with desk_on(store) as desk, watching(desk):
        await desk.open("A", max_drawdown="0.2")
        await desk.buy_all("A", "100")
        for price in ("79", "60", "40"):
            await store.cut()

            async def act(price: str = price) -> bool:
                # PostgreSQL's cut ends the writer's connection as well.
                try:
                    await desk.mark("A", price)
                    return await state(desk, "A") is State.HALTED
                except Exception:  # noqa: BLE001 - whatever a cut line does
                    return False

            await wait_until_async(act, 20, f"A is halted at {price}")
            await desk.resume("A")


async def test_a_fault_of_ours_does_not_end_the_watch(store: Store) -> None:
    async with desk_on(store) as desk:
        faulty = FaultyReads(desk.store.risk, faults=2)
        reads = cast("RiskReads", faulty)
        guardian = Guardian(desk.writer, reads, store.feed, lambda: datetime.now(UTC), 0.05)
        async with watching(replace(desk, guardian=guardian)):
            await desk.open("A", max_drawdown="0.2")
            await desk.buy_all("A", "100")
            await desk.mark("A", "50")

            async def halted() -> bool:
                return await state(desk, "A") is State.HALTED

            await wait_until_async(halted, 10, "A is halted all the same")
            assert faulty.faults == 0


class FaultyReads:
    """Reads whose first looks fail as no read should."""

    def __init__(self, reads: RiskReads, faults: int) -> None:
        self._reads = reads
        self.faults = faults

    async def standings(self) -> tuple[Whole, Sequence[Standing]]:
        if self.faults:
            self.faults -= 1
            raise ValueError("a fault")
        return await self._reads.standings()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reads, name)


async def test_two_guardians_halt_once(store: Store) -> None:
    async with desk_on(store) as one, desk_on(store) as two, watching(one), watching(two):
        await one.open("A", max_drawdown="0.2")
        await one.limit("", max_drawdown="0.3")
        await one.buy_all("A", "100")
        await one.mark("A", "50")

        async def done() -> bool:
            return await state(one, "A") is State.HALTED and "HALT" in await one.told("")

        await wait_until_async(done, 10, "A and the whole are halted")
        assert (await one.told("A")).count("HALT") <= 1
        assert (await one.told("")).count("HALT") == 1


async def test_who_is_halted_with_all_is_not_halted_for_itself_as_well(desk: RiskDesk) -> None:
    await desk.open("A", max_drawdown="0.2")
    await desk.buy_all("A", "100")
    await desk.submit(HaltPortfolio("a look"))
    await desk.mark("A", "50")
    await desk.guardian.look()
    assert await desk.told("A") == ["LIMITS"]
    await desk.submit(ResumePortfolio())
    await desk.guardian.look()
    assert await desk.told("A") == ["LIMITS", "HALT"]  # by its own limit


async def test_a_resume_values_the_book_of_either_mode(desk: RiskDesk) -> None:
    live = ("A", Mode.LIVE)
    opened = new_book(*live, datetime.now(UTC))
    await desk.open("A", max_drawdown="0.2")
    async with desk.store.ledger.transaction() as transaction:
        await transaction.load(Needs({"A"}))
        await transaction.save(Changes(books={live: opened}))
    await desk.halt("A")
    await desk.resume("A")
    await desk.submit(HaltPortfolio(""))
    await desk.submit(ResumePortfolio())
    heights = await desk.store.risk.heights([("A", Mode.PAPER), live])
    assert {key: number for key, (number, _) in heights.items()} == {("A", Mode.PAPER): 3, live: 2}
    # Whichever is in force later on, the whole is judged by its last valuation.
    lived = replace(await desk.strategy("A"), mode=Mode.LIVE)
    async with desk.store.ledger.transaction() as transaction:
        await transaction.load(Needs({"A"}))
        await transaction.save(Changes(strategies={"A": lived}))
    parts = (await desk.store.risk.heights_of_whole()).parts
    assert {key: part.number for key, part in parts.items()} == {live: 2}


@pytest.mark.parametrize("name", ["A", ""])
async def test_a_book_that_was_never_valued_is_with_its_first_limit(
    desk: RiskDesk, name: str
) -> None:
    # As the books are of a system that is older than valuations.
    key = ("A", Mode.PAPER)
    now = datetime.now(UTC)
    book, entries = open_book(*key, d(1000), "", now, "")
    async with desk.store.ledger.transaction() as transaction:
        await transaction.load(Needs({"A"}))
        made = Strategy("A", RequestedMode.PAPER, Mode.PAPER, State.ACTIVE, "", now)
        await transaction.save(
            Changes(strategies={"A": made}, books={key: book}, cash_entries=list(entries))
        )
    await desk.buy_all("A", "100")
    await desk.limit(name, max_drawdown="0.2")
    await desk.mark("A", "79")
    await desk.guardian.look()
    assert await state(desk, "A") is State.HALTED

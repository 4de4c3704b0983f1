"""What a fresh system knows, however its first start goes."""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import replace
from decimal import Decimal

from services.portfolio.commands import BuyAll, UpsertPortfolio
from services.portfolio.domain.book import RequestedMode
from services.portfolio.domain.order import Mode
from services.portfolio.live.funding import Funding, follow_modes
from services.portfolio.seed import STRATEGIES, seed
from services.portfolio.storage.memory import MemoryLedger, MemoryReads
from services.portfolio.views import PortfolioView
from services.portfolio.writer import Writer
from tests.ledger.values import d
from tests.ports.stores import Store, postgresql_store
from tests.writer.desks import assert_balanced, rules


@asynccontextmanager
async def writer_on(store: Store, trading_mode: Mode = Mode.PAPER) -> AsyncIterator[Writer]:
    """A writer on the store."""
    writer = Writer(store.ledger, replace(rules(), trading_mode=trading_mode, promote_at_once=True))
    try:
        yield writer
    finally:
        await writer.stop()


async def cash_of(store: Store) -> dict[str, Decimal]:
    """The cash of every strategy."""
    return {view.strategy_name: view.cash for view in await store.reads.portfolios()}


async def test_a_fresh_system_shares_its_capital_among_five_strategies(store: Store) -> None:
    async with writer_on(store) as writer:
        await seed(writer, store.reads, d("100000.04"))
    assert await cash_of(store) == dict.fromkeys(STRATEGIES, d(20000))
    await assert_balanced(store.reads)


async def test_a_second_start_changes_nothing(store: Store) -> None:
    async with writer_on(store) as writer:
        await seed(writer, store.reads, d(100_000))
        await writer.submit(BuyAll(STRATEGIES[0], "SPXL", d(100)))
        await writer.submit(UpsertPortfolio("Mine", d(5)))
        before = await store.reads.portfolios()
        await seed(writer, store.reads, d(200_000))
        assert await store.reads.portfolios() == before


async def test_no_more_than_the_live_capital_is_given_whoever_comes_and_goes(store: Store) -> None:
    async with writer_on(store, Mode.LIVE) as writer:
        funding = Funding(writer, store.promotion, d(100), at_once=True)
        await writer.submit(UpsertPortfolio("A"))
        await funding.share(d(1000), d(0))
        await writer.submit(UpsertPortfolio("A", requested_mode=RequestedMode.PAPER))
        await writer.submit(UpsertPortfolio("B"))
        await funding.share(d(1000), d(100))
        await writer.submit(UpsertPortfolio("A", requested_mode=RequestedMode.AUTO))
        assert await cash_of(store) == {"A": d(100), "B": d(0)}
    await assert_balanced(store.reads)


async def test_the_paper_capital_never_becomes_cash_of_a_live_book(store: Store) -> None:
    async with writer_on(store, Mode.LIVE) as writer:
        await seed(writer, store.reads, d(100_000))
        live = await follow_modes(writer, store.promotion, Mode.LIVE, at_once=True)
        assert live == tuple(sorted(STRATEGIES))
        await seed(writer, store.reads, d(100_000))
    assert await cash_of(store) == dict.fromkeys(STRATEGIES, 0)
    async with writer_on(store) as writer:
        assert await follow_modes(writer, store.promotion, Mode.PAPER) == ()
    assert await cash_of(store) == dict.fromkeys(STRATEGIES, 20_000)
    await assert_balanced(store.reads)


async def test_a_system_with_strategies_of_its_own_is_not_seeded(store: Store) -> None:
    async with writer_on(store) as writer:
        await writer.submit(UpsertPortfolio("Mine", d(5)))
        await seed(writer, store.reads, d(100_000))
    assert await cash_of(store) == {"Mine": 5}


async def test_a_first_start_that_was_killed_is_finished_by_the_second(store: Store) -> None:
    async with writer_on(store) as writer:
        await writer.submit(UpsertPortfolio(STRATEGIES[0], d(20_000)))
        await seed(writer, store.reads, d(100_000))
    assert await cash_of(store) == dict.fromkeys(STRATEGIES, d(20_000))


async def test_replicas_that_start_together_give_the_capital_once(migrated_url: str) -> None:
    async with (
        postgresql_store(migrated_url) as one,
        postgresql_store(migrated_url) as other,
        writer_on(one) as first,
        writer_on(other) as second,
    ):
        await asyncio.gather(
            seed(first, one.reads, d(100_000)), seed(second, other.reads, d(100_000))
        )
        assert await cash_of(one) == dict.fromkeys(STRATEGIES, d(20_000))
        await assert_balanced(one.reads)


async def test_a_replica_that_starts_late_does_not_give_spent_cash_again(
    migrated_url: str,
) -> None:
    # It saw an empty system, and by the time it seeds, the first one has traded.
    async with (
        postgresql_store(migrated_url) as one,
        postgresql_store(migrated_url) as other,
        writer_on(one) as first,
        writer_on(other) as second,
    ):
        await seed(first, one.reads, d(100_000))
        await first.submit(BuyAll(STRATEGIES[0], "SPXL", d(100)))
        await seed(second, SawNothing(MemoryLedger()), d(100_000))
        assert (await cash_of(one))[STRATEGIES[0]] == 0


class SawNothing(MemoryReads):
    """Reads whose first look at the portfolio was before there was one."""

    async def portfolios(self, names: Collection[str] | None = None) -> list[PortfolioView]:
        return []

"""The kill switch under load: two routers on one PostgreSQL, 64 callers, and no order after it."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from services.portfolio.commands import CreateOrder, UpsertPortfolio
from services.portfolio.domain.errors import PortfolioHaltedError
from services.portfolio.domain.order import Order, Side
from services.portfolio.ports import UnavailableError
from services.portfolio.risk.commands import HaltPortfolio, ResumePortfolio
from services.portfolio.views import WholeView
from services.portfolio.writer import Writer
from tests.ledger.values import d
from tests.ports.stores import Store, postgresql_store, run_sql
from tests.support.waiting import wait_until_async
from tests.writer.desks import assert_balanced, open_strategies, order_of, writer_on

NAMES = [f"S{i:02}" for i in range(16)]
COUNT = "SELECT count(*) FROM orders"
VERSIONS = "SELECT strategy_name, version FROM books ORDER BY strategy_name"
OPEN = "SELECT count(*) FROM strategies WHERE NOT portfolio_halted"
Replicas = list[tuple[Store, Writer]]


@pytest.fixture
async def replicas(migrated_url: str) -> AsyncIterator[Replicas]:
    """Two routers' stores and writers; each strategy has 1,000,000 USD. Balanced in the end."""
    async with AsyncExitStack() as running:
        stores = [await running.enter_async_context(postgresql_store(migrated_url)) for _ in "12"]
        writers = [await running.enter_async_context(writer_on(one.ledger)) for one in stores]
        await open_strategies(writers[0], NAMES, "1000000")
        yield list(zip(stores, writers, strict=True))
        await assert_balanced(stores[0].reads)


class Callers:
    """64 callers who order and order until they are stopped; refusals do not stop them."""

    def __init__(self, replicas: Replicas) -> None:
        self.answered: list[Order] = []
        self.refused = 0
        self.created = 0
        self._going = True
        self._replicas = replicas
        self._tasks = [asyncio.create_task(self._call(i)) for i in range(64)]

    async def stop(self) -> None:
        self._going = False
        await asyncio.gather(*self._tasks)

    async def _call(self, caller: int) -> None:
        _, writer = self._replicas[caller % 2]
        for n in itertools.count():
            if not self._going:
                return
            command = CreateOrder(NAMES[caller % 16], f"X{caller}", Side.BUY, d(1), d("0.5"))
            try:
                self.answered.append(await order_of(writer, command))
            except PortfolioHaltedError:
                self.refused += 1
                if caller % 8 == 0:  # a new strategy is no way round it
                    await writer.submit(UpsertPortfolio(f"New{caller}_{n}", d(100)))
                    self.created += 1
            except UnavailableError:
                pass  # its batch met others too often; it may call again


@pytest.mark.parametrize("flatten", [False, True])
async def test_no_order_is_accepted_once_the_kill_switch_has_answered(
    replicas: Replicas, migrated_url: str, flatten: bool
) -> None:
    callers = Callers(replicas)
    try:
        for round_ in range(3):
            so_far = len(callers.answered)

            async def busy(so_far: int = so_far) -> bool:
                return len(callers.answered) > so_far + 300

            await wait_until_async(busy, 60, "orders are answered")
            _, writer = replicas[round_ % 2]
            view = await writer.submit(HaltPortfolio(f"halt {round_}", flatten))
            orders, books = await asyncio.gather(
                run_sql(migrated_url, COUNT), run_sql(migrated_url, VERSIONS)
            )
            assert isinstance(view, WholeView)
            assert view.halted
            refused = callers.refused

            async def refusing(refused: int = refused) -> bool:
                return callers.refused > refused + 300

            await wait_until_async(refusing, 60, "orders are refused")
            assert await run_sql(migrated_url, COUNT) == orders
            assert set(books) <= set(await run_sql(migrated_url, VERSIONS))  # new ones aside
            assert await run_sql(migrated_url, OPEN) == [(0,)]
            if flatten:
                assert not any(p.invested for p in await replicas[0][0].reads.portfolios())
            await writer.submit(ResumePortfolio())
    finally:
        await callers.stop()
    assert callers.created > 0


async def test_both_replicas_may_pull_it_at_once(replicas: Replicas) -> None:
    wishes = [writer.submit(HaltPortfolio(f"by {i}")) for i in range(8) for _, writer in replicas]
    found = await asyncio.gather(*wishes)
    assert all(isinstance(view, WholeView) and view.halted for view in found)
    with pytest.raises(PortfolioHaltedError):
        await replicas[0][1].submit(CreateOrder(NAMES[0], "X", Side.BUY, d(1), d(1)))

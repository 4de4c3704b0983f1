"""Two routers, one strategy: each session is closed once, with its own last prices."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from decimal import Decimal

import pytest

from services.portfolio.commands import CreateOrder
from services.portfolio.domain.order import Mode, Side
from services.portfolio.ports import UnavailableError
from SureshotSDK import PortfolioClient
from SureshotSDK.errors import PortfolioError
from tests.history.desk import day, desk_on
from tests.ledger.values import d
from tests.ports.line import Line
from tests.ports.stores import postgresql_store
from tests.support.router import Router
from tests.writer.desks import assert_balanced

KILL_AT = {7, 15, 22}  # sessions


async def test_racing_replicas_close_each_session_once_at_the_prices_before(
    migrated_url: str,
) -> None:
    async with AsyncExitStack() as running:
        stores = [await running.enter_async_context(postgresql_store(migrated_url)) for _ in "12"]
        desks = [await running.enter_async_context(desk_on(store)) for store in stores]
        await desks[0].set_cash("A", 1000)
        await desks[0].writer.submit(CreateOrder("A", "SPXL", Side.BUY, d(10), d(10)))
        for number in range(1, 21):
            # All say the same price, so that whoever comes first, the session ends with it.
            calls = [desks[i % 2].mark("A", day(number), SPXL=10 + number) for i in range(12)]
            await asyncio.gather(*calls)
        closes = await desks[1].closes("A")
        assert [close.session for close in closes] == [day(n) for n in range(1, 20)]
        assert [close.equity for close in closes] == [900 + 10 * (10 + n) for n in range(1, 20)]
        await assert_balanced(stores[0].reads)


async def test_no_price_of_a_session_is_kept_while_the_one_before_cannot_be_closed(
    migrated_url: str,
) -> None:
    async with postgresql_store(migrated_url) as store:
        with Line(migrated_url) as line:
            async with (
                postgresql_store(line.url) as cut_off,
                desk_on(replace(store, ledger=cut_off.ledger)) as desk,
            ):
                await desk.set_cash("A", 1000)
                await desk.writer.submit(CreateOrder("A", "SPXL", Side.BUY, d(10), d(10)))
                await desk.mark("A", day(1), SPXL=11)
                line.cut()
                await desk.mark("A", day(1), SPXL=12)  # needs no writer
                with pytest.raises(UnavailableError) as told:
                    await desk.mark("A", day(2), SPXL=99)
                assert told.value.reason == "DATABASE_UNAVAILABLE"
                (view,) = await store.reads.portfolios(["A"])
                assert (view.session, view.equity) == (day(1), 900 + 120)
                line.mend()
                await desk.mark("A", day(2), SPXL=99)
                assert [close.equity for close in await desk.closes("A")] == [1020]


def test_a_router_killed_while_it_closes_loses_no_session_and_doubles_none(
    router: Callable[..., Router], database_url: str
) -> None:
    one, other = router(database_url), router(database_url)
    shares = Decimal(50)
    with PortfolioClient(one.address, retry_for_s=0) as first:
        first.upsert_portfolio("A", cash=1000)
        first.create_order("A", "SPXL", "BUY", shares, 10)
    clients = [PortfolioClient(each.address, retry_for_s=0) for each in (one, other)]
    for number in range(1, 30):
        if number in KILL_AT:
            # It dies with a call that ends a session somewhere on its way.
            with ThreadPoolExecutor() as pool:
                on_its_way = pool.submit(report, clients[0], number)
                one.kill()
                with suppress(PortfolioError):
                    on_its_way.result()
            clients[0].close()
            one = router(database_url)
            clients[0] = PortfolioClient(one.address, retry_for_s=0)
        for client in clients if number % 2 else clients[::-1]:
            report(client, number)
    for client in clients:
        client.close()
    closes = asyncio.run(all_closes(database_url))
    assert closes == [
        (day(number), 1000 - 10 * shares + shares * (10 + number)) for number in range(1, 29)
    ]


def report(client: PortfolioClient, number: int) -> None:
    """The price of a session is reported."""
    client.report_prices("A", {"SPXL": 10 + number}, session=day(number))


async def all_closes(url: str) -> list[tuple[object, Decimal]]:
    """The sessions that were closed, oldest first, with the equity; the ledger is balanced."""
    async with postgresql_store(url) as store:
        await assert_balanced(store.reads)
        closes = await store.history.closes(("A", Mode.PAPER), None, None)
        return [(close.session, close.equity) for close in reversed(closes)]

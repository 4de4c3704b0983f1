"""Selling all in LIVE: what is at the broker, and a broker that is away."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime

import pytest

from services.gateway import SimulatedGateway
from services.portfolio.domain.book import State
from services.portfolio.domain.errors import StrategyHaltedError
from services.portfolio.domain.order import Side, Status
from services.portfolio.domain.weather import BrokerState
from services.portfolio.risk.commands import HaltPortfolio, HaltStrategy
from services.portfolio.risk.guardian import Guardian
from services.portfolio.storage.database import Database
from services.portfolio.storage.risk import PostgresRiskReads
from services.portfolio.views import WholeView
from tests.live.desk import NAME, SOON_S, Desk, live_desk
from tests.ports.stores import run_sql
from tests.support.gateway import gateway
from tests.support.waiting import wait_until_async

FLATTENING = f"SELECT flattening FROM strategies WHERE strategy_name = '{NAME}'"


@pytest.fixture
async def broker() -> AsyncIterator[SimulatedGateway]:
    """A simulated gateway of the test's own: SPXL at 100 USD."""
    async with gateway() as one:
        yield one


@pytest.fixture
async def desk(migrated_url: str, broker: SimulatedGateway) -> AsyncIterator[Desk]:
    """A LIVE desk with a guardian; exactly once is checked after the test."""
    async with live_desk(migrated_url, broker) as one:
        database = await Database.connect(migrated_url)
        guardian = Guardian(
            one.writer, PostgresRiskReads(database), one.feed, lambda: datetime.now(UTC)
        )
        watching = asyncio.create_task(guardian.run())
        try:
            yield one
            await one.assert_exactly_once()
        finally:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching
            await database.close()


async def until_flat(desk: Desk) -> None:
    async def flat() -> bool:
        return not (await run_sql(desk.url, FLATTENING))[0]["flattening"]

    await wait_until_async(flat, SOON_S, "everything is sold")
    assert not (await desk.portfolio()).invested


async def test_what_is_at_the_broker_is_cancelled_and_all_shares_are_sold(desk: Desk) -> None:
    await desk.until(await desk.buy(10), Status.EXECUTED)
    desk.gateway.set_scenario("HELD", times=2)
    selling = await desk.sell(4)
    buying = await desk.buy(5)
    await desk.until_sent(buying)
    await desk.writer.submit(HaltStrategy(NAME, "enough", flatten=True))
    with pytest.raises(StrategyHaltedError):
        await desk.buy(1)
    for order in (selling, buying):
        await desk.until(order, Status.CANCELLED)
    await until_flat(desk)
    sold = [each for each in await desk.orders() if each.side is Side.SELL and each.filled_quantity]
    assert sorted(each.filled_quantity for each in sold if each.mode == "LIVE") == [4, 6]
    assert (await desk.portfolio()).state is State.HALTED


async def test_the_kill_switch_works_while_the_broker_is_away(desk: Desk) -> None:
    await desk.until(await desk.buy(10), Status.EXECUTED)
    await desk.gateway.refuse_connections(True)
    desk.gateway.drop_connections()
    await desk.until_state(BrokerState.DOWN)
    view = await desk.writer.submit(HaltPortfolio("crash", flatten=True))
    assert isinstance(view, WholeView)
    assert view.halted
    assert f"10 SPXL of {NAME} not sold yet: The broker is DOWN" in view.reason
    assert (await desk.portfolio()).invested
    await desk.gateway.refuse_connections(False)
    await until_flat(desk)

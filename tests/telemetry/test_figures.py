"""The task that reads the figures."""

import asyncio

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from services.portfolio.__main__ import now
from services.portfolio.domain.order import Mode
from services.portfolio.domain.weather import BrokerState, Weather
from services.portfolio.live.ports import Seen
from services.portfolio.storage.memory import MemoryLedger
from services.portfolio.storage.memory_risk import MemoryRiskReads
from services.portfolio.telemetry import figures
from services.portfolio.telemetry.ports import Reading
from tests.support.waiting import wait_until_async
from tests.telemetry.scrape import Scrape
from tests.telemetry.test_monitoring import FullReads


class FreezingReads(FullReads):
    """A ledger whose server answers once, and is frozen then: connected, without a word."""

    def __init__(self) -> None:
        self.answers = 1

    async def reading(self) -> Reading:
        if not self.answers:
            await asyncio.Event().wait()
        self.answers -= 1
        return await super().reading()


async def test_nothing_old_is_shown_while_the_server_is_frozen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(figures, "READ_WITHIN_S", 0.3)
    shown = figures.Figures(
        FreezingReads(),
        MemoryRiskReads(MemoryLedger()),
        lambda: Seen(Weather(BrokerState.DOWN, now()), {}),
        now,
        trading_mode=Mode.PAPER,
        session=None,
        every_s=0.01,
    )
    registry = CollectorRegistry()
    registry.register(shown)

    def scrape() -> Scrape:
        return Scrape.read(generate_latest(registry).decode())

    async def is_up(wanted: int) -> bool:
        return scrape().one("portfolio_database_up") == wanted

    task = asyncio.create_task(shown.run())
    await wait_until_async(lambda: is_up(1), 10, "a reading")
    assert scrape().all("portfolio_strategy_equity_usd")
    await wait_until_async(lambda: is_up(0), 10, "it is frozen")
    assert not scrape().all("portfolio_strategy_equity_usd")
    task.cancel()

from collections.abc import AsyncIterator

import pytest

from services.gateway import SimulatedGateway
from tests.live.desk import Desk, live_desk
from tests.ports.stores import migrated_url, shared_database_url, store, store_url
from tests.support.gateway import gateway

__all__ = ["migrated_url", "shared_database_url", "store", "store_url"]


@pytest.fixture
async def broker() -> AsyncIterator[SimulatedGateway]:
    """A simulated gateway of the test's own: SPXL at 100, NVDL at 50, HOOD at 20 USD."""
    async with gateway() as one:
        yield one


@pytest.fixture
async def desk(migrated_url: str, broker: SimulatedGateway) -> AsyncIterator[Desk]:
    """A desk that is CONNECTED to `broker`; exactly once is checked after the test."""
    async with live_desk(migrated_url, broker) as one:
        yield one
        await one.assert_exactly_once()

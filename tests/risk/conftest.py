from collections.abc import AsyncIterator

import pytest

from tests.ports.stores import Store, migrated_url, shared_database_url, store, store_url
from tests.risk.desk import RiskDesk, desk_on

__all__ = ["migrated_url", "shared_database_url", "store", "store_url"]


@pytest.fixture
async def desk(store: Store) -> AsyncIterator[RiskDesk]:
    """A writer and a guardian on a store, once of each kind; audited in the end."""
    async with desk_on(store) as one:
        yield one

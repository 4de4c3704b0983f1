from collections.abc import AsyncIterator

import pytest

from tests.allocation.desk import Desk, desk_on
from tests.ports.stores import Store, migrated_url, shared_database_url, store, store_url

__all__ = ["migrated_url", "shared_database_url", "store", "store_url"]


@pytest.fixture
async def desk(store: Store) -> AsyncIterator[Desk]:
    """A desk on a store, once of each kind; audited in the end."""
    async with desk_on(store) as one:
        yield one

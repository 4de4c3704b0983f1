from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest

from services.portfolio.domain.money import STEP
from services.portfolio.storage.memory import MemoryLedger
from tests.ports.reads_contract import ReadsContract
from tests.ports.stores import Store, run_sql

Tamper = Callable[[str], Coroutine[Any, Any, None]]

BY_SQL = {
    "cash": "UPDATE books SET cash = cash + 0.00000001 WHERE strategy_name = 'A'",
    "shares": "UPDATE positions SET quantity = quantity + 0.00000001",
    "order": "UPDATE orders SET filled_value = filled_value + 0.00000001 WHERE symbol = 'SPXL'",
    "fill": "UPDATE fills SET value = value + 0.00000001",
}
IN_MEMORY = {
    "cash": ("books", "cash"),
    "shares": ("positions", "quantity"),
    "order": ("orders", "filled_value"),
    "fill": ("fills", "value"),
}


class TestReads(ReadsContract):
    """In memory and on PostgreSQL; see `store`."""

    @pytest.fixture
    def tamper(self, store: Store, store_url: str | None) -> Tamper:
        """Touches a figure of strategy A behind the store's back."""

        async def tamper(what: str) -> None:
            if store_url is not None:
                await run_sql(store_url, BY_SQL[what])
                return
            assert isinstance(store.ledger, MemoryLedger)
            table, name = IN_MEMORY[what]
            rows = getattr(store.ledger.tables, table)
            key = next(iter(rows))  # A's, which was saved first
            rows[key] = replace(rows[key], **{name: getattr(rows[key], name) + STEP})

        return tamper

"""The real client library of this environment, and what it saw on the wire."""

import asyncio
import importlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.util import find_spec
from typing import Any

from services.gateway import SimulatedGateway
from services.gateway.market import Instrument
from tests.support.gateway import ACCOUNT

IS_IB_ASYNC = find_spec("ib_async") is not None
FARMS = (2104, 2106, 2158)  # said to each client that connects
library: Any = importlib.import_module("ib_async" if IS_IB_ASYNC else "ib_insync")


class Client:
    """A connected IB object. `seen` is each message about an order, as it was decoded."""

    def __init__(self) -> None:
        self.ib: Any = library.IB()
        self.seen: list[str] = []
        self._tap("openOrder", lambda _id, _contract, _order, state: state.status)
        self._tap("orderStatus", lambda _id, status, *_: status)
        self._tap("execDetails", lambda _id, _contract, fill: fill.execId[-3:])
        self._tap("commissionReport", lambda report: report.execId[-3:])
        self._tap("error", lambda _id, code, *_: "" if code in FARMS else str(code))

    async def connect(self, port: int, client_id: int = 1, timeout_s: float = 5) -> None:
        """Connects as the adapter does."""
        await self.ib.connectAsync("127.0.0.1", port, clientId=client_id, timeout=timeout_s)

    def place(
        self,
        side: str = "BUY",
        quantity: float = 10,
        ref: str = "ref-1",
        symbol: str = "SPXL",
        **fields: Any,
    ) -> Any:
        """Places a market order; the library's Trade."""
        order = library.MarketOrder(side, quantity, orderRef=ref, tif="DAY", account=ACCOUNT)
        for name, value in fields.items():
            setattr(order, name, value)
        return self.ib.placeOrder(stock(symbol), order)

    async def settled(self) -> None:
        """Waits until all that the gateway had sent has arrived: a round trip."""
        async with asyncio.timeout(5):
            await self.ib.reqCurrentTimeAsync()

    async def dropped(self) -> None:
        """Waits until the connection is gone."""
        await until(lambda: not self.ib.isConnected(), "the connection is dropped")

    async def evidence(self) -> tuple[list[Any], list[Any], list[Any]]:
        """Open orders, completed orders and executions, asked one after another."""
        async with asyncio.timeout(5):
            return (
                await self.ib.reqAllOpenOrdersAsync(),
                await self.ib.reqCompletedOrdersAsync(False),
                await self.ib.reqExecutionsAsync(),
            )

    def seen_from_now(self) -> None:
        """Forgets what was seen."""
        self.seen.clear()

    def _tap(self, name: str, describe: Callable[..., str]) -> None:
        original = getattr(self.ib.wrapper, name)

        def tapped(*values: Any) -> None:
            if described := describe(*values):
                self.seen.append(f"{name} {described}")
            original(*values)

        setattr(self.ib.wrapper, name, tapped)


@asynccontextmanager
async def client_of(gateway: SimulatedGateway, client_id: int = 1) -> AsyncIterator[Client]:
    """A connected client, disconnected at the end."""
    client = Client()
    await client.connect(gateway.port, client_id)
    client.seen_from_now()
    try:
        yield client
    finally:
        client.ib.disconnect()
        await until(lambda: client_id not in gateway.snapshot().connections, "it has gone")


def stock(symbol: str) -> Any:
    """A contract as the adapter names it."""
    return library.Stock(symbol, "SMART", "USD")


def numbered(symbol: str) -> Any:
    """A contract with IB's number: ib_async takes no other for market data."""
    contract = stock(symbol)
    contract.conId = Instrument(symbol).con_id
    return contract


async def until(condition: Callable[[], Any], what: str = "", deadline_s: float = 10) -> None:
    """Waits for a condition in this loop."""
    give_up = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < give_up, f"not within {deadline_s:g} s: {what}"
        await asyncio.sleep(0.005)

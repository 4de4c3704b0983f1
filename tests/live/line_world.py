"""A line on a simulated gateway: orders to place, and ways to hear what comes of them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from typing import TypeVar

from services.gateway import FixedMarket, SimulatedGateway
from services.portfolio.brokers.ibkr import IbkrLine
from services.portfolio.domain.evidence import (
    AtBroker,
    BrokerEvent,
    BrokerExecution,
    Commissioned,
    Executed,
    LineLost,
    Notice,
    Refused,
    Reported,
)
from services.portfolio.domain.order import Mode, Order, Side, Status
from tests.ledger.values import NOW, d, new_id
from tests.support.waiting import wait_until_async

ACCOUNT = "DU1000001"
CLIENT_ID = 7
DEADLINE_S = 10

E = TypeVar("E", bound=BrokerEvent)


@asynccontextmanager
async def a_gateway() -> AsyncIterator[SimulatedGateway]:
    """A gateway with two symbols at 100 and 50 USD, and one of a class."""
    market = FixedMarket({"SPXL": ["98", "99", "100"], "NVDL": 50, "BRK B": 500})
    async with SimulatedGateway(market=market) as gateway:
        yield gateway


def a_line(gateway: SimulatedGateway, client_id: int = CLIENT_ID, **changes: object) -> IbkrLine:
    """A line that is not connected yet."""
    settings = {"account": ACCOUNT, "timeout_s": 2.0, "clock": lambda: datetime.now(UTC)} | changes
    return IbkrLine("127.0.0.1", gateway.port, client_id, **settings)  # type: ignore[arg-type]


@asynccontextmanager
async def an_open_line(
    gateway: SimulatedGateway, first_id: int = 1, client_id: int = CLIENT_ID
) -> AsyncIterator[IbkrLine]:
    """A line that is connected until its context ends."""
    line = a_line(gateway, client_id)
    await line.connect(first_id)
    try:
        yield line
    finally:
        await line.disconnect()


def an_order(symbol: str = "SPXL", quantity: str | int = 10, side: Side = Side.BUY) -> Order:
    """A LIVE market order that is on its way."""
    return Order(
        new_id(),
        "IncredibleLeverage_SPXL",
        Mode.LIVE,
        symbol,
        side,
        d(quantity),
        d(100),
        Status.PENDING,
        d(0),
        d(0),
        d(0),
        d(0),
        "",
        "",
        NOW,
        NOW,
    )


def place(line: IbkrLine, order: Order) -> str:
    """Places an order under the next id; returns its orderRef."""
    line.place(order, line.next_order_id())
    return str(order.order_id)


async def the_loss(line: IbkrLine) -> None:
    """Waits until a LineLost waits among the line's events; all of them stay there."""

    async def waits() -> bool:
        waiting = [line.events.get_nowait() for _ in range(line.events.qsize())]
        for event in waiting:
            line.events.put_nowait(event)
        return any(isinstance(event, LineLost) for event in waiting)

    await wait_until_async(waits, DEADLINE_S, "the loss")


async def nobody_on(gateway: SimulatedGateway) -> None:
    """Waits until the gateway has no connection."""

    async def none() -> bool:
        return not gateway._sessions

    await wait_until_async(none, DEADLINE_S, "the connection's end")


async def something_unanswered(gateway: SimulatedGateway) -> None:
    """Waits until a silent gateway has received a message."""

    async def some() -> bool:
        return any(session._unanswered for session in gateway._sessions)

    await wait_until_async(some, DEADLINE_S, "a message to the silent gateway")


class Heard:
    """What a line has said, gathered until a condition holds."""

    def __init__(self, line: IbkrLine) -> None:
        self._line = line
        self.events: list[BrokerEvent] = []
        self.waiting()

    async def until(self, condition: Callable[["Heard"], bool], what: str) -> None:
        """Reads events until the condition holds."""
        try:
            async with asyncio.timeout(DEADLINE_S):
                while not condition(self):
                    self.events.append(await self._line.events.get())
        except TimeoutError:
            raise AssertionError(f"{what} did not come; there came {self.events}") from None

    async def all_so_far(self) -> None:
        """Reads everything that the gateway has said until now: its answers come in order."""
        await self._line.evidence()
        self.waiting()

    def waiting(self) -> None:
        """Reads what waits."""
        while not self._line.events.empty():
            self.events.append(self._line.events.get_nowait())

    def of(self, kind: type[E]) -> list[E]:
        """The events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def executions(self) -> list[BrokerExecution]:
        """Of the events."""
        return [event.execution for event in self.of(Executed)]

    @property
    def states(self) -> list[AtBroker]:
        """Of the reports."""
        return [event.order.state for event in self.of(Reported)]

    @property
    def commissions(self) -> dict[str, Decimal]:
        """By execution."""
        return {event.execution_id: event.commission for event in self.of(Commissioned)}

    @property
    def codes(self) -> list[int]:
        """Of the refusals and notices, farms that are well aside."""
        told = [event for event in self.events if isinstance(event, Refused | Notice)]
        return [event.code for event in told if event.code not in (2104, 2106, 2158)]

    @property
    def losses(self) -> int:
        """How often it said that the line was lost."""
        return len(self.of(LineLost))

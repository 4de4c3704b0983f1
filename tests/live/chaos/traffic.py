"""The strategies of a run: they buy, sell and cancel all the time.

Each request has a request_id and is repeated under it, at either router, until it is answered: so
it is accepted exactly once or refused.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
from grpc import aio

from efficientfrontier.v1.order_service_pb2 import (
    CreateOrderRequest,
    Order,
    UpdateOrderStatusRequest,
)
from efficientfrontier.v1.order_service_pb2_grpc import OrderServiceStub
from efficientfrontier.v1.portfolio_service_pb2 import Portfolio, UpsertPortfolioRequest
from efficientfrontier.v1.portfolio_service_pb2_grpc import PortfolioServiceStub
from tests.support.gateway import PRICES

NAMES = ("Alder", "Birch", "Cedar", "Dogwood", "Elm", "Fir", "Ginkgo", "Hazel")
CASH = 20_000
CALL_S = 3.0
RETRY_S = 0.1
ANSWERED_WITHIN_S = 60.0
ORDERS_LIVE_S = 30.0  # how long a strategy remembers an order that it might cancel

# A router that came back is noticed at once, and a whole snapshot may come in one message.
CHANNEL = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 300),
    ("grpc.max_receive_message_length", -1),
)
REPEATABLE = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.CANCELLED,  # the router was killed in mid-call
}


class NotAnsweredError(Exception):
    """A request was not answered in time, or by a status that it must never get; says which."""


class Call(Protocol):
    """A method of one router's stub."""

    def __call__(self, request: Any, *, timeout: float) -> Awaitable[Any]:
        """Calls it."""


@dataclass(slots=True)
class Asked:
    """One request for an order, and its answer."""

    request: CreateOrderRequest
    order_id: str = ""  # when it was accepted
    refusal: str = ""  # when it was refused

    @property
    def answer(self) -> str | None:
        """The order's id; empty when refused; None when it was not answered."""
        return self.order_id if self.order_id or self.refusal else None


class Traffic:
    """All strategies. `asked` grows while they run."""

    def __init__(self, seed: int, addresses: Sequence[str]) -> None:
        self.asked: list[Asked] = []
        self.accepted = asyncio.Event()  # set at each; who waits for the next clears it
        self.attempts: Counter[str] = Counter()
        self._seed = seed
        self._channels = [aio.insecure_channel(address, CHANNEL) for address in addresses]
        self._orders = [OrderServiceStub(channel) for channel in self._channels]
        self._portfolios = [PortfolioServiceStub(channel) for channel in self._channels]
        self._stopping = asyncio.Event()

    async def open(self) -> None:
        """Gives each strategy its cash, and pins it to LIVE."""
        for name in NAMES:
            wish = UpsertPortfolioRequest(
                strategy_name=name, requested_mode=Portfolio.LIVE, cash=CASH, request_id=name
            )
            await self._answer([stub.UpsertPortfolio for stub in self._portfolios], wish)

    async def run(self) -> None:
        """Trades until `finish` is called and all requests are answered.

        Raises:
            NotAnsweredError: One was not.
        """
        async with asyncio.TaskGroup() as group:
            for name in NAMES:
                group.create_task(self._trade(name, random.Random(f"{self._seed} {name}")))

    def finish(self) -> None:
        """No new requests from now on."""
        self._stopping.set()

    async def close(self) -> None:
        """Ends the connections."""
        for channel in self._channels:
            await channel.close()

    async def _trade(self, name: str, chance: random.Random) -> None:
        mine: list[tuple[str, float]] = []  # orders, and when they were accepted
        for number in range(1, 10**6):
            if self._stopping.is_set():
                return
            asked = Asked(_wish(name, number, chance))
            self.asked.append(asked)
            await self._place(asked, chance)
            if asked.order_id:
                mine.append((asked.order_id, time.monotonic()))
                self.accepted.set()
            await asyncio.sleep(chance.uniform(0.05, 0.5))
            mine = [(one, at) for one, at in mine if time.monotonic() - at < ORDERS_LIVE_S]
            if mine and chance.random() < 0.1:
                await self._cancel(chance.choice(mine)[0], f"{name}-{number}-cancel")

    async def _place(self, asked: Asked, chance: random.Random) -> None:
        stubs = chance.sample(self._orders, 2)
        order, asked.refusal = await self._answer([s.CreateOrder for s in stubs], asked.request)
        asked.order_id = order.order_id if order else ""
        if order and chance.random() < 0.1:
            again, _ = await self._answer([s.CreateOrder for s in reversed(stubs)], asked.request)
            if again is None or again.order_id != order.order_id:
                raise NotAnsweredError(
                    f"Request {asked.request.request_id} was answered by order {order.order_id}, "
                    f"and when it was repeated by {again.order_id if again else 'a refusal'}."
                )

    async def _cancel(self, order_id: str, request_id: str) -> None:
        wish = UpdateOrderStatusRequest(
            order_id=order_id, status=Order.CANCELLED, request_id=request_id
        )
        await self._answer([stub.UpdateOrderStatus for stub in self._orders], wish)

    async def _answer(self, calls: Sequence[Call], request: Any) -> tuple[Any, str]:
        """The answer, and why it was refused: one of the two. The routers are asked in turn."""
        give_up = time.monotonic() + ANSWERED_WITHIN_S
        attempt = 0
        while True:
            try:
                answer = await calls[attempt % len(calls)](request, timeout=CALL_S)
            except aio.AioRpcError as error:
                self.attempts[error.code().name] += 1
                if error.code() is grpc.StatusCode.FAILED_PRECONDITION:
                    return None, error.details() or "refused"
                if error.code() not in REPEATABLE or time.monotonic() > give_up:
                    raise NotAnsweredError(
                        f"Request {request.request_id} was answered by {error.code().name} after "
                        f"{attempt + 1} attempts: {error.details()}"
                    ) from error
            else:
                self.attempts["OK"] += 1
                return answer, ""
            attempt += 1
            await asyncio.sleep(RETRY_S)


def _wish(name: str, number: int, chance: random.Random) -> CreateOrderRequest:
    """A small order: rather a buy than a sale, so that there is something to sell."""
    symbol = chance.choice(sorted(PRICES))
    return CreateOrderRequest(
        strategy_name=name,
        symbol=symbol,
        side=Order.BUY if chance.random() < 0.55 else Order.SELL,
        quantity=chance.randint(1, 9),
        price=float(PRICES[symbol]),
        request_id=f"{name}-{number}",
    )

"""The gRPC server: our services, reflection and health, and a stop that loses no call."""

import asyncio
from collections.abc import Sequence
from typing import Any

import grpc
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health
from grpc_reflection.v1alpha import reflection

from efficientfrontier.v1 import (
    allocation_service_pb2,
    broker_service_pb2,
    equity_service_pb2,
    mutation_service_pb2,
    order_service_pb2,
    page_service_pb2,
    portfolio_service_pb2,
    position_service_pb2,
    promotion_service_pb2,
    risk_service_pb2,
)
from efficientfrontier.v1.allocation_service_pb2_grpc import (
    add_AllocationServiceServicer_to_server,
)
from efficientfrontier.v1.broker_service_pb2_grpc import add_BrokerServiceServicer_to_server
from efficientfrontier.v1.equity_service_pb2_grpc import add_EquityServiceServicer_to_server
from efficientfrontier.v1.mutation_service_pb2_grpc import add_MutationServiceServicer_to_server
from efficientfrontier.v1.order_service_pb2_grpc import add_OrderServiceServicer_to_server
from efficientfrontier.v1.page_service_pb2_grpc import add_PageServiceServicer_to_server
from efficientfrontier.v1.portfolio_service_pb2_grpc import add_PortfolioServiceServicer_to_server
from efficientfrontier.v1.position_service_pb2_grpc import add_PositionServiceServicer_to_server
from efficientfrontier.v1.promotion_service_pb2_grpc import add_PromotionServiceServicer_to_server
from efficientfrontier.v1.risk_service_pb2_grpc import add_RiskServiceServicer_to_server
from services.portfolio.domain.weather import BrokerState, Weather
from services.portfolio.ports import UnavailableError
from services.portfolio.router import Router
from services.portfolio.rpc.admission import OPEN, Admission
from services.portfolio.rpc.allocation_servicer import AllocationServicer
from services.portfolio.rpc.broker_servicer import BrokerServicer
from services.portfolio.rpc.equity_servicer import EquityServicer
from services.portfolio.rpc.guard import Guard
from services.portfolio.rpc.identity import CONNECTION_LASTS_S
from services.portfolio.rpc.mutation_servicer import MutationServicer
from services.portfolio.rpc.order_servicer import OrderServicer
from services.portfolio.rpc.page_servicer import PageServicer
from services.portfolio.rpc.portfolio_servicer import PortfolioServicer
from services.portfolio.rpc.position_servicer import PositionServicer
from services.portfolio.rpc.promotion_servicer import PromotionServicer
from services.portfolio.rpc.risk_servicer import RiskServicer

SERVICES = tuple(
    module.DESCRIPTOR.services_by_name[name].full_name
    for module, name in (
        (order_service_pb2, "OrderService"),
        (position_service_pb2, "PositionService"),
        (portfolio_service_pb2, "PortfolioService"),
        (broker_service_pb2, "BrokerService"),
        (promotion_service_pb2, "PromotionService"),
        (equity_service_pb2, "EquityService"),
        (risk_service_pb2, "RiskService"),
        (allocation_service_pb2, "AllocationService"),
        (page_service_pb2, "PageService"),
        (mutation_service_pb2, "MutationService"),
    )
)
OPTIONS = (
    ("grpc.so_reuseport", 0),  # a second router on the same port fails loudly
    ("grpc.max_receive_message_length", 1 << 20),
    ("grpc.max_send_message_length", 32 << 20),
    # Envoy and the SDK ping idle connections; the default would call that abuse.
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
)
CALLS_END_WITHIN_S = 20.0
HEALTH_EVERY_S = 1.0
BROKER = "broker"  # in health checks: whether new LIVE orders are taken


LIVENESS = "liveness"  # whether this process serves, whatever it can reach, and while it drains
# A connection is made anew once an hour, so that a certificate counts no longer than that once it
# has ended. Calls and watches under way end where they are.
CONNECTION_AGE = (("grpc.max_connection_age_ms", CONNECTION_LASTS_S * 1000),)


class AddressTakenError(Exception):
    """ROUTER_ADDRESS, or HEALTH_ADDRESS, cannot be listened on."""


class Server:
    """Serves a router.

    Health and reflection ask nobody who he is. Under TLS they take a certificate of the mesh all
    the same; probes that have none find the health, alone, on `health_address`.
    """

    def __init__(
        self,
        router: Router,
        address: str,
        *,
        admission: Admission = OPEN,
        health_address: str | None = None,
    ) -> None:
        self._router = router
        tls = admission.credentials
        self._server = aio.server(options=(*OPTIONS, *(CONNECTION_AGE if tls else ())))
        guard: Any = Guard(self._server, admission)
        self._health = health.HealthServicer()
        self._draining = False
        add_OrderServiceServicer_to_server(OrderServicer(router), guard)
        add_PositionServiceServicer_to_server(PositionServicer(router), guard)
        add_PortfolioServiceServicer_to_server(PortfolioServicer(router), guard)
        add_BrokerServiceServicer_to_server(BrokerServicer(router), guard)
        add_PromotionServiceServicer_to_server(PromotionServicer(router), guard)
        add_EquityServiceServicer_to_server(EquityServicer(router), guard)
        add_RiskServiceServicer_to_server(RiskServicer(router), guard)
        add_AllocationServiceServicer_to_server(AllocationServicer(router), guard)
        add_PageServiceServicer_to_server(PageServicer(router), guard)
        add_MutationServiceServicer_to_server(MutationServicer(router), guard)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (
            *SERVICES,
            health_pb2.DESCRIPTOR.services_by_name["Health"].full_name,
            reflection.SERVICE_NAME,
        )
        reflection.enable_server_reflection(names, self._server)
        self.port = _listen(self._server, "ROUTER_ADDRESS", address, tls)
        self._probed: aio.Server | None = None
        if health_address:
            self._probed = aio.server(options=OPTIONS)
            health_pb2_grpc.add_HealthServicer_to_server(self._health, self._probed)
            self.health_port = _listen(self._probed, "HEALTH_ADDRESS", health_address, None)

    async def start(self) -> None:
        """Serves; healthy from now on, as long as the database answers."""
        await self._server.start()
        if self._probed is not None:
            await self._probed.start()
        await self._say(serving=True, names=("", LIVENESS, *SERVICES))
        self._watches = [
            asyncio.create_task(self._watch_database(), name="health"),
            asyncio.create_task(self._watch_broker(), name="broker-health"),
        ]

    async def stop(self, drain_s: float) -> None:
        """Says NOT_SERVING, waits for Envoy to turn away, then finishes all calls."""
        self._draining = True
        for watch in self._watches:
            watch.cancel()
        await self._say(serving=False, names=("", *SERVICES, BROKER))
        await asyncio.sleep(drain_s)
        await self._server.stop(CALLS_END_WITHIN_S)
        if self._probed is not None:
            await self._probed.stop(None)

    async def _watch_database(self) -> None:
        """Keeps the health true: a router without its database sends callers to another."""
        serving = True
        while True:
            await asyncio.sleep(HEALTH_EVERY_S)
            try:
                await self._router.reads.ping()
                reachable = True
            except UnavailableError:
                reachable = False
            if reachable is not serving and not self._draining:
                serving = reachable
                await self._say(serving=serving, names=("", *SERVICES))

    async def _watch_broker(self) -> None:
        """Says whether new LIVE orders are taken; not a word about the router itself."""
        async for weather in self._router.lookout.watch():
            if isinstance(weather, Weather):
                await self._say(serving=weather.state is BrokerState.CONNECTED, names=(BROKER,))

    async def _say(self, *, serving: bool, names: Sequence[str]) -> None:
        status: Any = health_pb2.HealthCheckResponse
        now = status.SERVING if serving else status.NOT_SERVING
        for name in names:
            await self._health.set(name, now)


def _listen(
    server: aio.Server, setting: str, address: str, credentials: grpc.ServerCredentials | None
) -> int:
    """Has the server listen; the port.

    Raises:
        AddressTakenError: It cannot.
    """
    try:
        if credentials is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise AddressTakenError(
            f"{setting} {address} cannot be listened on: it is taken, or not an address of this "
            "machine."
        ) from error

"""gRPC stubs on one channel, as a notebook has them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import grpc

from efficientfrontier.v1.order_service_pb2_grpc import OrderServiceStub
from efficientfrontier.v1.portfolio_service_pb2_grpc import PortfolioServiceStub
from efficientfrontier.v1.position_service_pb2_grpc import PositionServiceStub


@dataclass(frozen=True)
class Stubs:
    """All three services."""

    orders: OrderServiceStub
    positions: PositionServiceStub
    portfolio: PortfolioServiceStub


@contextmanager
def stubs_on(address: str) -> Iterator[Stubs]:
    """Stubs on an insecure channel to `host:port`."""
    with grpc.insecure_channel(address) as channel:
        yield Stubs(
            OrderServiceStub(channel), PositionServiceStub(channel), PortfolioServiceStub(channel)
        )

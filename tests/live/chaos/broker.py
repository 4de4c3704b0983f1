"""The simulated broker, as the run directs it and reads it: its control interface."""

from collections.abc import Iterable
from contextlib import suppress
from decimal import Decimal
from typing import Any

from grpc import aio

from efficientfrontier.simulation.v1 import simulation_pb2 as pb
from efficientfrontier.simulation.v1.simulation_pb2_grpc import GatewaySimulationServiceStub
from tests.live.chaos.checks import Broker, Executed
from tests.live.chaos.plan import Scene
from tests.live.chaos.traffic import CHANNEL

CALL_S = 5
CASH_AT_FIRST = Decimal(1_000_000)  # of a new state; see services/gateway/settings.py


class SimulatedBroker:
    """Reached through the gateway's control port. While the gateway is away, directions are lost.

    Use it within one event loop, and close it there.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._open: aio.Channel | None = None

    async def play(self, scenes: Iterable[Scene]) -> None:
        """Sets what happens to the orders to come."""
        with suppress(aio.AioRpcError):
            for scene in scenes:
                request = pb.SetScenarioRequest(
                    scenario=pb.SetScenarioRequest.Scenario.Value(scene.scenario),
                    symbol=scene.symbol,
                    times=scene.times,
                    delay_s=scene.delay_s,
                )
                await self._stub.SetScenario(request, timeout=CALL_S)

    async def release(self) -> None:
        """Lets orders that wait go on."""
        with suppress(aio.AioRpcError):
            await self._stub.Release(pb.ReleaseRequest(), timeout=CALL_S)

    async def drop_connections(self) -> list[str]:
        """Breaks every connection; returns which there were."""
        with suppress(aio.AioRpcError):
            connections = (await self.snapshot()).connections
            await self._stub.DropConnections(pb.DropConnectionsRequest(), timeout=CALL_S)
            return [f"the line of client {client_id}" for client_id in connections]
        return []

    async def snapshot(self) -> pb.Snapshot:
        """All that it knows. Raises aio.AioRpcError while it is away."""
        found: pb.Snapshot = await self._stub.GetSnapshot(pb.GetSnapshotRequest(), timeout=30)
        return found

    async def close(self) -> None:
        """Ends the connection."""
        if self._open is not None:
            await self._open.close()

    @property
    def _stub(self) -> Any:
        self._open = self._open or aio.insecure_channel(self._address, CHANNEL)
        return GatewaySimulationServiceStub(self._open)


def broker_of(snapshot: pb.Snapshot) -> Broker:
    """What the broker knows, for the checks. Executions are as last corrected."""
    latest = {root_of(one.exec_id): one for one in sorted(snapshot.executions, key=_revision)}
    return Broker(
        [receipt.order_ref for receipt in snapshot.receipts],
        {order.order_ref: order.status for order in snapshot.orders},
        [
            Executed(
                one.order_ref,
                root,
                one.symbol,
                one.side,
                _exact(one.quantity),
                _exact(one.price),
                _exact(one.commission),
            )
            for root, one in latest.items()
        ],
        {position.symbol: _exact(position.quantity) for position in snapshot.positions},
        _exact(snapshot.cash),
        CASH_AT_FIRST,
    )


def root_of(execution_id: str) -> str:
    """What an execution has in common with its corrections and its commissions."""
    return execution_id.partition(":")[0].rpartition(".")[0]


def _revision(execution: pb.Execution) -> int:
    return int(execution.exec_id.rpartition(".")[2])


def _exact(number: float) -> Decimal:
    """A double by its shortest text."""
    return Decimal(repr(number))

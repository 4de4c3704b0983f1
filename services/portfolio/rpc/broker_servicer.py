"""BrokerService: call one use case, pack."""

from collections.abc import AsyncIterator

from efficientfrontier.v1 import broker_service_pb2 as pb
from efficientfrontier.v1.broker_service_pb2_grpc import BrokerServiceServicer
from services.portfolio.domain.weather import Weather
from services.portfolio.router import Router
from services.portfolio.rpc.context import Context
from services.portfolio.rpc.wire import broker_message, reconciliation_message, stream_end


class BrokerServicer(BrokerServiceServicer):
    """The broker over gRPC."""

    def __init__(self, router: Router) -> None:
        self._lookout = router.lookout

    async def GetBroker(self, request: pb.GetBrokerRequest, context: Context) -> pb.Broker:
        """Says how things stand with the broker."""
        return broker_message(self._lookout.seen().weather, self._lookout.trading_mode)

    async def WatchBroker(
        self, request: pb.WatchBrokerRequest, context: Context
    ) -> AsyncIterator[pb.WatchBrokerResponse]:
        """Streams how things stand with the broker."""
        async for event in self._lookout.watch():
            if isinstance(event, Weather):
                broker = broker_message(event, self._lookout.trading_mode)
                yield pb.WatchBrokerResponse(broker=broker)
            else:
                yield pb.WatchBrokerResponse(end=stream_end(event))

    async def GetReconciliation(
        self, request: pb.GetReconciliationRequest, context: Context
    ) -> pb.Reconciliation:
        """Shows the ledger beside the broker's account."""
        return reconciliation_message(await self._lookout.reconciliation())

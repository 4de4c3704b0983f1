# ruff: noqa: N802 - gRPC names the methods
"""The control interface over gRPC: each method unpacks, calls the gateway, packs."""

from collections.abc import Awaitable, Callable, Mapping
from decimal import Decimal
from typing import Any, TypeAlias, TypeVar

import grpc
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health
from grpc_reflection.v1alpha import reflection
from protovalidate import ValidationError, Validator

from efficientfrontier.simulation.v1 import simulation_pb2 as pb
from efficientfrontier.simulation.v1.simulation_pb2_grpc import (
    GatewaySimulationServiceServicer,
    add_GatewaySimulationServiceServicer_to_server,
)
from services.gateway.exchange import NotPossibleError, Snapshot, UnknownError
from services.gateway.records import Execution, Order, Receipt
from services.gateway.server import SimulatedGateway

SERVICE = pb.DESCRIPTOR.services_by_name["GatewaySimulationService"].full_name
Context: TypeAlias = "aio.ServicerContext[Any, Any]"
Answer = TypeVar("Answer", bound=Message)


class ControlServer:
    """Serves the control interface of a gateway on `address`, with health and reflection.

    Raises: RuntimeError when the address is taken.
    """

    def __init__(self, gateway: SimulatedGateway, address: str) -> None:
        self._server = aio.server(options=(("grpc.so_reuseport", 0),))
        self._health = health.HealthServicer()
        control = ControlServicer(gateway)
        add_GatewaySimulationServiceServicer_to_server(control, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        health_name = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
        reflection.enable_server_reflection(
            (SERVICE, health_name, reflection.SERVICE_NAME), self._server
        )
        self.port = self._server.add_insecure_port(address)

    async def __aenter__(self) -> "ControlServer":
        """Serves."""
        await self._server.start()
        for name in ("", SERVICE):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stops; calls in flight get a moment."""
        await self._server.stop(1.0)


def checked(
    method: Callable[["ControlServicer", Any], Awaitable[Answer]],
) -> Callable[["ControlServicer", Any, Context], Awaitable[Answer]]:
    """Checks the request by the contract's rules, and answers what goes wrong by its status."""

    async def call(self: "ControlServicer", request: Message, context: Context) -> Answer:
        try:
            self.validator.validate(request)
            return await method(self, request)
        except ValidationError as error:
            code, text = grpc.StatusCode.INVALID_ARGUMENT, str(error)
        except UnknownError as error:
            code, text = grpc.StatusCode.NOT_FOUND, str(error)
        except NotPossibleError as error:
            code, text = grpc.StatusCode.FAILED_PRECONDITION, str(error)
        except OSError as error:
            code, text = grpc.StatusCode.UNAVAILABLE, f"The gateway cannot listen: {error}."
        await context.abort(code, text)
        raise AssertionError("abort() never returns")

    return call


class ControlServicer(GatewaySimulationServiceServicer):
    """What one can do to the gateway."""

    def __init__(self, gateway: SimulatedGateway) -> None:
        self._gateway = gateway
        self.validator = Validator()

    @checked
    async def SetScenario(self, request: pb.SetScenarioRequest) -> pb.Done:
        """Puts a scenario in force."""
        name = pb.SetScenarioRequest.Scenario.Name(request.scenario)
        self._gateway.set_scenario(
            name, request.symbol, request.times, delay_s=request.delay_s, held=request.held
        )
        return pb.Done()

    @checked
    async def SetPrice(self, request: pb.SetPriceRequest) -> pb.Done:
        """Sets a last price."""
        self._gateway.set_price(request.symbol, decimal_of(request.price))
        return pb.Done()

    @checked
    async def SetMarketClosed(self, request: pb.SetMarketClosedRequest) -> pb.Done:
        """Closes or opens the market."""
        self._gateway.set_market_closed(request.closed)
        return pb.Done()

    @checked
    async def SetMarketData(self, request: pb.SetMarketDataRequest) -> pb.Done:
        """Sets what market data the account may see."""
        self._gateway.set_market_data(pb.SetMarketDataRequest.MarketData.Name(request.market_data))
        return pb.Done()

    @checked
    async def BeginNextDay(self, _: pb.BeginNextDayRequest) -> pb.Done:
        """Begins the market's next day."""
        self._gateway.next_day()
        return pb.Done()

    @checked
    async def SendNotice(self, request: pb.SendNoticeRequest) -> pb.Done:
        """Sends an error message to every client."""
        number = request.request_number if request.HasField("request_number") else -1
        self._gateway.notice(request.code, request.message, number)
        return pb.Done()

    @checked
    async def DropConnections(self, _: pb.DropConnectionsRequest) -> pb.Done:
        """Breaks every connection."""
        self._gateway.drop_connections()
        return pb.Done()

    @checked
    async def RefuseConnections(self, request: pb.RefuseConnectionsRequest) -> pb.Done:
        """Stops listening, or listens again."""
        await self._gateway.refuse_connections(request.refuse)
        return pb.Done()

    @checked
    async def GoSilent(self, request: pb.GoSilentRequest) -> pb.Done:
        """Makes the gateway silent, or speak again."""
        self._gateway.go_silent(request.silent)
        return pb.Done()

    @checked
    async def Release(self, request: pb.ReleaseRequest) -> pb.ReleaseResponse:
        """Lets the orders that wait go on."""
        return pb.ReleaseResponse(released=self._gateway.release(request.symbol))

    @checked
    async def TradeByHand(self, request: pb.TradeByHandRequest) -> pb.Execution:
        """Trades as a person would in TWS."""
        quantity, price = decimal_of(request.quantity), decimal_of(request.price)
        return execution_message(self._gateway.trade_by_hand(request.symbol, quantity, price))

    @checked
    async def FillOrder(self, request: pb.FillOrderRequest) -> pb.Order:
        """Fills a part of a working order."""
        by_ref = request.WhichOneof("order") == "order_ref"
        name = request.order_ref if by_ref else request.perm_id
        quantity, price = decimal_of(request.quantity), decimal_of(request.price)
        order = self._gateway.fill(name, quantity, price)
        return order_message(order, self._gateway.snapshot())

    @checked
    async def CorrectExecution(self, request: pb.CorrectExecutionRequest) -> pb.Execution:
        """Corrects an execution."""
        quantity, price = decimal_of(request.quantity), decimal_of(request.price)
        return execution_message(self._gateway.correct(request.exec_id, quantity, price))

    @checked
    async def RollBackIds(self, request: pb.RollBackIdsRequest) -> pb.Done:
        """Sets what the next client is told as its next valid order id."""
        self._gateway.roll_back_ids(request.order_id)
        return pb.Done()

    @checked
    async def ForgetExecutions(self, _: pb.ForgetExecutionsRequest) -> pb.Done:
        """Lets midnight pass."""
        self._gateway.forget_executions()
        return pb.Done()

    @checked
    async def Deposit(self, request: pb.DepositRequest) -> pb.Done:
        """Adds to the cash, or takes away."""
        self._gateway.deposit(decimal_of(request.amount))
        return pb.Done()

    @checked
    async def GetSnapshot(self, _: pb.GetSnapshotRequest) -> pb.Snapshot:
        """Reads all that the broker knows."""
        return snapshot_message(self._gateway.snapshot(), self._gateway.arrivals)


def decimal_of(number: float) -> Decimal:
    """A double by its shortest decimal text, so that 0.1 is 0.1."""
    return Decimal(repr(number)).normalize() + 0


def snapshot_message(snapshot: Snapshot, arrivals: Mapping[tuple[int, int], int]) -> pb.Snapshot:
    """All that the broker knows."""
    return pb.Snapshot(
        receipts=[
            receipt_message(one, arrivals.get((one.client_id, one.order_id), 0))
            for one in snapshot.receipts
        ],
        orders=[order_message(order, snapshot) for order in snapshot.orders],
        executions=map(execution_message, snapshot.executions),
        positions=[
            pb.Position(
                symbol=symbol,
                quantity=float(held.quantity),
                average_cost=float(held.average_cost),
            )
            for symbol, held in snapshot.holdings.items()
            if held.quantity
        ],
        cash=float(snapshot.cash),
        connections=snapshot.connections,
    )


def receipt_message(receipt: Receipt, arrival_ns: int) -> pb.Receipt:
    """A placeOrder that arrived."""
    return pb.Receipt(
        serial=receipt.serial,
        client_id=receipt.client_id,
        order_id=receipt.order_id,
        order_ref=receipt.ticket.order_ref,
        symbol=receipt.ticket.symbol,
        side=receipt.ticket.side,
        quantity=float(receipt.ticket.quantity),
        outcome=pb.Receipt.Outcome.Value(receipt.outcome),
        time=_timestamp(receipt.at.timestamp()),
        arrival_ns=arrival_ns,
    )


def order_message(order: Order, snapshot: Snapshot) -> pb.Order:
    """An order that the broker took."""
    return pb.Order(
        perm_id=order.perm_id,
        client_id=order.client_id,
        order_id=order.order_id,
        order_ref=order.ticket.order_ref,
        symbol=order.ticket.symbol,
        side=order.ticket.side,
        quantity=float(order.ticket.quantity),
        filled=float(order.filled),
        status=order.status,
        scenario=order.scenario,
        held=order.held,
        times_received=snapshot.times_received(order),
        cancels_received=order.cancels_received,
        average_price=float(order.average_price),
    )


def execution_message(execution: Execution) -> pb.Execution:
    """A fill."""
    return pb.Execution(
        exec_id=execution.exec_id,
        perm_id=execution.perm_id,
        client_id=execution.client_id,
        order_ref=execution.order_ref,
        symbol=execution.symbol,
        side=execution.side,
        quantity=float(execution.shares),
        price=float(execution.price),
        commission=float(execution.commission),
        time=_timestamp(execution.at.timestamp()),
    )


def _timestamp(seconds: float) -> Timestamp:
    stamp = Timestamp()
    stamp.FromNanoseconds(round(seconds * 1e6) * 1000)
    return stamp

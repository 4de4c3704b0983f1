"""The router's methods as values: each function here builds one call, ready to be sent.

The sync client, the asyncio client and the portfolio in memory all send these, so that a request
is built in one place. A mutation gets its request_id here, before its first attempt: that is what
makes repeating it safe.
"""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Generic, Literal, TypeVar

import grpc
from google.protobuf.message import Message

from efficientfrontier.v1.order_service_pb2 import (
    BuyAllRequest,
    CreateOrderRequest,
    GetOrderRequest,
    ListOrdersRequest,
    ListOrdersResponse,
    Order,
    SellAllRequest,
    UpdateOrderStatusRequest,
    WatchOrdersRequest,
    WatchOrdersResponse,
)
from efficientfrontier.v1.portfolio_service_pb2 import (
    AuditRequest,
    AuditResponse,
    GetInvestedRequest,
    GetPortfolioRequest,
    HaltStrategyRequest,
    Invested,
    ListPortfoliosRequest,
    ListPortfoliosResponse,
    Portfolio,
    Price,
    ReportPricesRequest,
    ReportPricesResponse,
    ResumeStrategyRequest,
    UpsertPortfolioRequest,
    WatchPortfoliosRequest,
    WatchPortfoliosResponse,
)
from efficientfrontier.v1.position_service_pb2 import (
    AssignPositionRequest,
    DeletePositionRequest,
    DeletePositionResponse,
    ListPositionsRequest,
    ListPositionsResponse,
    Position,
    SetPositionRequest,
)
from efficientfrontier.v1.stream_pb2 import StreamEnd
from SureshotSDK.errors import typed_error

Answer = TypeVar("Answer", bound=Message)
Number = float | Decimal
SideWord = Literal["BUY", "SELL"]
StatusWord = Literal["PENDING", "EXECUTED", "CANCELLED", "REJECTED", "UNKNOWN"]
ModeWord = Literal["AUTO", "PAPER", "LIVE"]

_ORDERS = "/efficientfrontier.v1.OrderService/"
_POSITIONS = "/efficientfrontier.v1.PositionService/"
_PORTFOLIO = "/efficientfrontier.v1.PortfolioService/"


@dataclass(frozen=True)
class Call(Generic[Answer]):
    """One request to one method of the router, and the message that answers it."""

    method: str
    request: Message
    answer: type[Answer]


def buy_all(strategy: str, symbol: str, price: Number, request_id: str | None) -> Call[Order]:
    """OrderService.BuyAll."""
    request = BuyAllRequest(
        strategy_name=strategy,
        symbol=symbol,
        price=float(price),
        request_id=request_id or _new_id(),
    )
    return Call(_ORDERS + "BuyAll", request, Order)


def sell_all(strategy: str, symbol: str, price: Number, request_id: str | None) -> Call[Order]:
    """OrderService.SellAll."""
    request = SellAllRequest(
        strategy_name=strategy,
        symbol=symbol,
        price=float(price),
        request_id=request_id or _new_id(),
    )
    return Call(_ORDERS + "SellAll", request, Order)


def create_order(
    strategy: str,
    symbol: str,
    side: SideWord,
    quantity: Number,
    price: Number,
    request_id: str | None,
) -> Call[Order]:
    """OrderService.CreateOrder."""
    request = CreateOrderRequest(
        strategy_name=strategy,
        symbol=symbol,
        side=Order.Side.Value(side),
        quantity=float(quantity),
        price=float(price),
        request_id=request_id or _new_id(),
    )
    return Call(_ORDERS + "CreateOrder", request, Order)


def get_order(order_id: str) -> Call[Order]:
    """OrderService.GetOrder."""
    return Call(_ORDERS + "GetOrder", GetOrderRequest(order_id=order_id), Order)


def list_orders(
    strategy: str, symbol: str, status: StatusWord | None, page_size: int, page_token: str
) -> Call[ListOrdersResponse]:
    """OrderService.ListOrders, one page."""
    request = ListOrdersRequest(
        strategy_name=strategy,
        symbol=symbol,
        status=Order.Status.Value(status or "STATUS_UNSPECIFIED"),
        page_size=page_size,
        page_token=page_token,
    )
    return Call(_ORDERS + "ListOrders", request, ListOrdersResponse)


def update_order_status(
    order_id: str,
    status: StatusWord,
    filled_quantity: Number | None,
    average_fill_price: Number | None,
    commission: Number | None,
    reason: str,
    request_id: str | None,
) -> Call[Order]:
    """OrderService.UpdateOrderStatus."""
    request = UpdateOrderStatusRequest(
        order_id=order_id,
        status=Order.Status.Value(status),
        filled_quantity=_float(filled_quantity),
        average_fill_price=_float(average_fill_price),
        commission=_float(commission),
        reason=reason,
        request_id=request_id or _new_id(),
    )
    return Call(_ORDERS + "UpdateOrderStatus", request, Order)


def watch_orders(strategy: str, symbol: str, snapshot_size: int) -> Call[WatchOrdersResponse]:
    """OrderService.WatchOrders, a stream."""
    request = WatchOrdersRequest(strategy_name=strategy, symbol=symbol, snapshot_size=snapshot_size)
    return Call(_ORDERS + "WatchOrders", request, WatchOrdersResponse)


def set_position(
    strategy: str,
    symbol: str,
    quantity: Number,
    average_cost: Number,
    reason: str,
    request_id: str | None,
) -> Call[Position]:
    """PositionService.SetPosition."""
    request = SetPositionRequest(
        strategy_name=strategy,
        symbol=symbol,
        quantity=float(quantity),
        average_cost=float(average_cost),
        reason=reason,
        request_id=request_id or _new_id(),
    )
    return Call(_POSITIONS + "SetPosition", request, Position)


def assign_position(
    strategy: str,
    symbol: str,
    quantity: Number,
    average_cost: Number,
    reason: str,
    request_id: str | None,
) -> Call[Position]:
    """PositionService.AssignPosition."""
    request = AssignPositionRequest(
        strategy_name=strategy,
        symbol=symbol,
        quantity=float(quantity),
        average_cost=float(average_cost),
        reason=reason,
        request_id=request_id or _new_id(),
    )
    return Call(_POSITIONS + "AssignPosition", request, Position)


def list_positions(
    strategy: str, symbol: str, page_size: int, page_token: str
) -> Call[ListPositionsResponse]:
    """PositionService.ListPositions, one page."""
    request = ListPositionsRequest(
        strategy_name=strategy, symbol=symbol, page_size=page_size, page_token=page_token
    )
    return Call(_POSITIONS + "ListPositions", request, ListPositionsResponse)


def delete_position(
    position_id: str, reason: str, request_id: str | None
) -> Call[DeletePositionResponse]:
    """PositionService.DeletePosition."""
    request = DeletePositionRequest(
        position_id=position_id, reason=reason, request_id=request_id or _new_id()
    )
    return Call(_POSITIONS + "DeletePosition", request, DeletePositionResponse)


def upsert_portfolio(
    strategy: str,
    cash: Number | None,
    requested_mode: ModeWord | None,
    reason: str,
    request_id: str | None,
) -> Call[Portfolio]:
    """PortfolioService.UpsertPortfolio."""
    mode = None if requested_mode is None else Portfolio.RequestedMode.Value(requested_mode)
    request = UpsertPortfolioRequest(
        strategy_name=strategy,
        cash=_float(cash),
        requested_mode=mode,
        reason=reason,
        request_id=request_id or _new_id(),
    )
    return Call(_PORTFOLIO + "UpsertPortfolio", request, Portfolio)


def list_portfolios() -> Call[ListPortfoliosResponse]:
    """PortfolioService.ListPortfolios."""
    return Call(_PORTFOLIO + "ListPortfolios", ListPortfoliosRequest(), ListPortfoliosResponse)


def get_portfolio(strategy: str) -> Call[Portfolio]:
    """PortfolioService.GetPortfolio."""
    request = GetPortfolioRequest(strategy_name=strategy)
    return Call(_PORTFOLIO + "GetPortfolio", request, Portfolio)


def get_invested(strategy: str) -> Call[Invested]:
    """PortfolioService.GetInvested."""
    request = GetInvestedRequest(strategy_name=strategy)
    return Call(_PORTFOLIO + "GetInvested", request, Invested)


def halt(strategy: str, reason: str, request_id: str | None) -> Call[Portfolio]:
    """PortfolioService.HaltStrategy."""
    request = HaltStrategyRequest(
        strategy_name=strategy, reason=reason, request_id=request_id or _new_id()
    )
    return Call(_PORTFOLIO + "HaltStrategy", request, Portfolio)


def resume(strategy: str, request_id: str | None) -> Call[Portfolio]:
    """PortfolioService.ResumeStrategy."""
    request = ResumeStrategyRequest(strategy_name=strategy, request_id=request_id or _new_id())
    return Call(_PORTFOLIO + "ResumeStrategy", request, Portfolio)


def report_prices(
    strategy: str, prices: Mapping[str, Number], session: date | None
) -> Call[ReportPricesResponse]:
    """PortfolioService.ReportPrices."""
    request = ReportPricesRequest(
        strategy_name=strategy,
        prices=[Price(symbol=symbol, price=float(price)) for symbol, price in prices.items()],
        session="" if session is None else session.isoformat(),
    )
    return Call(_PORTFOLIO + "ReportPrices", request, ReportPricesResponse)


def watch_portfolios(strategy: str) -> Call[WatchPortfoliosResponse]:
    """PortfolioService.WatchPortfolios, a stream."""
    request = WatchPortfoliosRequest(strategy_name=strategy)
    return Call(_PORTFOLIO + "WatchPortfolios", request, WatchPortfoliosResponse)


def audit() -> Call[AuditResponse]:
    """PortfolioService.Audit."""
    return Call(_PORTFOLIO + "Audit", AuditRequest(), AuditResponse)


def order_in(event: WatchOrdersResponse) -> Order:
    """The order of a stream's event. Raises: PortfolioError, when the event ends the stream."""
    if event.HasField("end"):
        _raise_end(event.end)
    return event.order


def portfolio_in(event: WatchPortfoliosResponse) -> Portfolio:
    """The strategy of a stream's event. Raises: PortfolioError, when the event ends the stream."""
    if event.HasField("end"):
        _raise_end(event.end)
    return event.portfolio


def _raise_end(end: StreamEnd) -> None:
    code = _CODES.get(end.code, grpc.StatusCode.UNKNOWN)
    raise typed_error(code, "", end.message)


_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


def _new_id() -> str:
    return str(uuid.uuid4())


def _float(number: Number | None) -> float | None:
    return None if number is None else float(number)

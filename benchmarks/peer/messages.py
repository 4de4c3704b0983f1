"""What the peer's paths take and return: the contract's messages as pydantic models."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer

from benchmarks.peer.tables import Mode, Side, Status

StrategyName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_.-]{0,63}$")]
Symbol = Annotated[str, Field(pattern=r"^[A-Z0-9][A-Z0-9.-]{0,15}$")]
RequestId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]{0,64}$")]
Positive = Annotated[Decimal, Field(gt=0, le=10**9, decimal_places=8)]
# Exact inside, a plain JSON number outside.
Number = Annotated[Decimal, PlainSerializer(float, return_type=float)]


class PlaceAll(BaseModel):
    """What buy_all and sell_all take."""

    strategy_name: StrategyName
    symbol: Symbol
    price: Positive
    request_id: RequestId = ""


class PlaceOrder(PlaceAll):
    """What POST /orders takes."""

    side: Side
    quantity: Positive


class OrderShown(BaseModel):
    """An order, as every path shows it."""

    model_config = ConfigDict(from_attributes=True)

    order_id: UUID
    strategy_name: str
    symbol: str
    side: Side
    quantity: Number
    price: Number
    status: Status
    mode: Mode
    filled_quantity: Number
    average_fill_price: Number
    commission: Number
    reason: str
    request_id: Annotated[str | None, PlainSerializer(lambda given: given or "")]
    create_time: datetime
    update_time: datetime


class OrderFilter(BaseModel):
    """What GET /orders takes, as its query; the token is the last order_id of the page before."""

    model_config = ConfigDict(extra="forbid")

    strategy: StrategyName | None = None
    symbol: Symbol | None = None
    status: Status | None = None
    page_size: Annotated[int, Field(ge=0)] = 0
    page_token: UUID | None = None


class OrdersShown(BaseModel):
    """One page of orders, newest first."""

    orders: list[OrderShown]
    next_page_token: str


class SetPortfolio(BaseModel):
    """What POST /portfolio takes."""

    strategy_name: StrategyName
    cash: Annotated[Decimal, Field(ge=0, le=10**12, decimal_places=8)]


class PortfolioShown(BaseModel):
    """The part of a strategy's state that the peer keeps."""

    model_config = ConfigDict(from_attributes=True)

    strategy_name: str
    mode: Mode
    cash: Number
    realized_pnl: Number
    update_time: datetime


class InvestedShown(BaseModel):
    """Whether a strategy holds anything, and what."""

    strategy_name: str
    invested: bool
    mode: Mode
    symbols: list[str]

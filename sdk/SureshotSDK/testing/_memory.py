"""The router's rules in memory, for tests: the PAPER book of every strategy, in Decimal.

It answers the very requests that PortfolioClient would send, with the same messages, and raises
the same errors; tests/sdk/portfolio_contract.py holds both to it. What it leaves out: LIVE, the
equity history (a session is kept when it is named, may be any, and is never closed), and streams
that stay open (a watch yields what there is, and ends).
"""

import hashlib
import math
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NoReturn, TypeVar, cast

import grpc
from google.protobuf.message import Message

from efficientfrontier.v1 import order_service_pb2 as orders_pb
from efficientfrontier.v1 import portfolio_service_pb2 as portfolio_pb
from efficientfrontier.v1 import position_service_pb2 as positions_pb
from efficientfrontier.v1.book_pb2 import Book as BookPb
from efficientfrontier.v1.order_service_pb2 import Order
from efficientfrontier.v1.portfolio_service_pb2 import Portfolio
from efficientfrontier.v1.position_service_pb2 import Position
from SureshotSDK._calls import Answer, Call
from SureshotSDK._interface import PortfolioInterface
from SureshotSDK.errors import typed_error

Item = TypeVar("Item")
_ZERO = Decimal(0)
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
_SYMBOL = re.compile(r"[A-Z0-9][A-Z0-9.-]{0,15}")
_REQUEST_ID = re.compile(r"[A-Za-z0-9_.:-]{0,64}")


class InMemoryPortfolio(PortfolioInterface):
    """A portfolio that lives and dies with the test. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._books: dict[str, _Book] = {}
        self._orders: dict[str, Order] = {}
        self._answered: dict[str, tuple[str, bytes, Message]] = {}
        self._answers: dict[str, Callable[[Any], Message]] = {
            "BuyAll": self._buy_all,
            "SellAll": self._sell_all,
            "CreateOrder": self._create_order,
            "GetOrder": lambda request: self._order(request.order_id),
            "ListOrders": self._list_orders,
            "UpdateOrderStatus": self._update_order_status,
            "SetPosition": self._set_position,
            "AssignPosition": self._assign_position,
            "ListPositions": self._list_positions,
            "DeletePosition": self._delete_position,
            "UpsertPortfolio": self._upsert_portfolio,
            "ListPortfolios": self._list_portfolios,
            "GetPortfolio": lambda request: self._shown(self._book(request.strategy_name)),
            "GetInvested": self._get_invested,
            "HaltStrategy": self._halt,
            "ResumeStrategy": self._resume,
            "ReportPrices": self._report_prices,
            "Audit": self._audit,
        }

    def _unary(self, call: Call[Answer]) -> Answer:
        method = call.method.rpartition("/")[2]
        with self._lock:
            _check(call.request)
            answer = self._answer_once(method, call.request)
        copy = call.answer()
        copy.MergeFromString(answer.SerializeToString())  # the caller may change what it got
        return copy

    def _stream(self, call: Call[Answer], for_s: float) -> Iterator[Answer]:  # noqa: ARG002
        request = call.request
        with self._lock:
            _check(request)
            if isinstance(request, orders_pb.WatchOrdersRequest):
                newest = self._newest(request.strategy_name, request.symbol)
                shown = list(reversed(newest[: request.snapshot_size]))
                events: list[Any] = [orders_pb.WatchOrdersResponse(order=order) for order in shown]
            else:
                wanted = cast("portfolio_pb.WatchPortfoliosRequest", request).strategy_name
                events = [
                    portfolio_pb.WatchPortfoliosResponse(portfolio=self._shown(book))
                    for name, book in sorted(self._books.items())
                    if wanted in {"", name}
                ]
        return iter(events)

    def _answer_once(self, method: str, request: Message) -> Message:
        request_id = getattr(request, "request_id", "")
        if not request_id:
            return self._answers[method](request)
        body = request.SerializeToString(deterministic=True)
        if request_id in self._answered:
            known_method, known_body, answer = self._answered[request_id]
            if (known_method, known_body) != (method, body):
                code = grpc.StatusCode.ALREADY_EXISTS
                text = f"The request_id {request_id} was used before with another request."
                raise typed_error(code, "REQUEST_ID_REUSED", text, {"request_id": request_id})
            return answer
        answer = self._answers[method](request)
        kept = type(answer)()
        kept.CopyFrom(answer)
        self._answered[request_id] = (method, body, kept)
        return answer

    def _buy_all(self, request: orders_pb.BuyAllRequest) -> Order:
        book, price = self._active(request.strategy_name), _decimal(request.price)
        quantity = book.cash // price
        if quantity == 0:
            _refuse_cash(Decimal(1), request.symbol, price, book.cash)
        return self._fill(book, request, orders_pb.Order.BUY, quantity)

    def _sell_all(self, request: orders_pb.SellAllRequest) -> Order:
        book = self._active(request.strategy_name)
        quantity = book.held(request.symbol)
        if quantity == 0:
            text = f"{book.name} holds no {request.symbol} to sell."
            _refuse("NOTHING_TO_SELL", text, symbol=request.symbol)
        return self._fill(book, request, orders_pb.Order.SELL, quantity)

    def _create_order(self, request: orders_pb.CreateOrderRequest) -> Order:
        book = self._active(request.strategy_name)
        quantity, price = _decimal(request.quantity), _decimal(request.price)
        if request.side == orders_pb.Order.BUY and quantity * price > book.cash:
            _refuse_cash(quantity, request.symbol, price, book.cash)
        if request.side == orders_pb.Order.SELL and quantity > book.held(request.symbol):
            held = book.held(request.symbol)
            text = f"Selling {quantity} {request.symbol}, but {book.name} holds {held}."
            _refuse("INSUFFICIENT_SHARES", text, needed=quantity, held=held)
        return self._fill(book, request, request.side, quantity)

    def _fill(
        self, book: "_Book", request: Any, side: orders_pb.Order.Side.ValueType, quantity: Decimal
    ) -> Order:
        price = _decimal(request.price)
        book.trade(request.symbol, quantity if side == Order.BUY else -quantity, price)
        order = Order(
            order_id=_uuid7(),
            strategy_name=book.name,
            symbol=request.symbol,
            side=side,
            quantity=float(quantity),
            price=request.price,
            status=orders_pb.Order.EXECUTED,
            mode=BookPb.PAPER,
            filled_quantity=float(quantity),
            average_fill_price=request.price,
            request_id=request.request_id,
        )
        order.create_time.FromDatetime(datetime.now(UTC))
        order.update_time.CopyFrom(order.create_time)
        self._orders[order.order_id] = order
        return order

    def _list_orders(self, request: orders_pb.ListOrdersRequest) -> orders_pb.ListOrdersResponse:
        found = [
            order
            for order in self._newest(request.strategy_name, request.symbol)
            if request.status in {0, order.status}
        ]
        filters = f"{request.strategy_name}/{request.symbol}/{request.status}"
        page, token = _page(found, request, filters, lambda order: order.order_id)
        return orders_pb.ListOrdersResponse(orders=page, next_page_token=token)

    def _newest(self, strategy: str, symbol: str) -> list[Order]:
        return [
            order
            for order in reversed(self._orders.values())
            if strategy in {"", order.strategy_name} and symbol in {"", order.symbol}
        ]

    def _update_order_status(self, request: orders_pb.UpdateOrderStatusRequest) -> Order:
        order = self._order(request.order_id)
        if request.status != order.status:
            now, wanted = (orders_pb.Order.Status.Name(s) for s in (order.status, request.status))
            text = f"Order {order.order_id} is {now}, which is final; it cannot become {wanted}."
            _refuse("ILLEGAL_STATUS_CHANGE", text, status=now, requested_status=wanted)
        return order

    def _set_position(self, request: positions_pb.SetPositionRequest) -> Position:
        book = self._book(request.strategy_name)
        position = book.positions.setdefault(request.symbol, _Position())
        position.quantity = _decimal(request.quantity)
        position.average_cost = _decimal(request.average_cost)
        book.adjust_shares(request.symbol)
        return book.shown_position(request.symbol)

    def _assign_position(self, request: positions_pb.AssignPositionRequest) -> Position:
        if request.strategy_name != "UNATTRIBUTED":
            self._book(request.strategy_name)
        text = f"{request.symbol} has no UNATTRIBUTED shares: there is no broker here."
        _refuse("NOT_UNATTRIBUTED", text, symbol=request.symbol)

    def _list_positions(
        self, request: positions_pb.ListPositionsRequest
    ) -> positions_pb.ListPositionsResponse:
        found = [
            book.shown_position(symbol)
            for name, book in sorted(self._books.items())
            for symbol in book.symbols()
            if request.strategy_name in {"", name} and request.symbol in {"", symbol}
        ]
        filters = f"{request.strategy_name}/{request.symbol}"
        page, token = _page(found, request, filters, lambda position: position.position_id)
        return positions_pb.ListPositionsResponse(positions=page, next_page_token=token)

    def _delete_position(
        self, request: positions_pb.DeletePositionRequest
    ) -> positions_pb.DeletePositionResponse:
        for book in self._books.values():
            for symbol in book.symbols():
                if book.position_id(symbol) == request.position_id:
                    book.positions[symbol].quantity = _ZERO
                    book.adjust_shares(symbol)
                    return positions_pb.DeletePositionResponse()
        return _not_found("POSITION_NOT_FOUND", f"No position has the id {request.position_id}.")

    def _upsert_portfolio(self, request: portfolio_pb.UpsertPortfolioRequest) -> Portfolio:
        book = self._books.setdefault(request.strategy_name, _Book(request.strategy_name))
        if request.HasField("cash"):
            book.adjust_cash(_decimal(request.cash))
        if request.HasField("requested_mode"):
            book.requested_mode = request.requested_mode
        return self._shown(book)

    def _list_portfolios(
        self,
        request: portfolio_pb.ListPortfoliosRequest,  # noqa: ARG002 - it asks for nothing
    ) -> portfolio_pb.ListPortfoliosResponse:
        shown = [self._shown(book) for _, book in sorted(self._books.items())]
        return portfolio_pb.ListPortfoliosResponse(portfolios=shown)

    def _get_invested(self, request: portfolio_pb.GetInvestedRequest) -> portfolio_pb.Invested:
        symbols = self._book(request.strategy_name).symbols()
        return portfolio_pb.Invested(
            strategy_name=request.strategy_name,
            invested=bool(symbols),
            mode=BookPb.PAPER,
            symbols=symbols,
        )

    def _halt(self, request: portfolio_pb.HaltStrategyRequest) -> Portfolio:
        book = self._book(request.strategy_name)
        book.halted, book.halted_because = True, request.reason
        return self._shown(book)

    def _resume(self, request: portfolio_pb.ResumeStrategyRequest) -> Portfolio:
        book = self._book(request.strategy_name)
        book.halted = False
        return self._shown(book)

    def _report_prices(
        self, request: portfolio_pb.ReportPricesRequest
    ) -> portfolio_pb.ReportPricesResponse:
        book = self._book(request.strategy_name)
        for seen in request.prices:
            book.prices[seen.symbol] = _decimal(seen.price)
        book.session = max(book.session, request.session)
        return portfolio_pb.ReportPricesResponse()

    def _audit(
        self,
        request: portfolio_pb.AuditRequest,  # noqa: ARG002 - it asks for nothing
    ) -> portfolio_pb.AuditResponse:
        differences = [one for book in self._books.values() for one in book.differences()]
        return portfolio_pb.AuditResponse(
            balanced=not differences, books=len(self._books), differences=differences
        )

    def _shown(self, book: "_Book") -> Portfolio:
        total = sum((other.equity() for other in self._books.values()), _ZERO)
        shown = Portfolio(
            strategy_name=book.name,
            mode=BookPb.PAPER,
            requested_mode=book.requested_mode,
            cash=float(book.cash),
            positions_value=float(book.equity() - book.cash),
            equity=float(book.equity()),
            invested=bool(book.symbols()),
            weight=float(book.equity() / total) if total else 0.0,
            state=Portfolio.HALTED if book.halted else Portfolio.ACTIVE,
            realized_pnl=float(sum((p.realized for p in book.positions.values()), _ZERO)),
            unrealized_pnl=float(sum((book.unrealized(s) for s in book.symbols()), _ZERO)),
            session=book.session,
        )
        shown.update_time.FromDatetime(datetime.now(UTC))
        return shown

    def _book(self, name: str) -> "_Book":
        if name not in self._books:
            text = f"No strategy is called {name}. POST /portfolio creates one."
            _not_found("STRATEGY_NOT_FOUND", text)
        return self._books[name]

    def _active(self, name: str) -> "_Book":
        book = self._book(name)
        if book.halted:
            text = f"{name} is halted ({book.halted_because}): it takes no orders until resumed."
            _refuse("STRATEGY_HALTED", text, strategy_name=name)
        return book

    def _order(self, order_id: str) -> Order:
        if order_id not in self._orders:
            _not_found("ORDER_NOT_FOUND", f"No order has the id {order_id}.")
        return self._orders[order_id]


@dataclass
class _Position:
    quantity: Decimal = _ZERO
    average_cost: Decimal = _ZERO
    realized: Decimal = _ZERO


@dataclass
class _Book:
    """One strategy: what it has now, and apart from that the facts that this must follow from."""

    name: str
    cash: Decimal = _ZERO
    positions: dict[str, _Position] = field(default_factory=dict)
    prices: dict[str, Decimal] = field(default_factory=dict)
    requested_mode: portfolio_pb.Portfolio.RequestedMode.ValueType = Portfolio.AUTO
    halted: bool = False
    halted_because: str = ""
    session: str = ""  # the latest that it named; sorts as its date does
    facts: list[tuple[str, Decimal]] = field(default_factory=list)  # of "cash" or a symbol

    def held(self, symbol: str) -> Decimal:
        return self.positions.get(symbol, _Position()).quantity

    def symbols(self) -> list[str]:
        return sorted(symbol for symbol, p in self.positions.items() if p.quantity > 0)

    def trade(self, symbol: str, quantity: Decimal, price: Decimal) -> None:
        """Books a fill; `quantity` below zero is a sale."""
        position = self.positions.setdefault(symbol, _Position())
        if quantity > 0:
            paid = position.quantity * position.average_cost + quantity * price
            position.average_cost = paid / (position.quantity + quantity)
        else:
            position.realized -= quantity * (price - position.average_cost)
        position.quantity += quantity
        self.cash -= quantity * price
        self.prices[symbol] = price
        self.facts += [("cash", -quantity * price), (symbol, quantity)]

    def adjust_cash(self, cash: Decimal) -> None:
        self.facts.append(("cash", cash - self.cash))
        self.cash = cash

    def adjust_shares(self, symbol: str) -> None:
        """Books the difference between the position and its facts as an adjustment."""
        self.facts.append((symbol, self.positions[symbol].quantity - self._recomputed(symbol)))

    def price(self, symbol: str) -> Decimal:
        return self.prices.get(symbol, self.positions[symbol].average_cost)

    def unrealized(self, symbol: str) -> Decimal:
        position = self.positions[symbol]
        return position.quantity * (self.price(symbol) - position.average_cost)

    def equity(self) -> Decimal:
        held = (self.positions[symbol].quantity * self.price(symbol) for symbol in self.symbols())
        return self.cash + sum(held, _ZERO)

    def position_id(self, symbol: str) -> str:
        return str(uuid.uuid5(uuid.NAMESPACE_OID, f"{self.name}/PAPER/{symbol}"))

    def shown_position(self, symbol: str) -> Position:
        position = self.positions[symbol]
        shown = Position(
            position_id=self.position_id(symbol),
            strategy_name=self.name,
            symbol=symbol,
            mode=BookPb.PAPER,
            quantity=float(position.quantity),
            average_cost=float(position.average_cost),
            market_price=float(self.price(symbol)),
            market_value=float(position.quantity * self.price(symbol)),
            unrealized_pnl=float(self.unrealized(symbol)),
            realized_pnl=float(position.realized),
        )
        shown.update_time.FromDatetime(datetime.now(UTC))
        return shown

    def differences(self) -> Iterator[portfolio_pb.AuditResponse.Difference]:
        recorded = {"cash": self.cash} | {s: p.quantity for s, p in self.positions.items()}
        for figure, value in recorded.items():
            recomputed = self._recomputed(figure)
            if value != recomputed:
                yield portfolio_pb.AuditResponse.Difference(
                    strategy_name=self.name,
                    mode=BookPb.PAPER,
                    figure=figure if figure == "cash" else f"{figure} quantity",
                    recorded=str(value),
                    recomputed=str(recomputed),
                )

    def _recomputed(self, figure: str) -> Decimal:
        return sum((change for what, change in self.facts if what == figure), _ZERO)


def _check(request: Message) -> None:
    """Raises the router's INVALID_FIELD for the first field that breaks its rule."""
    searches = request.DESCRIPTOR.name.startswith(("List", "Watch"))
    for described in request.DESCRIPTOR.fields:
        name, value = described.name, getattr(request, described.name)
        absent = described.has_presence and not request.HasField(name)
        if absent or (searches and value in {"", 0}):
            continue
        if name == "prices":
            if not 1 <= len(value) <= 100:
                _invalid("prices", f"it has {len(value)} entries; 1 to 100 are possible")
            for seen in value:
                _check(seen)
        else:
            _check_field(name, value)


def _check_field(name: str, value: Any) -> None:
    if name == "strategy_name" and not _NAME.fullmatch(value):
        _invalid(name, f"{value!r} is not 1 to 64 of A-Z a-z 0-9 _ . - from a letter on")
    if name == "symbol" and not _SYMBOL.fullmatch(value):
        _invalid(name, f"{value!r} is not 1 to 16 of A-Z 0-9 . -")
    if name == "request_id" and not _REQUEST_ID.fullmatch(value):
        _invalid(name, "it is not up to 64 of A-Z a-z 0-9 _ . : -")
    if name == "reason" and len(value) > 256:
        _invalid(name, "it is longer than 256 characters")
    if name in {"side", "status", "requested_mode"} and value == 0:
        _invalid(name, "it is missing")
    if name == "page_size" and value < 0:
        _invalid(name, f"{value} is below 0")
    if name in {"order_id", "position_id"}:
        try:
            uuid.UUID(value)
        except ValueError:
            _invalid(name, f"{value!r} is not a UUID")
    if isinstance(value, float):
        _check_number(name, value)


def _check_number(name: str, value: float) -> None:
    least_possible = name in {"cash", "commission"}
    most = 1e12 if name == "cash" else 1e9
    if not math.isfinite(value) or value < 0 or value > most or (value == 0 and not least_possible):
        _invalid(name, f"{value} is not a number above 0 and at most {most:g}")
    exact = _decimal(value).normalize().as_tuple()
    if len(exact.digits) > 15 or int(exact.exponent) < -8:
        _invalid(name, f"{value} has more than 15 significant digits or 8 decimals")


def _page(
    found: Sequence[Item], request: Any, filters: str, key: Callable[[Item], str]
) -> tuple[Sequence[Item], str]:
    """One page after the request's token, which holds its filters' digest and the last key."""
    digest = hashlib.sha256(filters.encode()).hexdigest()[:12]
    begin = 0
    if request.page_token:
        made_for, _, last = request.page_token.partition(":")
        keys = [key(item) for item in found]
        if made_for != digest or last not in keys:
            code = grpc.StatusCode.INVALID_ARGUMENT
            text = "The page_token was not made by this list with these filters."
            raise typed_error(code, "INVALID_PAGE_TOKEN", text)
        begin = keys.index(last) + 1
    end = begin + min(request.page_size or 50, 1000)
    page = found[begin:end]
    return page, f"{digest}:{key(page[-1])}" if end < len(found) else ""


def _uuid7() -> str:
    value = (time.time_ns() // 1_000_000) << 80 | uuid.uuid4().int & (1 << 80) - 1
    value = value & ~(0xF << 76) | 0x7 << 76
    return str(uuid.UUID(int=value))


def _decimal(number: float) -> Decimal:
    return Decimal(repr(number))


def _invalid(name: str, why: str) -> NoReturn:
    code = grpc.StatusCode.INVALID_ARGUMENT
    raise typed_error(code, "INVALID_FIELD", f"{name}: {why}.", {"field": name})


def _not_found(reason: str, text: str) -> NoReturn:
    raise typed_error(grpc.StatusCode.NOT_FOUND, reason, text)


def _refuse_cash(quantity: Decimal, symbol: str, price: Decimal, free: Decimal) -> NoReturn:
    needed = quantity * price
    text = f"Buying {quantity} {symbol} needs {needed} USD; {free} USD is free."
    _refuse("INSUFFICIENT_CASH", text, needed=needed, free=free)


def _refuse(reason: str, text: str, **figures: object) -> NoReturn:
    metadata = {name: str(value) for name, value in figures.items()}
    raise typed_error(grpc.StatusCode.FAILED_PRECONDITION, reason, text, metadata)

"""The peer's REST API: FastAPI on the SQLAlchemy ORM, one session and transaction a request.

It is written as one would for production: async throughout, asyncpg's prepared statements kept by
SQLAlchemy, a pool, rows locked with SELECT ... FOR UPDATE, exact decimals. It has the paths that
are measured and those that set them up. Start it with

    PEER_DATABASE_URL=postgresql+asyncpg://... uvicorn benchmarks.peer.app:create --factory
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import ROUND_DOWN, Decimal
from typing import Annotated

from fastapi import Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from benchmarks.peer.messages import (
    InvestedShown,
    OrderFilter,
    OrderShown,
    OrdersShown,
    PlaceAll,
    PlaceOrder,
    PortfolioShown,
    SetPortfolio,
)
from benchmarks.peer.tables import (
    Base,
    Book,
    CashEntry,
    Fill,
    Order,
    Position,
    Side,
    Status,
)

CENT = Decimal("0.01")


class Refused(Exception):  # noqa: N818 -- the desk's word
    """A request that is answered with an error; nothing is written."""

    def __init__(self, http_status: int, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.http_status = http_status
        self.body = error_body(code, reason, message)


def create() -> FastAPI:
    """Makes the application. It opens its pool and makes its tables when it starts."""
    app = FastAPI(title="The peer", lifespan=database)
    app.add_exception_handler(Refused, show_refused)
    app.add_exception_handler(RequestValidationError, show_invalid)
    app.post("/orders/buy_all")(buy_all)
    app.post("/orders/sell_all")(sell_all)
    app.post("/orders")(create_order)
    app.get("/orders")(list_orders)
    app.post("/portfolio")(set_portfolio)
    app.get("/portfolio/{strategy_name}")(get_portfolio)
    app.get("/portfolio/{strategy_name}/invested")(get_invested)
    return app


@asynccontextmanager
async def database(app: FastAPI) -> AsyncIterator[None]:
    """Opens the pool, makes the tables, and closes the pool at the end."""
    engine = create_async_engine(
        os.environ["PEER_DATABASE_URL"],
        pool_size=int(os.environ.get("PEER_POOL_SIZE", "16")),
        max_overflow=0,
    )
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    app.state.sessions = async_sessionmaker(engine, expire_on_commit=False)
    yield
    await engine.dispose()


async def session_of(request: Request) -> AsyncIterator[AsyncSession]:
    """One session a request. The path commits, so that no answer leaves before its commit."""
    async with request.app.state.sessions() as session:
        yield session


Session = Annotated[AsyncSession, Depends(session_of)]


async def create_order(placed: PlaceOrder, session: Session) -> OrderShown:
    """Places an order for a named quantity."""
    try:
        async with session.begin():
            book = await locked_book(session, placed.strategy_name)
            if first := await first_answer(session, placed):
                return OrderShown.model_validate(first)
            position = await position_of(session, book, placed.symbol)
            order = executed(book, placed, placed.side, placed.quantity)
            post(session, book, position, order)
    except IntegrityError:
        raise request_id_reused(placed.request_id) from None
    return OrderShown.model_validate(order)


async def buy_all(placed: PlaceAll, session: Session) -> OrderShown:
    """Buys as many whole shares as the strategy's cash allows."""
    try:
        async with session.begin():
            book = await locked_book(session, placed.strategy_name)
            if first := await first_answer(session, placed):
                return OrderShown.model_validate(first)
            position = await position_of(session, book, placed.symbol)
            affordable = (book.cash / placed.price).quantize(Decimal(1), ROUND_DOWN)
            order = executed(book, placed, Side.BUY, max(affordable, Decimal(1)))
            post(session, book, position, order)
    except IntegrityError:
        raise request_id_reused(placed.request_id) from None
    return OrderShown.model_validate(order)


async def sell_all(placed: PlaceAll, session: Session) -> OrderShown:
    """Sells all the strategy holds of the symbol."""
    try:
        async with session.begin():
            book = await locked_book(session, placed.strategy_name)
            if first := await first_answer(session, placed):
                return OrderShown.model_validate(first)
            position = await position_of(session, book, placed.symbol)
            if position.quantity == 0:
                message = f"{book.strategy_name} holds no {placed.symbol} to sell."
                raise Refused(400, 9, "NOTHING_TO_SELL", message)
            order = executed(book, placed, Side.SELL, position.quantity)
            post(session, book, position, order)
    except IntegrityError:
        raise request_id_reused(placed.request_id) from None
    return OrderShown.model_validate(order)


async def list_orders(asked: Annotated[OrderFilter, Query()], session: Session) -> OrdersShown:
    """Lists orders, newest first."""
    size = min(asked.page_size or 50, 1000)
    wanted = select(Order).order_by(Order.order_id.desc()).limit(size + 1)
    if asked.strategy:
        wanted = wanted.where(Order.strategy_name == asked.strategy)
    if asked.symbol:
        wanted = wanted.where(Order.symbol == asked.symbol)
    if asked.status:
        wanted = wanted.where(Order.status == asked.status)
    if asked.page_token:
        wanted = wanted.where(Order.order_id < asked.page_token)
    found = (await session.scalars(wanted)).all()
    page = found[:size]
    return OrdersShown(
        orders=[OrderShown.model_validate(order) for order in page],
        next_page_token=str(page[-1].order_id) if len(found) > size else "",
    )


async def set_portfolio(given: SetPortfolio, session: Session) -> PortfolioShown:
    """Creates a strategy, or sets its cash; the difference is a cash entry."""
    async with session.begin():
        wanted = select(Book).where(Book.strategy_name == given.strategy_name).with_for_update()
        book = await session.scalar(wanted)
        if book is None:
            book = Book(strategy_name=given.strategy_name, cash=Decimal(0))
            session.add(book)
            await session.flush()
        change = given.cash - book.cash
        book.cash = given.cash
        session.add(CashEntry(book_id=book.book_id, amount=change, kind="ADJUSTMENT"))
    return PortfolioShown.model_validate(book)


async def get_portfolio(strategy_name: str, session: Session) -> PortfolioShown:
    """Reads one strategy."""
    book = await session.scalar(select(Book).where(Book.strategy_name == strategy_name))
    if book is None:
        raise strategy_not_found(strategy_name)
    return PortfolioShown.model_validate(book)


async def get_invested(strategy_name: str, session: Session) -> InvestedShown:
    """Says whether a strategy holds anything."""
    wanted = (
        select(Book.mode, Position.symbol)
        .outerjoin(Position, (Position.book_id == Book.book_id) & (Position.quantity > 0))
        .where(Book.strategy_name == strategy_name)
        .order_by(Position.symbol)
    )
    rows = (await session.execute(wanted)).all()
    if not rows:
        raise strategy_not_found(strategy_name)
    symbols = [row.symbol for row in rows if row.symbol is not None]
    return InvestedShown(
        strategy_name=strategy_name, invested=bool(symbols), mode=rows[0].mode, symbols=symbols
    )


async def locked_book(session: AsyncSession, strategy_name: str) -> Book:
    """The strategy's book, locked until the transaction ends."""
    wanted = select(Book).where(Book.strategy_name == strategy_name).with_for_update()
    book = await session.scalar(wanted)
    if book is None:
        raise strategy_not_found(strategy_name)
    return book


async def first_answer(session: AsyncSession, placed: PlaceAll) -> Order | None:
    """The order that this request_id has placed before, if any."""
    if not placed.request_id:
        return None
    first = await session.scalar(select(Order).where(Order.request_id == placed.request_id))
    if first is None:
        return None
    same = (first.strategy_name, first.symbol, first.price)
    if same != (placed.strategy_name, placed.symbol, placed.price):
        raise request_id_reused(placed.request_id)
    return first


async def position_of(session: AsyncSession, book: Book, symbol: str) -> Position:
    """What the book holds of the symbol; a new empty position when it never held any."""
    wanted = select(Position).where(Position.book_id == book.book_id, Position.symbol == symbol)
    position = await session.scalar(wanted)
    if position is None:
        position = Position(book_id=book.book_id, symbol=symbol)
        position.quantity = position.average_cost = position.realized_pnl = Decimal(0)
        session.add(position)
    return position


def executed(book: Book, placed: PlaceAll, side: Side, quantity: Decimal) -> Order:
    """The order, filled at its price, with its fill and its cash entry."""
    value = quantity * placed.price
    amount = -value if side is Side.BUY else value
    return Order(
        book_id=book.book_id,
        strategy_name=book.strategy_name,
        symbol=placed.symbol,
        side=side,
        quantity=quantity,
        price=placed.price,
        status=Status.EXECUTED,
        mode=book.mode,
        filled_quantity=quantity,
        average_fill_price=placed.price,
        request_id=placed.request_id or None,
        fills=[Fill(quantity=quantity, price=placed.price)],
        cash_entries=[CashEntry(book_id=book.book_id, amount=amount, kind=side)],
    )


def post(session: AsyncSession, book: Book, position: Position, order: Order) -> None:
    """Books the order into cash and position; all of it is written at the commit."""
    if order.side is Side.BUY:
        buy(book, position, order.quantity, order.price)
    else:
        sell(book, position, order.quantity, order.price)
    session.add(order)


def buy(book: Book, position: Position, quantity: Decimal, price: Decimal) -> None:
    """Turns cash into shares; the average cost is weighted by quantity."""
    value = quantity * price
    if value > book.cash:
        message = (
            f"Buying {quantity:f} {position.symbol} needs {value.quantize(CENT):f} USD; "
            f"{book.cash.quantize(CENT):f} USD is free."
        )
        raise Refused(400, 9, "INSUFFICIENT_CASH", message)
    held = position.quantity + quantity
    position.average_cost = (position.quantity * position.average_cost + value) / held
    position.quantity = held
    position.market_price = price
    book.cash -= value


def sell(book: Book, position: Position, quantity: Decimal, price: Decimal) -> None:
    """Turns shares into cash and books the profit or loss."""
    if quantity > position.quantity:
        message = (
            f"Selling {quantity:f} {position.symbol} is more than the "
            f"{position.quantity:f} that {book.strategy_name} holds."
        )
        raise Refused(400, 9, "INSUFFICIENT_SHARES", message)
    profit = (price - position.average_cost) * quantity
    position.quantity -= quantity
    position.market_price = price
    position.realized_pnl += profit
    book.realized_pnl += profit
    book.cash += quantity * price


def strategy_not_found(strategy_name: str) -> Refused:
    """The answer for a strategy that does not exist."""
    message = f"There is no strategy {strategy_name!r}; POST /portfolio creates it."
    return Refused(404, 5, "STRATEGY_NOT_FOUND", message)


def request_id_reused(request_id: str) -> Refused:
    """The answer for a request_id that another order has."""
    message = f"request_id {request_id!r} was used before with another body; use a new one."
    return Refused(409, 6, "REQUEST_ID_REUSED", message)


async def show_refused(_: Request, refused: Exception) -> JSONResponse:
    """Answers an error that a path raised."""
    assert isinstance(refused, Refused)
    return JSONResponse(refused.body, refused.http_status)


async def show_invalid(_: Request, invalid: Exception) -> JSONResponse:
    """Answers 400 for what pydantic refused, naming the fields."""
    assert isinstance(invalid, RequestValidationError)
    fields = ", ".join(".".join(str(part) for part in e["loc"][1:]) for e in invalid.errors())
    return JSONResponse(error_body(3, "INVALID_FIELD", f"Not valid: {fields}."), 400)


def error_body(code: int, reason: str, message: str) -> dict[str, object]:
    """An error as REST shows it: {code, message, details}."""
    detail = {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": reason,
        "domain": "efficientfrontier",
        "metadata": {},
    }
    return {"code": code, "message": message, "details": [detail]}

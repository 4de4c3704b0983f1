"""Between the wire's messages and the domain's values. The only place where floats live.

A double becomes a Decimal once, by its shortest decimal text, so that 0.1 is 0.1.
"""

from datetime import date, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from efficientfrontier.v1.book_pb2 import Book as BookMessage
from efficientfrontier.v1.broker_service_pb2 import Broker as BrokerMessage
from efficientfrontier.v1.broker_service_pb2 import Reconciliation as ReconciliationMessage
from efficientfrontier.v1.order_service_pb2 import Order as OrderMessage
from efficientfrontier.v1.portfolio_service_pb2 import Invested
from efficientfrontier.v1.portfolio_service_pb2 import Portfolio as PortfolioMessage
from efficientfrontier.v1.position_service_pb2 import Position as PositionMessage
from efficientfrontier.v1.stream_pb2 import StreamEnd
from services.portfolio.domain.money import DECIMALS
from services.portfolio.domain.order import Mode, Order, Side, Status
from services.portfolio.domain.reconciliation import Reconciliation
from services.portfolio.domain.weather import BrokerState, Weather, masked
from services.portfolio.history.sessions import session_at
from services.portfolio.ports import UnavailableError
from services.portfolio.rpc.errors import InvalidFieldError
from services.portfolio.views import InvestedView, PortfolioView, PositionView

MOST_DIGITS = 15  # a double holds 15 significant decimal digits exactly

FURTHEST_SESSION = timedelta(days=7)  # a typing error would end the history there

MODES = {mode: BookMessage.Mode.Value(mode) for mode in Mode}
SIDES = {side: OrderMessage.Side.Value(side) for side in Side}
STATUSES = {status: OrderMessage.Status.Value(status) for status in Status}
SIDE_OF = {number: side for side, number in SIDES.items()}
STATUS_OF = {number: status for status, number in STATUSES.items()}


def decimal_of(number: float, field: str) -> Decimal:
    """The number as a Decimal, exactly as it was written.

    Raises:
        InvalidFieldError: It has more than 15 significant digits, or more than 8 decimals.
    """
    shortest = Decimal(repr(number))
    _, digits, exponent = shortest.normalize().as_tuple()  # 100.0 has one significant digit
    if len(digits) > MOST_DIGITS:
        raise InvalidFieldError(
            (field, f"has {len(digits)} significant digits; at most {MOST_DIGITS} are exact")
        )
    if int(exponent) < -DECIMALS:
        raise InvalidFieldError(
            (field, f"has {-int(exponent)} decimals; at most {DECIMALS} are kept")
        )
    return shortest


def optional_decimal(number: float, field: str, *, present: bool) -> Decimal | None:
    """The number as a Decimal; None when the field is absent."""
    return decimal_of(number, field) if present else None


def session_of(text: str, now: datetime) -> date | None:
    """The session that prices are of; None when none is given.

    Raises:
        InvalidFieldError: It is no date, or further away than a clock or a time zone explains.
    """
    if not text:
        return None
    try:
        session = date.fromisoformat(text)
    except ValueError:
        raise InvalidFieldError(("session", f"must be a date; there is no {text}")) from None
    if session > session_at(now) + FURTHEST_SESSION:
        raise InvalidFieldError(
            ("session", f"is {text}, more than {FURTHEST_SESSION.days} days after today")
        )
    return session


def uuid_of(text: str) -> UUID:
    """The id. Its form was checked by the contract's rules."""
    return UUID(text)


def order_message(order: Order) -> OrderMessage:
    """An order as the contract has it."""
    return OrderMessage(
        order_id=str(order.order_id),
        strategy_name=order.strategy_name,
        symbol=order.symbol,
        side=SIDES[order.side],
        quantity=float(order.quantity),
        price=float(order.price),
        status=STATUSES[order.status],
        mode=MODES[order.mode],
        filled_quantity=float(order.filled_quantity),
        average_fill_price=float(order.average_fill_price),
        commission=float(order.commission),
        reason=order.reason,
        request_id=order.request_id,
        create_time=timestamp(order.create_time),
        update_time=timestamp(order.update_time),
        twin_of="" if order.twin_of is None else str(order.twin_of),
    )


def position_message(position: PositionView) -> PositionMessage:
    """A position as the contract has it."""
    return PositionMessage(
        position_id=str(position.position_id),
        strategy_name=position.strategy_name,
        symbol=position.symbol,
        mode=MODES[position.mode],
        quantity=float(position.quantity),
        average_cost=float(position.average_cost),
        market_price=float(position.market_price),
        market_value=float(position.market_value),
        unrealized_pnl=float(position.unrealized_pnl),
        realized_pnl=float(position.realized_pnl),
        update_time=timestamp(position.update_time),
    )


def portfolio_message(portfolio: PortfolioView, now: datetime) -> PortfolioMessage:
    """A strategy's state as the contract has it."""
    return PortfolioMessage(
        strategy_name=portfolio.strategy_name,
        mode=MODES[portfolio.mode],
        requested_mode=PortfolioMessage.RequestedMode.Value(portfolio.requested_mode),
        cash=float(portfolio.cash),
        reserved_cash=float(portfolio.reserved_cash),
        positions_value=float(portfolio.positions_value),
        equity=float(portfolio.equity),
        invested=portfolio.invested,
        weight=float(portfolio.weight),
        state=PortfolioMessage.State.Value(portfolio.state),
        realized_pnl=float(portfolio.realized_pnl),
        unrealized_pnl=float(portfolio.unrealized_pnl),
        update_time=timestamp(portfolio.update_time),
        halt_reason=portfolio.halt_reason,
        seen_time=None if portfolio.seen_time is None else timestamp(portfolio.seen_time),
        silent=portfolio.is_silent(now),
        session="" if portfolio.session is None else portfolio.session.isoformat(),
    )


def invested_message(view: InvestedView) -> Invested:
    """Whether a strategy is invested, as the contract has it."""
    return Invested(
        strategy_name=view.strategy_name,
        invested=bool(view.symbols),
        mode=MODES[view.mode],
        symbols=view.symbols,
    )


def broker_message(weather: Weather, trading_mode: Mode) -> BrokerMessage:
    """How things stand with the broker, as the contract has it."""
    kind = BrokerMessage.ACCOUNT_KIND_UNSPECIFIED
    if weather.account:
        kind = BrokerMessage.PAPER if weather.is_paper_account else BrokerMessage.LIVE
    return BrokerMessage(
        state=BrokerMessage.State.Value(weather.state),
        since_time=timestamp(weather.since),
        detail=weather.detail,
        market_data=BrokerMessage.MarketData.Value(weather.market_data),
        account=masked(weather.account),
        account_kind=kind,
        trading_mode=MODES[trading_mode],
        sender=weather.sender,
        takes_orders=weather.state is BrokerState.CONNECTED,
    )


def reconciliation_message(seen: Reconciliation) -> ReconciliationMessage:
    """The ledger beside the broker's account, as the contract has it."""
    return ReconciliationMessage(
        time=None if seen.time is None else timestamp(seen.time),
        rows=[
            ReconciliationMessage.Row(
                symbol=row.symbol,
                broker_quantity=float(row.broker),
                strategies_quantity=float(row.strategies),
                unattributed_quantity=float(row.unattributed),
                acknowledged_quantity=float(row.acknowledged),
                frozen=row.frozen,
            )
            for row in seen.rows
        ],
        broker_cash=None if seen.broker_cash is None else float(seen.broker_cash),
        strategies_cash=float(seen.strategies_cash),
        unallocated_cash=None if seen.unallocated_cash is None else float(seen.unallocated_cash),
        frozen_symbols=[row.symbol for row in seen.rows if row.frozen],
    )


def stream_end(error: UnavailableError) -> StreamEnd:
    """The last event of a stream that the router ends."""
    return StreamEnd(code=grpc.StatusCode.UNAVAILABLE.value[0], message=error.message)


def timestamp(time: datetime) -> Timestamp:
    """The time as the contract has it, to the microsecond."""
    # FromDatetime() costs six times as much.
    micros = round(time.timestamp() * 1_000_000)
    return Timestamp(seconds=micros // 1_000_000, nanos=micros % 1_000_000 * 1000)

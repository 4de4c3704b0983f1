"""The gateway's messages, at server version 176: field orders as the client libraries decode."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

from services.gateway.account import Holding
from services.gateway.market import Close, Instrument
from services.gateway.records import BY_HAND, Execution, Order, Side, Status
from services.gateway.wire import SERVER_VERSION, UNSET_DOUBLE, Field, frame

GATEWAY_ZONE = ZoneInfo("US/Eastern")
NO_REQUEST = -1
UNSET_INTEGER = 2_147_483_647


def welcome(now: datetime) -> bytes:
    """Ends the handshake."""
    return frame(SERVER_VERSION, _spelt(now))


def managed_accounts(account: str) -> bytes:
    """The accounts under the login."""
    return frame(15, 1, account)


def next_valid_id(order_id: int) -> bytes:
    """The lowest order id that the client may use."""
    return frame(9, 1, order_id)


def error(request: int, code: int, text: str) -> bytes:
    """An error, warning or notice; `request` is a request or order id, or -1."""
    return frame(4, 2, request, code, text, "")


def current_time(now: datetime) -> bytes:
    """The gateway's clock."""
    return frame(49, 1, int(now.timestamp()))


# Orders and executions


def open_order(order: Order, status: Status | None = None) -> bytes:
    """The order as it stands; `status` shows another than the true one."""
    ticket = order.ticket
    fields: list[Field] = [5, order.order_id, *_contract(ticket.symbol, "SMART")]
    fields += [ticket.side, ticket.quantity, ticket.order_type, 0, 0, ticket.tif or "DAY"]
    fields += ["", ticket.account, "O", 0, ticket.order_ref, order.client_id, order.perm_id]
    fields += [ticket.outside_rth, 0, 0, "", ""]  # hidden .. sharesAllocation
    fields += _blank(7)  # faGroup .. rule80A
    fields += [None, "", 0, "", -1, 0, None, None, None, None, None, None]  # percentOffset .. size
    fields += [0, 0, 0, None, 0, 0, 0, None, 0, 0]  # blockOrder .. triggerMethod
    fields += [None, None, "", None]  # volatility .. deltaNeutralAuxPrice
    fields += [0, None, None, None, None, None, ""]  # continuousUpdate .. comboLegsDescrip
    fields += [0, 0, 0]  # legs, order legs, routing parameters
    fields += [None, None, None, ""]  # scale .. hedgeType
    fields += [0, "", "IB", 0, 0, ""]  # optOutSmartRouting .. algoStrategy
    fields += [0, 0, status or order.status, *_blank(9)]  # solicited, whatIf, status, margins
    fields += [None, None, None, "", ""]  # commissions, currency, warning
    fields += [0, 0, 0]  # randomizeSize, randomizePrice, conditions
    fields += ["None", None, None, None, None, None, None, 0]  # adjusted ..
    fields += ["", "", "", None, 0, 0, 0, 0]  # softDollarTier .. usePriceMgmtAlgo
    fields += [None, None, 0, *_blank(5)]  # duration .. midOffsetAtHalf
    return frame(*fields)


def order_status(
    order: Order, status: Status | None = None, filled: Decimal | None = None
) -> bytes:
    """The order's status; `status` and `filled` show others than the true ones."""
    done = order.filled if filled is None else filled
    return frame(
        3,
        order.order_id,
        status or order.status,
        done,
        order.ticket.quantity - done,
        _price(order.average_price) if done else 0,
        order.perm_id,
        0,
        order.last_price if done else 0,
        order.client_id,
        "",
        0,
    )


def open_orders_end() -> bytes:
    """No more open orders."""
    return frame(53, 1)


def completed_order(order: Order) -> bytes:
    """An order that ended: without its ids of the client and without what was filled."""
    ticket = order.ticket
    fields: list[Field] = [101, *_contract(ticket.symbol, "SMART")]
    fields += [ticket.side, ticket.quantity, ticket.order_type, 0, 0, ticket.tif or "DAY"]
    fields += ["", ticket.account, "", 0, ticket.order_ref, order.perm_id]
    fields += [ticket.outside_rth, 0, 0, "", *_blank(7)]  # hidden .. rule80A
    fields += [None, "", 0, "", -1, None, None, None, None, None]  # percentOffset .. rangeUpper
    fields += [None, 0, 0, None, 0, 0]  # displaySize .. triggerMethod
    fields += [None, None, "", None]  # volatility .. deltaNeutralAuxPrice
    fields += [0, None, None, None, "", 0, 0, 0]  # continuousUpdate .. routing parameters
    fields += [None, None, None, ""]  # scale .. hedgeType
    fields += ["", "IB", 0, 0, "", 0]  # clearingAccount .. solicited
    fields += [order.status, 0, 0, 0]  # status, randomizeSize, randomizePrice, conditions
    fields += [None, None, None, 0, 0, "", 0]  # trailStopPrice .. filledQuantity
    fields += [None, 0, "", 0, 0, UNSET_INTEGER]  # refFuturesConId .. parentPermId
    ended = _spelt(order.ended_at) if order.ended_at else ""
    fields += [ended, order.reason or f"Filled Size: {order.filled:f}", *_blank(5)]
    return frame(*fields)


def completed_orders_end() -> bytes:
    """No more completed orders."""
    return frame(102)


def execution_details(account: str, execution: Execution, request: int = NO_REQUEST) -> bytes:
    """One fill; live, or in answer to a request."""
    one = execution
    by_hand = one.client_id == BY_HAND
    exchange = Instrument(one.symbol).exchange
    return frame(
        11,
        request,
        UNSET_INTEGER if by_hand else one.order_id,
        *_contract(one.symbol, exchange),
        one.exec_id,
        _spelt(one.at),
        account,
        exchange,
        "BOT" if one.side is Side.BUY else "SLD",
        one.shares,
        one.price,
        one.perm_id,
        one.client_id,
        0,  # liquidation
        one.cumulative,
        _price(one.average_price),
        one.order_ref,
        "",  # evRule
        None,  # evMultiplier
        "",  # modelCode
        2,  # it took liquidity
    )


def executions_end(request: int) -> bytes:
    """No more executions."""
    return frame(55, 1, request)


def commission_report(execution: Execution) -> bytes:
    """What an execution cost."""
    pnl = execution.realized_pnl
    realized: Field = UNSET_DOUBLE if pnl is None else _price(pnl)
    return frame(59, 1, execution.exec_id, execution.commission, "USD", realized, UNSET_DOUBLE, "")


# The account


def position(account: str, symbol: str, held: Holding) -> bytes:
    """What is held of a symbol; the contract carries the exchange where it is listed."""
    listed = Instrument(symbol).exchange
    cost = _price(held.average_cost)
    return frame(61, 3, account, *_contract(symbol, listed), held.quantity, cost)


def positions_end() -> bytes:
    """No more positions."""
    return frame(62, 1)


def portfolio_value(account: str, symbol: str, held: Holding, price: Decimal) -> bytes:
    """What is held of a symbol and what it is worth."""
    value = held.quantity * price
    gain = value - held.quantity * held.average_cost
    listed = Instrument(symbol).exchange
    figures = (held.quantity, price, value, _price(held.average_cost), _price(gain), Decimal(0))
    return frame(7, 8, *_contract(symbol, listed), *figures, account)


def account_value(account: str, tag: str, value: str, currency: str) -> bytes:
    """One figure of the account."""
    return frame(6, 2, tag, value, currency, account)


def account_time(now: datetime) -> bytes:
    """When the account's figures were made."""
    return frame(8, 1, now.astimezone(GATEWAY_ZONE).strftime("%H:%M"))


def account_download_end(account: str) -> bytes:
    """No more of the account."""
    return frame(54, 1, account)


def account_value_multi(request: int, account: str, tag: str, value: str, currency: str) -> bytes:
    """One figure of the account, in answer to a request for many."""
    return frame(73, 1, request, account, "", tag, value, currency)


def account_multi_end(request: int) -> bytes:
    """No more figures for the request."""
    return frame(74, 1, request)


def account_summary(request: int, account: str, tag: str, value: str, currency: str) -> bytes:
    """One figure of the account's summary."""
    return frame(63, 1, request, account, tag, value, currency)


def account_summary_end(request: int) -> bytes:
    """No more of the summary."""
    return frame(64, 1, request)


# Contracts and prices


def contract_details(request: int, instrument: Instrument) -> bytes:
    """What there is to know of a stock."""
    symbol = instrument.symbol
    hours = "20200101:0930-20200101:1600"
    fields: list[Field] = [10, request, symbol, "STK", "", 0, "", "SMART", "USD", symbol, symbol]
    fields += [symbol, instrument.con_id, "0.01", "", "MKT,LMT", f"SMART,{instrument.exchange}"]
    fields += [1, 0, symbol, instrument.exchange, "", "", "", "", "US/Eastern", hours, hours]
    fields += ["", 0, 0]  # evRule, evMultiplier, secIds
    fields += [1, "", "", "26", "", "COMMON", 1, 1, 100]  # aggGroup .. suggestedSizeIncrement
    return frame(*fields)


def contract_details_end(request: int) -> bytes:
    """No more contracts."""
    return frame(52, 1, request)


def historical_bars(request: int, closes: Sequence[Close], from_: str, to: str) -> bytes:
    """Daily bars: only the close is recorded, so it stands for open, high and low too."""
    fields: list[Field] = [17, request, from_, to, len(closes)]
    for close in closes:
        fields += [close.day.strftime("%Y%m%d"), *[close.price] * 4, 0, close.price, 0]
    return frame(*fields)


def market_data_type(request: int, kind: int) -> bytes:
    """1: live; 3: delayed."""
    return frame(58, 1, request, kind)


def price_tick(request: int, kind: int, price: Decimal, size: int) -> bytes:
    """A price with its size."""
    return frame(1, 6, request, kind, price, size, 0)


def string_tick(request: int, kind: int, text: str) -> bytes:
    """A tick that is text, such as the time of the last trade."""
    return frame(46, 6, request, kind, text)


def snapshot_end(request: int) -> bytes:
    """No more ticks of a snapshot."""
    return frame(57, 1, request)


def _contract(symbol: str, exchange: str) -> list[Field]:
    """A stock, as most messages name it."""
    con_id = Instrument(symbol).con_id
    return [con_id, symbol, "STK", "", 0, "", "", exchange, "USD", symbol, symbol]


def _blank(n: int) -> list[Field]:
    return [""] * n


def _price(figure: Decimal) -> Decimal:
    """A mean, as long as a double holds it."""
    return figure.quantize(Decimal("0.00000001"))


def _spelt(at: datetime) -> str:
    """A time as IB spells it, with its zone."""
    return at.astimezone(GATEWAY_ZONE).strftime("%Y%m%d %H:%M:%S US/Eastern")

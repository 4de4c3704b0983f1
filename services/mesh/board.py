"""The board: what is known of each strategy at this moment, and the last things that happened.

A frozen value. What changes it: a strategy's log events (what it sees and does), and the router's
portfolios (what it owns), orders (what is under way) and broker (how things stand with it).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

KEPT_NOTES = 12
OPEN = frozenset({"PENDING", "UNKNOWN"})


@dataclass(frozen=True)
class Order:
    """An order as the router tells of it. Prices in USD."""

    order_id: str
    strategy_name: str
    side: str
    quantity: Decimal
    symbol: str
    status: str
    filled: Decimal
    average_price: Decimal
    reason: str = ""


@dataclass(frozen=True)
class Row:
    """One strategy. None: not known yet. Money and prices in USD."""

    strategy_name: str
    symbol: str | None = None  # what it follows
    price: Decimal | None = None
    average: Decimal | None = None
    session: str | None = None  # the trading day that the price belongs to
    holdings: tuple[tuple[str, Decimal], ...] | None = None  # symbol, shares
    cash: Decimal | None = None
    equity: Decimal | None = None
    pnl: Decimal | None = None  # realised and unrealised
    halted: bool = False
    mode: str = ""
    trouble: str | None = None
    open_orders: Mapping[str, Order] = field(default_factory=dict)  # by order_id


@dataclass(frozen=True)
class Broker:
    """How things stand with the broker; the words are the contract's."""

    state: str
    detail: str
    takes_orders: bool
    account: str = ""  # masked
    account_kind: str = ""  # PAPER: the broker's own pretended money; LIVE: real money
    market_data: str = ""


@dataclass(frozen=True)
class Portfolio:
    """The router's figures of one strategy, as the watch reads them."""

    strategy_name: str
    mode: str
    cash: Decimal
    equity: Decimal
    pnl: Decimal
    halted: bool
    holdings: tuple[tuple[str, Decimal], ...]


@dataclass(frozen=True)
class Board:
    """All rows, the broker (None: not known, or none is used), and the last notes, oldest first."""

    rows: Mapping[str, Row] = field(default_factory=dict)
    broker: Broker | None = None
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, strategy_names: Iterable[str]) -> "Board":
        """A board on which nothing is known yet of these strategies."""
        return cls({name: Row(name) for name in strategy_names})

    def with_note(self, note: str) -> "Board":
        """The board with one more note."""
        return replace(self, notes=(*self.notes, note)[-KEPT_NOTES:])

    def with_portfolio(self, known: Portfolio) -> "Board":
        """The board with the router's figures; strategies that it does not show are left out."""
        if known.strategy_name not in self.rows:
            return self
        return self._with_row(
            replace(
                self.rows[known.strategy_name],
                mode=known.mode,
                cash=known.cash,
                equity=known.equity,
                pnl=known.pnl,
                halted=known.halted,
                holdings=known.holdings,
            )
        )

    def with_order(self, known: Order) -> "Board":
        """The board with an order as it is now; orders that have ended are not kept."""
        if known.strategy_name not in self.rows:
            return self
        row = self.rows[known.strategy_name]
        others = {key: one for key, one in row.open_orders.items() if key != known.order_id}
        if known.status in OPEN:
            others[known.order_id] = known
        return self._with_row(replace(row, open_orders=others))

    def with_broker(self, known: Broker) -> "Board":
        """The board with the broker as it is now."""
        return replace(self, broker=known)

    def with_event(self, strategy_name: str, event: Mapping[str, Any]) -> "Board":
        """The board after one log event of a strategy."""
        row = self.rows[strategy_name]
        match event.get("event"):
            case "tick":
                row = replace(
                    row,
                    symbol=event.get("symbol"),
                    price=decimal(event.get("price")),
                    average=decimal(event.get("average")),
                    session=event.get("session"),
                    trouble=None,
                )
            case "error" | "router_lost" | "stopped" as trouble:
                row = replace(row, trouble=trouble.replace("_", " "))
            case "order" | "router_back" | "started":
                row = replace(row, trouble=None)
        return self._with_row(row)

    def _with_row(self, row: Row) -> "Board":
        return replace(self, rows={**self.rows, row.strategy_name: row})


def note_of(strategy_name: str, event: Mapping[str, Any]) -> str | None:
    """A log event as a line for people; None for one that changes nothing they should know."""
    name = short(strategy_name)
    match event.get("event"):
        case "order":
            return (
                f"{name}: {event.get('side')} {shares(decimal(event.get('quantity')))} "
                f"{event.get('symbol')} at {event.get('price')}: "
                f"{event.get('status')}"
            )
        case "error":
            return f"{name}: {event.get('error')}"
        case "idle":
            return f"{name}: waits, {event.get('reason')}"
        case "router_lost":
            is_away = event.get("reason") in {None, "", "ROUTER_UNAVAILABLE"}
            why = "the router does not answer" if is_away else f"the router says {event['reason']}"
            return f"{name}: {why}; trying on"
        case "router_back":
            return f"{name}: the router answers again"
    return None


def note_of_order(known: Order) -> str | None:
    """What became of a LIVE order, as a line for people; None before anything has."""
    if known.status == "PENDING" and not known.filled:
        return None  # its strategy has said that it ordered
    name, asked = short(known.strategy_name), f"{known.side} {shares(known.quantity)}"
    note = f"{name}: {asked} {known.symbol}: {known.status}"
    if known.filled:
        note += f", {shares(known.filled)} filled at {known.average_price:.2f}"
    return f"{note} ({known.reason})" if known.reason else note


def note_of_broker(before: Broker | None, now: Broker) -> str | None:
    """A change of the broker's state as a line for people; None when it is the same."""
    if before and (before.state, before.market_data) == (now.state, now.market_data):
        return None
    return f"The broker: {broker_line(now)}"


def broker_line(broker: Broker) -> str:
    """How things stand with the broker, in one line."""
    words = [broker.state.replace("_", " ")]
    if broker.account:
        money = {"PAPER": "the broker's paper money", "LIVE": "REAL MONEY"}
        words.append(f"account {broker.account} ({money.get(broker.account_kind, 'unknown')})")
    if not broker.takes_orders:
        words.append("no new orders are taken")
    if broker.market_data not in {"", "OK"}:
        words.append(f"prices {broker.market_data.replace('_', ' ').lower()}")
    return ", ".join(words) + (f": {broker.detail}" if broker.detail else "")


def short(strategy_name: str) -> str:
    """The end of a strategy's name, which people know it by."""
    return strategy_name.rpartition("_")[2]


def shares(quantity: Decimal | None) -> str:
    """A quantity without idle zeros."""
    return "?" if quantity is None else f"{quantity.normalize():,f}"


def decimal(figure: object) -> Decimal | None:
    """A figure of the log or the wire by its shortest decimal text; None for none."""
    return None if figure is None else Decimal(str(figure))

"""Changes to save, for the contract suites."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal

from services.portfolio.domain.book import (
    Book,
    CashEntry,
    CashKind,
    RequestedMode,
    State,
    Strategy,
)
from services.portfolio.domain.order import (
    Fill,
    FillKind,
    Mode,
    Order,
    OrderEvent,
    Side,
    Status,
)
from services.portfolio.domain.position import Position, PositionAdjustment
from services.portfolio.ports import Changes, Ledger, Needs
from tests.ledger.values import NOW, d, new_id

PAPER, LIVE = Mode.PAPER, Mode.LIVE


def at(seconds: float) -> datetime:
    """A time that many seconds after the tests' beginning."""
    return NOW + timedelta(seconds=seconds)


def strategy(name: str, mode: Mode = PAPER, state: State = State.ACTIVE) -> Strategy:
    """A strategy."""
    why = "tired" if state is State.HALTED else ""
    return Strategy(name, RequestedMode.AUTO, mode, state, why, at(0))


def book(name: str, cash: Decimal, version: int = 1, mode: Mode = PAPER, **held: Position) -> Book:
    """A book; its positions by symbol."""
    return Book(name, mode, version, cash, d(0), held, at(version))


def position(
    symbol: str, quantity: str | int, cost: str | int, last_price: str | int = 5
) -> Position:
    """A position."""
    return Position(new_id(), symbol, d(quantity), d(0), d(cost), d("1.5"), d(last_price), at(1))


def order(name: str, symbol: str = "SPXL", status: Status = Status.PENDING) -> Order:
    """An order on PAPER of which nothing is filled."""
    return Order(
        new_id(),
        name,
        PAPER,
        symbol,
        Side.BUY,
        d(10),
        d("1.25"),
        status,
        d(0),
        d(0),
        d(0),
        d(0),
        "",
        "",
        at(1),
        at(1),
    )


def opened(name: str, cash: str | int = 1000, mode: Mode = PAPER, *held: Position) -> Changes:
    """A new strategy with cash and positions, and the facts that say why."""
    key = (name, mode)
    mine = {p.symbol: p for p in held}
    return Changes(
        strategies={name: strategy(name, mode)},
        books={key: book(name, d(cash), 1 + len(held), mode, **mine)},
        positions={(key, symbol): p for symbol, p in mine.items()},
        cash_entries=[
            CashEntry(name, mode, 1, CashKind.DEPOSIT, d(cash), "", "", at(1)),
        ],
        adjustments=[
            PositionAdjustment(
                name, mode, 2 + i, p.symbol, p.quantity, p.cost, p.last_price, "", "", at(1)
            )
            for i, p in enumerate(held)
        ],
    )


def with_orders(name: str, orders: Sequence[Order], version: int = 2) -> Changes:
    """Orders of a strategy; its book's cash is 1000."""
    return Changes(
        books={(name, PAPER): book(name, d(1000), version)},
        orders={each.order_id: each for each in orders},
    )


def filled_day(name: str) -> Changes:
    """A strategy that deposited, bought at a commission, and has a buy open; it is balanced."""
    bought = order(name, status=Status.EXECUTED)
    pending = order(name, "AVL")
    facts = Fill(bought.order_id, "x1", 2, d(10), d("1.25"), d("12.5"), d("0.25"), at(2))
    held = Position(new_id(), "SPXL", d(10), d(0), d("12.5"), d("-0.25"), d("1.25"), at(2))
    key = (name, PAPER)
    return Changes(
        strategies={name: strategy(name)},
        books={key: Book(name, PAPER, 3, d("987.25"), d(12), {"SPXL": held}, at(3))},
        positions={(key, "SPXL"): held},
        orders={
            bought.order_id: replace(
                bought, filled_quantity=d(10), filled_value=d("12.5"), commission=d("0.25")
            ),
            pending.order_id: replace(pending, reserved_cash=d(12)),
        },
        fills=[facts],
        cash_entries=[
            CashEntry(name, PAPER, 1, CashKind.DEPOSIT, d(1000), "me", "start", at(1)),
            CashEntry(name, PAPER, 2, CashKind.TRADE, d("-12.5"), "", "", at(2)),
            CashEntry(name, PAPER, 2, CashKind.COMMISSION, d("-0.25"), "", "", at(2)),
        ],
        order_events=[
            OrderEvent(
                bought.order_id, 2, Status.PENDING, Status.EXECUTED, "filled", "broker", at(2)
            )
        ],
    )


def corrected_day(name: str) -> Changes:
    """A strategy that bought on LIVE in two parts; then one was corrected and charged; balanced."""
    one = replace(
        order(name, status=Status.EXECUTED),
        mode=LIVE,
        filled_quantity=d(10),
        filled_value=d(12),
        commission=d("0.25"),
    )

    def fact(
        version: int, execution_id: str, shares: int, value: str, kind: FillKind, charged: str = "0"
    ) -> Fill:
        return Fill(
            one.order_id,
            execution_id,
            version,
            d(shares),
            d("1.2"),
            d(value),
            d(charged),
            at(version),
            kind,
        )

    def cash(version: int, kind: CashKind, amount: str) -> CashEntry:
        return CashEntry(name, LIVE, version, kind, d(amount), "", "", at(version))

    held = Position(new_id(), "SPXL", d(10), d(0), d(12), d("-0.25"), d("1.2"), at(5))
    key = (name, LIVE)
    return Changes(
        strategies={name: strategy(name, LIVE)},
        books={key: Book(name, LIVE, 5, d("87.75"), d(0), {"SPXL": held}, at(5))},
        positions={(key, "SPXL"): held},
        orders={one.order_id: one},
        fills=[
            fact(5, "x1.01:commission", 0, "0", FillKind.COMMISSION, "0.25"),
            fact(4, "x1.02", 0, "-0.5", FillKind.CORRECTION),
            fact(3, "x2.01", 4, "5", FillKind.FILL),
            fact(2, "x1.01", 6, "7.5", FillKind.FILL),
        ],
        cash_entries=[
            cash(1, CashKind.DEPOSIT, "100"),
            cash(2, CashKind.TRADE, "-7.5"),
            cash(3, CashKind.TRADE, "-5"),
            cash(4, CashKind.TRADE, "0.5"),
            cash(5, CashKind.COMMISSION, "-0.25"),
        ],
    )


async def save(ledger: Ledger, *all_changes: Changes) -> None:
    """Saves each in a transaction of its own."""
    for changes in all_changes:
        async with ledger.transaction() as transaction:
            await transaction.load(Needs(strategies={name for name, _ in changes.books}))
            await transaction.save(changes)

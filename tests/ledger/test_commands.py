"""The commands on a batch, without storage: UpdateOrderStatus above all."""

from decimal import Decimal

import pytest

from services.portfolio.batch import Batch, Desk
from services.portfolio.brokers.paper import PaperBroker
from services.portfolio.commands import (
    BuyAll,
    Command,
    CreateOrder,
    DeletePosition,
    PortfolioOf,
    PositionOf,
    SellAll,
    SetPosition,
    SetState,
    UpdateOrderStatus,
    UpsertPortfolio,
    fingerprint,
)
from services.portfolio.domain.book import Book, CashKind, RequestedMode, State
from services.portfolio.domain.errors import (
    IllegalFillError,
    IllegalStatusChangeError,
    InsufficientCashError,
    OrderNotFoundError,
    PositionNotFoundError,
    ReservedError,
    StrategyHaltedError,
    StrategyNotFoundError,
)
from services.portfolio.domain.ledger import Report
from services.portfolio.domain.order import Mode, Order, Side, Status
from services.portfolio.ports import Snapshot
from tests.ledger.values import LATER, NAME, NOW, book_with, buy, d, fill, new_id, strategy

KEY = (NAME, Mode.PAPER)
AT_ONCE = PaperBroker()
BY_HAND = PaperBroker(by_hand=True)


def batch_on(book: Book, *orders: Order, broker: PaperBroker = AT_ONCE) -> Batch:
    """A batch that checks its invariants, on one strategy with this book."""
    snapshot = Snapshot(
        {NAME: strategy()},
        {KEY: book},
        {order.order_id: order for order in orders},
        {p.position_id: (KEY, symbol) for symbol, p in book.positions.items()},
        {},
        {},
        {},
    )
    return Batch(snapshot, Desk({Mode.PAPER: broker}, new_id, LATER), check_invariants=True)


def test_buy_all_fills_at_once_on_paper_and_keeps_one_order_and_one_fill() -> None:
    batch = batch_on(book_with(1000))
    order = BuyAll(NAME, "SPXL", d("150.5"), "r1").run(batch)
    assert (order.status, order.quantity, order.request_id) == (Status.EXECUTED, 6, "r1")
    assert batch.book(KEY).cash == 97
    assert list(batch.changes.orders.values()) == [order]
    assert len(batch.changes.fills) == 1
    assert batch.changes.order_events == []  # it never was anything else


def test_buy_all_pays_its_commission_from_the_same_cash() -> None:
    batch = batch_on(book_with(1000), broker=PaperBroker(d("0.5")))
    order = BuyAll(NAME, "SPXL", d("99.5")).run(batch)
    assert (order.quantity, order.commission) == (10, 5)
    assert batch.book(KEY).cash == 0


def test_buy_all_spends_only_cash_that_no_open_order_has_reserved() -> None:
    batch = batch_on(buy(book_with(1000), 4, 100).book)
    assert BuyAll(NAME, "SPXL", d(100)).run(batch).quantity == 6


def test_buy_all_refuses_less_than_one_share_with_the_figures() -> None:
    batch = batch_on(book_with("100.5"), broker=PaperBroker(d("0.01")))
    with pytest.raises(InsufficientCashError) as refused:
        BuyAll(NAME, "SPXL", d("100.5")).run(batch)
    assert refused.value.message == (
        "Buying 1 SPXL needs 100.51 USD; 100.50 USD is free. "
        "Sell first, or set more cash with POST /portfolio."
    )
    assert refused.value.figures == {"needed": "100.51", "free": "100.50"}
    assert not batch.changes


def test_commands_of_one_batch_see_what_earlier_ones_left() -> None:
    batch = batch_on(book_with(1000))
    BuyAll(NAME, "SPXL", d(100)).run(batch)
    order = SellAll(NAME, "SPXL", d(110)).run(batch)
    assert order.quantity == 10
    assert batch.book(KEY).cash == 1100
    assert batch.book(KEY).positions["SPXL"].realized_pnl == 100


def test_orders_filled_by_hand_stay_pending() -> None:
    batch = batch_on(book_with(1000), broker=BY_HAND)
    order = CreateOrder(NAME, "SPXL", Side.BUY, d(4), d(100)).run(batch)
    assert order.status is Status.PENDING
    assert batch.book(KEY).reserved_cash == 400
    assert not batch.changes.fills


@pytest.mark.parametrize(
    "command",
    [
        BuyAll("Nobody", "SPXL", d(1)),
        SellAll("Nobody", "SPXL", d(1)),
        CreateOrder("Nobody", "SPXL", Side.BUY, d(1), d(1)),
        SetPosition("Nobody", "SPXL", d(1), d(1)),
        SetState("Nobody", State.HALTED),
    ],
)
def test_an_unknown_strategy_is_refused_and_nothing_is_recorded(command: Command) -> None:
    batch = batch_on(book_with(1000))
    with pytest.raises(StrategyNotFoundError, match="POST /portfolio") as refused:
        command.run(batch)
    assert refused.value.figures == {"strategy_name": "Nobody"}
    assert not batch.changes


def test_a_halted_strategy_takes_no_orders_until_it_is_resumed() -> None:
    batch = batch_on(book_with(1000, 5, 5))
    assert SetState(NAME, State.HALTED, "tired").run(batch) == PortfolioOf(NAME)
    for order in (BuyAll, SellAll):
        with pytest.raises(StrategyHaltedError, match="tired"):
            order(NAME, "SPXL", d(1)).run(batch)
    with pytest.raises(StrategyHaltedError):
        CreateOrder(NAME, "SPXL", Side.BUY, d(1), d(1)).run(batch)
    SetState(NAME, State.ACTIVE, "ignored").run(batch)
    assert batch.strategy(NAME).halt_reason == ""
    assert BuyAll(NAME, "SPXL", d(1)).run(batch).status is Status.EXECUTED


def test_the_state_it_already_has_changes_nothing() -> None:
    batch = batch_on(book_with())
    SetState(NAME, State.ACTIVE).run(batch)
    assert not batch.changes


def test_executed_by_hand_books_the_whole_order_once() -> None:
    booked = buy(book_with(1000), 10, 100)
    batch = batch_on(booked.book, booked.order)
    command = UpdateOrderStatus(booked.order.order_id, Report(Status.EXECUTED))
    order = command.run(batch)
    assert (order.status, order.filled_quantity, order.reason) == (Status.EXECUTED, 10, "")
    assert [(f.quantity, f.price) for f in batch.changes.fills] == [(10, 100)]
    assert [e.to_status for e in batch.changes.order_events] == [Status.EXECUTED]
    assert command.run(batch) == order  # the status it has: a no-op
    assert len(batch.changes.fills) == 1


def test_executed_with_less_than_ordered_releases_the_rest() -> None:
    booked = buy(book_with(1000), 10, 100)
    batch = batch_on(booked.book, booked.order)
    report = Report(Status.EXECUTED, d(4), d(99), d(2), "the rest was refused")
    order = UpdateOrderStatus(booked.order.order_id, report).run(batch)
    book = batch.book(KEY)
    assert (order.status, order.filled_quantity) == (Status.EXECUTED, 4)
    assert (order.commission, order.reserved_cash) == (2, 0)
    assert (book.cash, book.reserved_cash) == (602, 0)
    assert order.average_fill_price == 99


def test_cancelled_with_a_fill_books_it_and_says_why() -> None:
    booked = buy(book_with(1000), 10, 100)
    batch = batch_on(booked.book, booked.order)
    report = Report(Status.CANCELLED, d(4), reason="end of day")
    order = UpdateOrderStatus(booked.order.order_id, report).run(batch)
    assert (order.status, order.reason) == (Status.CANCELLED, "end of day")
    assert batch.book(KEY).positions["SPXL"].quantity == 4
    assert batch.book(KEY).free_cash == 600


def test_unknown_then_executed_adds_only_what_is_missing() -> None:
    booked = buy(book_with(1000), 10, 100)
    batch = batch_on(booked.book, booked.order)
    order_id = booked.order.order_id
    UpdateOrderStatus(order_id, Report(Status.UNKNOWN, d(4), d(90), reason="line lost")).run(batch)
    order = UpdateOrderStatus(order_id, Report(Status.EXECUTED, d(10), d(96))).run(batch)
    assert [(f.quantity, f.value) for f in batch.changes.fills] == [(4, 360), (6, 600)]
    assert (order.average_fill_price, order.reason) == (96, "")
    assert len({f.execution_id for f in batch.changes.fills}) == 2


@pytest.mark.parametrize(
    ("report", "error"),
    [
        (Report(Status.PENDING), IllegalStatusChangeError),
        (Report(Status.EXECUTED, d(11)), IllegalFillError),
        (Report(Status.CANCELLED, d(10)), IllegalFillError),
    ],
)
def test_a_refused_report_records_nothing(report: Report, error: type[Exception]) -> None:
    booked = buy(book_with(1000), 10, 100)
    batch = batch_on(booked.book, booked.order)
    UpdateOrderStatus(booked.order.order_id, Report(Status.UNKNOWN)).run(batch)
    before = (dict(batch.changes.orders), dict(batch.changes.books))
    with pytest.raises(error):
        UpdateOrderStatus(booked.order.order_id, report).run(batch)
    assert (batch.changes.orders, batch.changes.books) == before
    assert not batch.changes.fills


def test_an_illegal_change_is_refused_before_its_figures_are_looked_at() -> None:
    ended = fill(buy(book_with(1000), 10, 100), 10)
    batch = batch_on(ended.book, ended.order)
    with pytest.raises(IllegalStatusChangeError):
        UpdateOrderStatus(ended.order.order_id, Report(Status.CANCELLED, d(99))).run(batch)


def test_an_unknown_order_is_refused() -> None:
    with pytest.raises(OrderNotFoundError, match="GET /orders"):
        UpdateOrderStatus(new_id(), Report(Status.EXECUTED)).run(batch_on(book_with()))


def test_a_position_is_set_and_deleted() -> None:
    batch = batch_on(book_with(shares=3, cost=30))
    position_id = batch.book(KEY).positions["SPXL"].position_id
    command = SetPosition(NAME, "SPXL", d("2.5"), d("1.1"), "gift")
    assert command.run(batch) == PositionOf(position_id)
    assert batch.book(KEY).positions["SPXL"].cost == d("2.75")
    DeletePosition(position_id, "given away").run(batch)
    assert batch.book(KEY).positions["SPXL"].quantity == 0
    with pytest.raises(PositionNotFoundError):
        DeletePosition(position_id).run(batch)
    assert [a.reason for a in batch.changes.adjustments] == ["gift", "given away"]


def test_shares_that_an_order_is_selling_are_not_deleted() -> None:
    batch = batch_on(book_with(shares=3, cost=30), broker=BY_HAND)
    SellAll(NAME, "SPXL", d(10)).run(batch)
    with pytest.raises(ReservedError):
        DeletePosition(batch.book(KEY).positions["SPXL"].position_id).run(batch)
    with pytest.raises(PositionNotFoundError):
        DeletePosition(new_id()).run(batch)


def test_a_portfolio_is_created_with_a_deposit_and_changed_by_adjustments() -> None:
    nothing = Snapshot({}, {}, {}, {}, {}, {}, {})
    batch = Batch(nothing, Desk({Mode.PAPER: AT_ONCE}, new_id, NOW), check_invariants=True)
    UpsertPortfolio("New", d(500)).run(batch)
    made = batch.strategy("New")
    assert (made.requested_mode, made.mode, made.state) == (
        RequestedMode.AUTO,
        Mode.PAPER,
        State.ACTIVE,
    )
    UpsertPortfolio("New", requested_mode=RequestedMode.LIVE).run(batch)
    UpsertPortfolio("New", d(300), reason="withdrawn").run(batch)
    assert batch.strategy("New").requested_mode is RequestedMode.LIVE
    assert batch.strategy("New").mode is Mode.PAPER
    assert [(e.kind, e.amount, e.reason) for e in batch.changes.cash_entries] == [
        (CashKind.DEPOSIT, 500, ""),
        (CashKind.ADJUSTMENT, -200, "withdrawn"),
    ]


def test_an_upsert_that_changes_nothing_records_nothing() -> None:
    batch = batch_on(book_with(1000))
    UpsertPortfolio(NAME, d(1000), RequestedMode.AUTO).run(batch)
    assert not batch.changes


def test_fingerprints_tell_requests_apart() -> None:
    one = BuyAll(NAME, "SPXL", Decimal("1.5"), "r")
    assert fingerprint(one) == fingerprint(BuyAll(NAME, "SPXL", Decimal("1.5"), "r"))
    others: list[Command] = [
        BuyAll(NAME, "SPXL", Decimal("1.6"), "r"),
        BuyAll(NAME, "AVL", Decimal("1.5"), "r"),
        BuyAll("Other", "SPXL", Decimal("1.5"), "r"),
        SellAll(NAME, "SPXL", Decimal("1.5"), "r"),
    ]
    assert len({fingerprint(c) for c in (one, *others)}) == 5

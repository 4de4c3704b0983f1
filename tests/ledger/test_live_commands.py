"""What people do under TRADING_MODE=LIVE: cancel, report, assign, change modes, share cash."""

from dataclasses import replace
from decimal import Decimal

import pytest

from services.portfolio.commands import (
    BuyAll,
    CreateOrder,
    SellAll,
    SetPosition,
    UpdateOrderStatus,
    UpsertPortfolio,
)
from services.portfolio.domain.book import CashKind, RequestedMode
from services.portfolio.domain.errors import (
    IllegalFillError,
    IllegalStatusChangeError,
    InsufficientCashError,
    InsufficientSharesError,
    NotUnattributedError,
    OrderIsLiveError,
    ReservedError,
    StrategyNotFoundError,
    SymbolFrozenError,
    WholeSharesOnlyError,
)
from services.portfolio.domain.ledger import Report
from services.portfolio.domain.order import Mode, Order, Side, Status
from services.portfolio.domain.reconciliation import UNATTRIBUTED, SymbolRow
from services.portfolio.domain.weather import BrokerState, Weather
from services.portfolio.live.commands import AssignShares, EndOrder, FollowMode, ShareCash
from services.portfolio.live.ports import Seen
from services.portfolio.ports import UnavailableError
from tests.ledger.live_desk import LIVE, LiveDesk, desk_with, executed, placed
from tests.ledger.values import ACTOR, NAME, NOW, d

PAPER = (NAME, Mode.PAPER)


def by_hand(order: Order, status: Status, **figures: Decimal) -> UpdateOrderStatus:
    return UpdateOrderStatus(order.order_id, Report(status, reason="I say so", **figures))


# -- placing --


def test_buy_all_buys_what_the_cash_pays_for_with_buffer_and_commission() -> None:
    desk = desk_with(1021)
    order = desk.order(BuyAll(NAME, "SPXL", d(100)))
    assert (order.quantity, order.status, order.mode) == (10, Status.PENDING, Mode.LIVE)
    assert desk.book.free_cash == 0


def test_buy_all_says_what_one_share_needs() -> None:
    desk = desk_with(102)
    with desk.refused(InsufficientCashError) as error:
        desk.submit(BuyAll(NAME, "SPXL", d(100)))
    assert error.value.figures == {"needed": "103.00", "free": "102.00"}


def test_while_the_broker_is_away_nothing_is_accepted() -> None:
    desk = desk_with(shares=10, cost=500)
    desk.seen = Seen(Weather(BrokerState.DOWN, NOW), {})
    for command in (BuyAll(NAME, "SPXL", d(100)), SellAll(NAME, "SPXL", d(100))):
        with desk.refused(UnavailableError) as error:
            desk.submit(command)
        assert error.value.reason == "BROKER_UNAVAILABLE"


def test_a_frozen_symbol_and_parts_of_shares_are_refused() -> None:
    desk = desk_with(shares="10.5", cost=500)
    with desk.refused(WholeSharesOnlyError):
        desk.submit(SellAll(NAME, "SPXL", d(100)))
    row = SymbolRow("SPXL", d(12), d(10), d(0))
    desk.seen = replace(desk.seen, frozen={"SPXL": row})
    with desk.refused(SymbolFrozenError):
        desk.submit(CreateOrder(NAME, "SPXL", Side.SELL, d(1), d(100)))
    desk.submit(CreateOrder(NAME, "AVL", Side.BUY, d(1), d(100)))


def test_a_live_book_takes_no_orders_once_the_routers_run_on_paper() -> None:
    desk = desk_with(shares=10, cost=500)
    desk.trading_mode = Mode.PAPER
    with desk.refused(
        UnavailableError,
    ) as error:
        desk.submit(SellAll(NAME, "SPXL", d(100)))
    assert error.value.reason == "BROKER_UNAVAILABLE"
    assert "TRADING_MODE=LIVE" in error.value.message


# -- by hand --


@pytest.mark.parametrize("held_as", [Status.PENDING, Status.UNKNOWN])
def test_cancelling_asks_the_broker_and_leaves_the_order_as_it_is(held_as: Status) -> None:
    desk = desk_with()
    order = placed(desk)
    if held_as is Status.UNKNOWN:
        order = desk.order(EndOrder(order.order_id, Status.UNKNOWN, "Silent."))
    assert desk.order(by_hand(order, Status.CANCELLED)) == order
    assert desk.cancel_requests == [order.order_id]
    assert desk.orders[order.order_id] == order
    assert desk.book.reserved_cash == 1021


@pytest.mark.parametrize("wanted", [Status.EXECUTED, Status.REJECTED, Status.UNKNOWN])
def test_what_became_of_a_pending_order_only_the_broker_says(wanted: Status) -> None:
    desk = desk_with()
    order = placed(desk)
    with desk.refused(OrderIsLiveError) as error:
        desk.submit(by_hand(order, wanted))
    assert error.value.reason == "LIVE_ORDER"
    assert error.value.figures == {
        "order_id": str(order.order_id),
        "status": "PENDING",
        "wanted": wanted,
    }
    assert desk.cancel_requests == []


def test_cancelled_with_figures_is_refused_in_live() -> None:
    desk = desk_with()
    order = placed(desk)
    for status in (Status.PENDING, Status.UNKNOWN):
        if status is Status.UNKNOWN:
            desk.submit(EndOrder(order.order_id, status, ""))
        with desk.refused(OrderIsLiveError) as error:
            desk.submit(by_hand(order, Status.CANCELLED, filled_quantity=d(4)))
        assert error.value.figures["status"] == status


def test_an_operator_may_say_what_became_of_an_unknown_order() -> None:
    desk = desk_with()
    one, other = placed(desk), placed(desk)
    desk.submit(*(EndOrder(o.order_id, Status.UNKNOWN, "Silent.") for o in (one, other)))
    filled = desk.order(by_hand(one, Status.EXECUTED, average_fill_price=d(99)))
    assert (filled.status, desk.book.cash) == (Status.EXECUTED, 9010)
    gone = desk.order(by_hand(other, Status.REJECTED))
    assert (gone.status, gone.reason, desk.book.reserved_cash) == (Status.REJECTED, "I say so", 0)


def test_what_a_person_reported_is_not_booked_again_when_the_broker_tells_it() -> None:
    desk = desk_with()
    order = placed(desk)
    desk.submit(EndOrder(order.order_id, Status.UNKNOWN, "Silent."))
    desk.submit(by_hand(order, Status.REJECTED, filled_quantity=d(4)))
    with desk.refused(IllegalFillError) as error:
        desk.order(executed(order, "e1.01", 4))
    assert error.value.figures == {"execution_id": "e1.01", "by_hand": "4"}


def test_an_ended_live_order_stays_ended() -> None:
    desk = desk_with()
    order = placed(desk)
    desk.order(executed(order))
    with desk.refused(IllegalStatusChangeError):
        desk.submit(by_hand(order, Status.CANCELLED))
    assert desk.cancel_requests == []


# -- assigning --


def assign(quantity: str | int, name: str = NAME, cost: str | int = 50) -> AssignShares:
    return AssignShares(name, "SPXL", d(quantity), d(cost), "found them", "")


def test_unattributed_shares_are_given_to_a_strategy_as_an_adjustment() -> None:
    desk = desk_with()
    desk.account["SPXL"] = d(10)
    desk.submit(assign(4), assign(6, cost=100))
    assert (desk.held.quantity, desk.held.cost, desk.book.cash) == (10, 800, 10_000)
    assert [(a.quantity_delta, a.actor, a.reason) for a in desk.adjustments] == [
        (4, ACTOR, "found them"),
        (6, ACTOR, "found them"),
    ]


def test_shares_that_the_account_lacks_are_taken_away_at_their_cost() -> None:
    desk = desk_with(shares=10, cost=500)
    desk.account["SPXL"] = d(7)
    desk.submit(assign(-3, cost=9999))
    assert (desk.held.quantity, desk.held.cost) == (7, 350)


@pytest.mark.parametrize(
    ("broker", "wanted"), [(0, 1), (10, 11), (10, -1), (10, 0), (-5, 1), (-5, -6)]
)
def test_no_more_than_is_unattributed_is_assigned(broker: int, wanted: int) -> None:
    desk = desk_with()
    desk.account["SPXL"] = d(broker)
    with desk.refused(NotUnattributedError) as error:
        desk.submit(assign(wanted))
    assert error.value.figures == {
        "symbol": "SPXL",
        "wanted": str(wanted),
        "broker": str(broker),
        "strategies": "0",
        "unattributed": str(broker),
    }


def test_two_operators_do_not_assign_the_same_shares() -> None:
    desk = desk_with()
    desk.account["SPXL"] = d(10)
    with desk.refused(NotUnattributedError) as error:
        desk.submit(assign(6), assign(6))
    assert error.value.figures["unattributed"] == "4"


def test_shares_that_are_not_held_or_being_sold_are_not_taken_away() -> None:
    desk = desk_with(shares=10, cost=500)
    desk.submit(UpsertPortfolio("Other", d(0)))
    placed(desk, Side.SELL, 8)
    desk.account["SPXL"] = d(7)
    with desk.refused(ReservedError):
        desk.submit(assign(-3))
    with desk.refused(InsufficientSharesError):
        desk.submit(assign(-3, "Other"))
    with desk.refused(StrategyNotFoundError):
        desk.submit(assign(-3, "Nobody"))


def test_a_strategy_on_paper_gets_its_live_book_with_its_first_shares() -> None:
    desk = LiveDesk()
    desk.submit(UpsertPortfolio(NAME, d(5), RequestedMode.PAPER))
    desk.account["SPXL"] = d(10)
    desk.submit(assign(10))
    assert (desk.book.cash, desk.held.quantity) == (0, 10)
    assert desk.books[PAPER].positions == {}
    desk.account["SPXL"] = d(0)
    assert desk.submit(assign(-10)) == [None]  # there is no position to show


def test_what_nobody_owns_is_acknowledged_whole() -> None:
    desk = desk_with()
    desk.account["SPXL"] = d(10)
    assert desk.submit(assign(0, UNATTRIBUTED)) == [None]
    (said,) = desk.acknowledgements
    assert (said.symbol, said.quantity, said.actor, said.reason) == (
        "SPXL",
        10,
        ACTOR,
        "found them",
    )
    assert not desk.rows()["SPXL"].frozen


def test_what_gets_an_owner_is_no_longer_acknowledged() -> None:
    desk = desk_with()
    desk.account["SPXL"] = d(10)
    desk.submit(assign(0, UNATTRIBUTED), assign(4))
    assert [a.quantity for a in desk.acknowledgements] == [10, 6]
    desk.submit(assign(6))
    assert [a.quantity for a in desk.acknowledgements] == [10, 6, 0]
    assert not desk.rows()["SPXL"].frozen


def test_an_acknowledgement_of_shares_that_are_gone_is_taken_back() -> None:
    desk = desk_with()
    desk.account["SPXL"] = d(10)
    desk.submit(assign(0, UNATTRIBUTED))
    desk.account["SPXL"] = d(0)
    assert desk.rows()["SPXL"].frozen
    desk.submit(assign(0, UNATTRIBUTED))
    assert not desk.rows()["SPXL"].frozen
    with desk.refused(NotUnattributedError):
        desk.submit(assign(0, UNATTRIBUTED))


# -- modes --


@pytest.mark.parametrize(
    ("trading", "requested", "at_once", "mode"),
    [
        (Mode.PAPER, RequestedMode.PAPER, True, Mode.PAPER),
        (Mode.PAPER, RequestedMode.AUTO, True, Mode.PAPER),
        (Mode.PAPER, RequestedMode.LIVE, True, Mode.PAPER),
        (Mode.LIVE, RequestedMode.PAPER, True, Mode.PAPER),
        (Mode.LIVE, RequestedMode.AUTO, False, Mode.PAPER),
        (Mode.LIVE, RequestedMode.AUTO, True, Mode.LIVE),
        (Mode.LIVE, RequestedMode.LIVE, False, Mode.LIVE),
    ],
)
def test_a_new_strategy_opens_its_book_in_the_mode_it_is_to_have(
    trading: Mode, requested: RequestedMode, at_once: bool, mode: Mode
) -> None:
    desk = LiveDesk(trading, at_once=at_once)
    desk.submit(UpsertPortfolio(NAME, d(500), requested))
    assert desk.strategies[NAME].mode is mode
    # A LIVE one has a PAPER book too, with as much, for its twin.
    opened = {PAPER: 500, (NAME, mode): 500}
    assert {key: book.cash for key, book in desk.books.items()} == opened


def test_a_flat_strategy_follows_and_its_other_book_opens_with_nothing() -> None:
    desk = LiveDesk(Mode.PAPER)
    desk.submit(UpsertPortfolio(NAME, d(500)))
    desk.trading_mode = Mode.LIVE
    desk.submit(FollowMode(NAME))
    assert desk.strategies[NAME].mode is Mode.LIVE
    assert (desk.books[LIVE].cash, desk.books[PAPER].cash) == (0, 500)
    before = dict(desk.books)
    desk.submit(FollowMode(NAME))
    desk.trading_mode = Mode.PAPER
    desk.submit(FollowMode(NAME))
    assert (desk.strategies[NAME].mode, desk.books) == (Mode.PAPER, before)


def test_a_strategy_that_holds_or_waits_keeps_its_mode() -> None:
    desk = LiveDesk(Mode.PAPER)
    desk.submit(UpsertPortfolio(NAME, d(500)), SetPosition(NAME, "SPXL", d(1), d(1)))
    desk.trading_mode = Mode.LIVE
    desk.submit(FollowMode(NAME), UpsertPortfolio(NAME, requested_mode=RequestedMode.LIVE))
    assert (desk.strategies[NAME].mode, LIVE in desk.books) == (Mode.PAPER, False)
    desk.submit(SellAll(NAME, "SPXL", d(1)), FollowMode(NAME))
    assert desk.strategies[NAME].mode is Mode.LIVE
    desk.submit(UpsertPortfolio(NAME, d(1021)))
    placed(desk)
    desk.submit(UpsertPortfolio(NAME, requested_mode=RequestedMode.PAPER))
    assert desk.strategies[NAME].mode is Mode.LIVE


def test_cash_that_comes_with_a_new_mode_goes_to_the_book_of_that_mode() -> None:
    desk = LiveDesk()
    desk.submit(UpsertPortfolio(NAME, d(500), RequestedMode.PAPER))
    desk.submit(UpsertPortfolio(NAME, d(700), RequestedMode.LIVE))
    assert (desk.books[PAPER].cash, desk.books[LIVE].cash) == (500, 700)


def test_a_refused_amount_of_cash_leaves_the_mode_as_it_was() -> None:
    desk = desk_with(2000)
    placed(desk)
    with desk.refused(ReservedError):
        desk.submit(UpsertPortfolio(NAME, d(1), RequestedMode.PAPER))
    assert desk.strategies[NAME].requested_mode is RequestedMode.LIVE


def test_following_needs_a_strategy() -> None:
    desk = LiveDesk()
    with desk.refused(StrategyNotFoundError):
        desk.submit(FollowMode("Nobody"))


# -- cash --


def live_strategies(*names: str) -> LiveDesk:
    desk = LiveDesk()
    desk.submit(*(UpsertPortfolio(name) for name in names))
    return desk


def cash_of(desk: LiveDesk) -> list[Decimal]:
    return [book.cash for (_, mode), book in sorted(desk.books.items()) if mode is Mode.LIVE]


def test_new_live_books_share_the_capital_down_to_the_cent_once() -> None:
    desk = live_strategies("A", "B", "C")
    share = ShareCash(("A", "B", "C"), d("100.00"), d(1000))
    desk.submit(share, share)
    desk.submit(share)
    assert cash_of(desk) == [d("33.33")] * 3
    twins = [book.cash for (_, mode), book in desk.books.items() if mode is Mode.PAPER]
    assert twins == [d("33.33")] * 3
    deposits = [e for e in desk.entries if e.amount and e.mode is Mode.LIVE]
    assert [(e.kind, e.reason, e.actor) for e in deposits] == [
        (CashKind.DEPOSIT, "LIVE_CAPITAL", "broker")
    ] * 3


def test_a_later_live_book_gets_only_what_the_others_were_not_given() -> None:
    desk = live_strategies("A", "B")
    desk.submit(ShareCash(("A", "B"), d(100), d(1000)))
    desk.submit(UpsertPortfolio("C"))
    desk.submit(ShareCash(("A", "B", "C"), d(100), d(1000)))
    assert cash_of(desk) == [50, 50, 0]
    desk.submit(ShareCash(("A", "B", "C", "Nobody"), d(120), d(1000)))
    assert cash_of(desk) == [50, 50, 20]


def test_who_came_back_to_paper_keeps_its_share_of_the_live_capital() -> None:
    desk = live_strategies("A")
    desk.submit(ShareCash(("A",), d(100), d(1000)))
    desk.submit(UpsertPortfolio("A", requested_mode=RequestedMode.PAPER), UpsertPortfolio("C"))
    desk.submit(ShareCash(("A", "C"), d(130), d(1000)))
    assert cash_of(desk) == [100, 30]


def test_a_book_of_a_strategy_that_is_not_live_gets_nothing() -> None:
    desk = live_strategies("A", "B")
    desk.submit(UpsertPortfolio("A", requested_mode=RequestedMode.PAPER))
    desk.submit(ShareCash(("A", "B"), d(100), d(1000)))
    assert cash_of(desk) == [0, 100]


def test_cash_that_was_set_by_hand_is_left_alone() -> None:
    desk = live_strategies("A", "B")
    desk.submit(UpsertPortfolio("A", d(30)), UpsertPortfolio("A", d(0)))
    desk.submit(ShareCash(("A", "B"), d(100), d(1000)))
    assert cash_of(desk) == [0, 100]


@pytest.mark.parametrize(
    ("total", "available"), [("0", "9"), ("-5", "9"), ("0.01", "9"), ("9", "0"), ("9", "-1")]
)
def test_nothing_is_shared_when_there_is_nothing_to_share(total: str, available: str) -> None:
    desk = live_strategies("A", "B")
    desk.submit(ShareCash(("A", "B"), d(total), d(available)))
    assert cash_of(desk) == [0, 0]


def test_no_more_is_shared_than_the_account_has() -> None:
    desk = live_strategies("A", "B")
    desk.submit(ShareCash(("A", "B"), d(100), d("50.03")))
    assert cash_of(desk) == [d("25.01")] * 2


def test_the_broker_is_the_actor_of_what_its_evidence_decides() -> None:
    desk = desk_with()
    order = placed(desk)
    batch = desk.batch()
    EndOrder(order.order_id, Status.REJECTED, "No.").run(batch)
    (event,) = batch.changes.order_events
    assert (event.actor, event.reason, event.order_id) == (
        "broker",
        "No.",
        order.order_id,
    )

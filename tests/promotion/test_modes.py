"""Modes: when they change, what is recorded of it, and that nobody is caught with a position."""

from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.portfolio.brokers.paper import PaperBroker
from services.portfolio.commands import BuyAll, Command, CreateOrder, SellAll, UpsertPortfolio
from services.portfolio.domain.book import RequestedMode
from services.portfolio.domain.errors import LedgerError, ReservedError
from services.portfolio.domain.order import Mode, Side, Status
from services.portfolio.domain.promotion import (
    DEMOTION,
    PROMOTION,
    REQUEST,
    TRADING_MODE,
    Decision,
    Evidence,
    Outcome,
    Verdict,
)
from services.portfolio.live.commands import EndOrder, FollowMode
from services.portfolio.promotion.commands import Decide
from tests.ledger.live_desk import LIVE, LiveDesk, executed
from tests.ledger.values import LATER, NAME, d, new_id

PAPER = (NAME, Mode.PAPER)
GOOD = Verdict(PROMOTION, True, "Good.", (Evidence("days", "60", "at least 60", holds=True),))
BAD = Verdict(DEMOTION, False, "Bad.", (Evidence("drawdown", "1", "at most 0.2", holds=False),))
CHANGED, STAYS, WAITS = Outcome.CHANGED, Outcome.STAYS, Outcome.WAITS_UNTIL_FLAT


def on_auto(cash: int = 10_000) -> LiveDesk:
    """A strategy on AUTO that is not promoted, under TRADING_MODE=LIVE."""
    desk = LiveDesk(Mode.LIVE, at_once=False)
    desk.submit(UpsertPortfolio(NAME, d(cash)))
    return desk


def decide(desk: LiveDesk, verdict: Verdict) -> Decision:
    """What was decided after the last decision."""
    last = desk.decisions[-1].decision_id if desk.decisions else None
    count = len(desk.decisions)
    desk.submit(Decide(NAME, verdict, last))
    assert len(desk.decisions) == count + 1
    return desk.decisions[-1]


def promoted(cash: int = 10_000) -> LiveDesk:
    """A strategy that was promoted, with as much cash in its LIVE book."""
    desk = on_auto(cash)
    decide(desk, GOOD)
    desk.submit(UpsertPortfolio(NAME, d(cash)))
    return desk


def told(desk: LiveDesk) -> list[tuple[str, Outcome]]:
    return [(each.rule, each.outcome) for each in desk.decisions]


def test_a_flat_strategy_goes_live_with_its_promotion() -> None:
    desk = on_auto()
    decision = decide(desk, GOOD)
    strategy = desk.strategies[NAME]
    assert (strategy.mode, strategy.promoted, strategy.live_since) == (Mode.LIVE, True, LATER)
    assert (decision.from_mode, decision.to_mode) == (Mode.PAPER, Mode.LIVE)
    assert (decision.rule, decision.outcome, decision.reason) == (PROMOTION, CHANGED, "Good.")
    assert decision.evidence == (*GOOD.evidence, Evidence("flat", "yes", "yes", holds=True))
    assert desk.book.cash == 0


def test_one_that_holds_waits_until_it_is_flat_and_takes_its_evidence_along() -> None:
    desk = on_auto()
    desk.submit(BuyAll(NAME, "SPXL", d(100)))
    waits = decide(desk, GOOD)
    assert (desk.strategies[NAME].mode, waits.outcome) == (Mode.PAPER, WAITS)
    assert waits.evidence[-1] == Evidence("flat", "100 SPXL held", "yes", holds=False)
    desk.submit(FollowMode(NAME), FollowMode(NAME))
    assert len(desk.decisions) == 1  # that it waits is said once
    desk.submit(SellAll(NAME, "SPXL", d(100)), FollowMode(NAME))
    changed = desk.decisions[-1]
    assert (desk.strategies[NAME].mode, told(desk)) == (
        Mode.LIVE,
        [(PROMOTION, WAITS), (PROMOTION, CHANGED)],
    )
    assert changed.evidence == (*GOOD.evidence, Evidence("flat", "yes", "yes", holds=True))


def test_open_orders_keep_a_mode_and_the_record_says_which() -> None:
    desk = promoted()
    order = desk.order(CreateOrder(NAME, "SPXL", Side.BUY, d(10), d(100)))
    waits = decide(desk, BAD)
    assert (desk.strategies[NAME].mode, desk.strategies[NAME].promoted) == (Mode.LIVE, False)
    reserved = Evidence("flat", "1021.00 USD reserved for open orders", "yes", holds=False)
    assert waits.evidence == (*BAD.evidence, reserved)
    desk.submit(EndOrder(order.order_id, Status.REJECTED, "no"), FollowMode(NAME))
    assert desk.strategies[NAME].mode is Mode.PAPER


def test_what_a_twin_has_left_is_sold_as_its_strategy_comes_back() -> None:
    desk = promoted()
    order = desk.order(CreateOrder(NAME, "SPXL", Side.BUY, d(10), d(100)))
    desk.submit(EndOrder(order.order_id, Status.REJECTED, "no"))
    assert desk.books[PAPER].positions["SPXL"].quantity == 10
    decide(desk, BAD)
    assert (desk.strategies[NAME].mode, desk.books[PAPER].is_flat) == (Mode.PAPER, True)
    (sale,) = [each for each in desk.orders.values() if each.side is Side.SELL]
    assert (sale.mode, sale.quantity, sale.price, sale.twin_of) == (Mode.PAPER, 10, 100, None)
    assert desk.books[PAPER].cash == 10_000


def test_all_that_a_twin_has_left_is_sold_with_its_commission() -> None:
    desk = promoted()
    desk.paper = PaperBroker(d("0.5"))
    for symbol, quantity in (("SPXL", 10), ("NVDL", 20)):
        order = desk.order(CreateOrder(NAME, symbol, Side.BUY, d(quantity), d(100)))
        desk.submit(EndOrder(order.order_id, Status.REJECTED, "no"))
    decide(desk, BAD)
    assert (desk.strategies[NAME].mode, desk.books[PAPER].is_flat) == (Mode.PAPER, True)
    assert desk.books[PAPER].cash == 10_000 - 30  # 30 shares there and back


def test_a_twin_that_cannot_sell_is_waited_for() -> None:
    desk = promoted()
    order = desk.order(CreateOrder(NAME, "SPXL", Side.BUY, d(10), d(100)))
    desk.submit(EndOrder(order.order_id, Status.REJECTED, "no"))
    desk.paper = PaperBroker(by_hand=True)
    waits = decide(desk, BAD)
    assert waits.evidence[-1] == Evidence("flat", "its paper twin holds shares", "yes", holds=False)
    assert (waits.outcome, desk.strategies[NAME].mode) == (WAITS, Mode.LIVE)
    desk.paper = PaperBroker()
    desk.submit(FollowMode(NAME))
    assert (desk.decisions[-1].outcome, desk.strategies[NAME].mode) == (CHANGED, Mode.PAPER)


def test_a_verdict_that_changes_nothing_is_a_decision_too() -> None:
    desk = on_auto()
    stays = decide(desk, replace(GOOD, promoted=False))
    assert (stays.outcome, stays.from_mode, stays.to_mode) == (STAYS, Mode.PAPER, Mode.PAPER)
    assert stays.evidence == GOOD.evidence


def test_a_verdict_that_does_not_know_the_last_decision_does_nothing() -> None:
    desk = on_auto()
    desk.submit(Decide(NAME, GOOD, None), Decide(NAME, BAD, None))
    assert (told(desk), desk.strategies[NAME].promoted) == ([(PROMOTION, CHANGED)], True)
    desk.submit(Decide(NAME, BAD, UUID(int=7)))
    assert len(desk.decisions) == 1


def test_under_trading_mode_paper_nobody_is_live_and_a_promotion_is_kept() -> None:
    desk = LiveDesk(Mode.PAPER, at_once=False)
    desk.submit(UpsertPortfolio(NAME, d(500)))
    decide(desk, GOOD)
    assert (desk.strategies[NAME].mode, desk.strategies[NAME].promoted) == (Mode.PAPER, True)
    desk.trading_mode = Mode.LIVE
    desk.submit(FollowMode(NAME))
    desk.trading_mode = Mode.PAPER
    desk.submit(FollowMode(NAME))
    assert (desk.strategies[NAME].mode, desk.strategies[NAME].promoted) == (Mode.PAPER, True)
    assert told(desk) == [(PROMOTION, STAYS), (PROMOTION, CHANGED), (TRADING_MODE, CHANGED)]


@pytest.mark.parametrize("wish", [RequestedMode.LIVE, RequestedMode.PAPER])
def test_a_request_is_a_decision_and_ends_what_the_rule_said(wish: RequestedMode) -> None:
    desk = promoted()
    desk.submit(UpsertPortfolio(NAME, requested_mode=wish))
    decision = desk.decisions[-1]
    strategy = desk.strategies[NAME]
    assert (strategy.mode, strategy.promoted) == (Mode(wish), False)
    assert (decision.rule, decision.requested_mode) == (REQUEST, wish)
    assert decision.outcome is (STAYS if wish is RequestedMode.LIVE else CHANGED)
    asked, trading_mode, *_ = decision.evidence
    assert (asked.value, asked.holds) == (wish, wish is RequestedMode.LIVE)
    assert (trading_mode.figure, trading_mode.holds) == ("TRADING_MODE", True)
    count = len(desk.decisions)
    desk.submit(UpsertPortfolio(NAME, requested_mode=wish))  # asks for nothing new
    assert len(desk.decisions) == count


def test_a_refused_amount_of_cash_leaves_no_decision_and_no_sale_of_the_twin() -> None:
    desk = promoted()
    order = desk.order(CreateOrder(NAME, "SPXL", Side.BUY, d(10), d(100)))
    before = (len(desk.decisions), len(desk.orders))
    with desk.refused(ReservedError):
        desk.submit(UpsertPortfolio(NAME, d(1), RequestedMode.PAPER))
    assert (len(desk.decisions), len(desk.orders)) == before
    assert desk.orders[order.order_id].is_open


def test_those_who_were_live_before_there_was_a_rule_come_back_once_they_are_flat() -> None:
    desk = LiveDesk(Mode.LIVE, at_once=True)
    desk.submit(UpsertPortfolio(NAME, d(10_000)))
    order = desk.order(BuyAll(NAME, "SPXL", d(100)))
    desk.at_once = False
    desk.submit(FollowMode(NAME))
    desk.submit(FollowMode(NAME))
    assert told(desk) == [(DEMOTION, WAITS)]
    desk.submit(EndOrder(order.order_id, Status.REJECTED, "no"), FollowMode(NAME))
    assert told(desk)[1:] == [(DEMOTION, CHANGED)]
    assert (desk.strategies[NAME].mode, desk.books[LIVE].is_flat) == (Mode.PAPER, True)


def test_cash_that_comes_with_a_change_is_of_the_book_as_its_twin_left_it() -> None:
    desk = promoted()
    order = desk.order(CreateOrder(NAME, "SPXL", Side.BUY, d(10), d(100)))
    desk.submit(EndOrder(order.order_id, Status.REJECTED, "no"))
    desk.submit(UpsertPortfolio(NAME, d(777), RequestedMode.PAPER))
    assert (desk.strategies[NAME].mode, desk.books[PAPER].cash) == (Mode.PAPER, 777)
    assert desk.books[PAPER].is_flat


STEPS = st.lists(
    st.sampled_from(
        [
            "buy",
            "sell",
            "fill",
            "reject",
            "good",
            "bad",
            "PAPER",
            "LIVE",
            "AUTO",
            "follow",
            "switch",
        ]
    ),
    max_size=40,
)


@given(STEPS)
def test_a_mode_never_changes_while_a_position_or_an_order_is_open(steps: list[str]) -> None:
    desk = promoted()
    for step in steps:
        before = desk.strategies[NAME]
        held = desk.books[NAME, before.mode]
        for command in commands_of(desk, step):
            try:
                desk.submit(command)
            except LedgerError:
                continue
        after = desk.strategies[NAME]
        if after.mode is before.mode:
            continue
        assert held.is_flat, f"{step} changed the mode with {held}"
        assert desk.books[PAPER].is_flat
        assert desk.decisions[-1].outcome is CHANGED
        assert (desk.decisions[-1].from_mode, desk.decisions[-1].to_mode) == (
            before.mode,
            after.mode,
        )
    open_orders = [each for each in desk.orders.values() if each.is_open]
    assert all(order.mode is desk.strategies[NAME].mode for order in open_orders)


def commands_of(desk: LiveDesk, step: str) -> list[Command]:
    if step == "switch":
        # A LIVE book has no broker under TRADING_MODE=PAPER, so only who is not LIVE switches.
        if Mode.PAPER in (desk.strategies[NAME].mode, desk.trading_mode):
            desk.trading_mode = Mode.LIVE if desk.trading_mode is Mode.PAPER else Mode.PAPER
        return []
    live = [each for each in desk.orders.values() if each.mode is Mode.LIVE and each.is_open]
    last = desk.decisions[-1].decision_id
    commands: dict[str, list[Command]] = {
        "buy": [BuyAll(NAME, "SPXL", d(100))],
        "sell": [SellAll(NAME, "SPXL", d(101))],
        "fill": [executed(each, f"{new_id()}.01", str(each.open_quantity)) for each in live],
        "reject": [EndOrder(each.order_id, Status.REJECTED, "no") for each in live],
        "good": [Decide(NAME, GOOD, last)],
        "bad": [Decide(NAME, BAD, last)],
        "follow": [FollowMode(NAME)],
        **{wish: [UpsertPortfolio(NAME, requested_mode=wish)] for wish in RequestedMode},
    }
    return commands[step]

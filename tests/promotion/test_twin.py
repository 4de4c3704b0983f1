"""The paper twin: what it follows, and what it leaves out."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.portfolio.commands import BuyAll, Command, CreateOrder, SellAll, UpsertPortfolio
from services.portfolio.domain.book import Book, RequestedMode
from services.portfolio.domain.errors import InsufficientCashError, LedgerError
from services.portfolio.domain.order import Mode, Order, Side, Status
from services.portfolio.live.commands import EndOrder
from tests.ledger.live_desk import LiveDesk, executed
from tests.ledger.values import NAME, d

PAPER = (NAME, Mode.PAPER)


def live_desk(cash: str | int = 10_000) -> LiveDesk:
    """A LIVE strategy with this much cash in each book."""
    desk = LiveDesk()
    desk.submit(UpsertPortfolio(NAME, d(cash), RequestedMode.LIVE))
    return desk


def twin_of(desk: LiveDesk, order: Order) -> Order | None:
    """The twin's order for the intent of a LIVE one."""
    found = [each for each in desk.orders.values() if each.twin_of == order.order_id]
    assert len(found) <= 1
    return found[0] if found else None


def test_the_twin_fills_at_once_at_the_price_that_was_seen() -> None:
    desk = live_desk()
    order = desk.order(CreateOrder(NAME, "SPXL", Side.BUY, d(10), d(100), "r"))
    twin = twin_of(desk, order)
    assert twin is not None
    assert (order.mode, order.status, order.twin_of) == (Mode.LIVE, Status.PENDING, None)
    assert (twin.mode, twin.status, twin.request_id) == (Mode.PAPER, Status.EXECUTED, "")
    assert (twin.filled_quantity, twin.average_fill_price) == (10, 100)
    assert (desk.books[PAPER].cash, desk.book.cash) == (9_000, 10_000)
    assert desk.intents == [order.order_id]  # the broker never hears of the twin


def test_buy_all_of_the_twin_spends_its_own_cash() -> None:
    desk = live_desk(10_000)
    order = desk.order(BuyAll(NAME, "SPXL", d(100)))
    twin = twin_of(desk, order)
    assert twin is not None
    assert (order.quantity, twin.quantity) == (98, 100)  # LIVE keeps a buffer back


def test_sell_all_of_the_twin_sells_all_that_it_has() -> None:
    desk = live_desk()
    bought = desk.order(BuyAll(NAME, "SPXL", d(100)))
    desk.order(executed(bought, quantity=98))
    sold = desk.order(SellAll(NAME, "SPXL", d(110)))
    twin = twin_of(desk, sold)
    assert twin is not None
    assert (sold.quantity, twin.quantity, desk.books[PAPER].cash) == (98, 100, 11_000)
    assert desk.books[PAPER].is_flat


def test_a_twin_that_cannot_is_left_out_and_never_in_the_way() -> None:
    desk = live_desk()
    desk.submit(UpsertPortfolio(NAME, d(50_000)))  # a deposit is the LIVE book's alone
    big = desk.order(CreateOrder(NAME, "SPXL", Side.BUY, d(101), d(100)))
    assert twin_of(desk, big) is None
    desk.order(executed(big, quantity=101))
    sold = desk.order(CreateOrder(NAME, "SPXL", Side.SELL, d(5), d(100)))
    assert twin_of(desk, sold) is None
    assert desk.books[PAPER].cash == 10_000


def test_a_live_order_that_is_refused_has_no_twin() -> None:
    desk = live_desk(100)
    with desk.refused(InsufficientCashError):
        desk.submit(BuyAll(NAME, "SPXL", d(100)))  # on paper it would do
    assert desk.orders == {}


def test_the_twin_of_an_order_that_the_broker_rejects_stays() -> None:
    desk = live_desk()
    order = desk.order(BuyAll(NAME, "SPXL", d(100)))
    desk.submit(EndOrder(order.order_id, Status.REJECTED, "no"))
    assert desk.books[PAPER].positions["SPXL"].quantity == 100


def test_a_strategy_without_a_paper_book_has_no_twin() -> None:
    desk = live_desk()
    del desk.books[PAPER]
    desk.entries = [entry for entry in desk.entries if entry.mode is Mode.LIVE]
    assert twin_of(desk, desk.order(BuyAll(NAME, "SPXL", d(100)))) is None


INTENTS = st.lists(
    st.tuples(
        st.sampled_from(["buy_all", "sell_all", "buy", "sell"]),
        st.sampled_from(["SPXL", "NVDL"]),
        st.integers(50, 200),  # USD
        st.integers(1, 60),  # shares
        st.sampled_from(["0.98", "1", "1.02"]),  # of the price, at the broker
    ),
    max_size=25,
)


def command_of(intent: tuple[Any, ...]) -> Command:
    kind, symbol, price, quantity, _ = intent
    if kind == "buy_all":
        return BuyAll(NAME, symbol, d(price))
    if kind == "sell_all":
        return SellAll(NAME, symbol, d(price))
    side = Side.BUY if kind == "buy" else Side.SELL
    return CreateOrder(NAME, symbol, side, d(quantity), d(price))


def worth(book: Book) -> tuple[Decimal, dict[str, Decimal], dict[str, Decimal]]:
    held = {s: p.quantity for s, p in book.positions.items() if p.quantity}
    return book.cash, held, {s: p.realized_pnl for s, p in book.positions.items()}


@given(INTENTS)
def test_the_twin_is_what_a_paper_run_of_the_same_intents_is(
    intents: list[tuple[Any, ...]],
) -> None:
    live, paper = live_desk(), LiveDesk(Mode.PAPER)
    paper.submit(UpsertPortfolio(NAME, d(10_000), RequestedMode.LIVE))
    for number, intent in enumerate(intents):
        try:
            order = live.order(command_of(intent))
        except LedgerError:
            continue
        there = order.price * Decimal(intent[4])
        live.order(executed(order, f"e{number}.01", str(order.quantity), str(there), "1.25"))
        try:
            paper.submit(command_of(intent))
        except LedgerError:
            assert twin_of(live, order) is None
        assert worth(live.books[PAPER]) == worth(paper.books[PAPER])


@pytest.mark.parametrize("mode", [RequestedMode.PAPER, RequestedMode.AUTO])
def test_a_paper_strategy_has_no_twin(mode: RequestedMode) -> None:
    desk = LiveDesk(Mode.LIVE, at_once=False)
    desk.submit(UpsertPortfolio(NAME, d(1000), mode))
    order = desk.order(BuyAll(NAME, "SPXL", d(100)))
    assert (order.mode, len(desk.orders)) == (Mode.PAPER, 1)

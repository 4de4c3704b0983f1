"""The broker's truth: whatever happens, it adds up, and it is the same when read again."""

from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway import Side, Status
from services.gateway.exchange import Exchange, NotPossibleError, UnknownError
from services.gateway.records import ZERO, Outcome, Ticket
from services.gateway.store import StateFileError, Store

NOON = datetime(2024, 1, 5, 17, tzinfo=UTC)
MOVES = ["BUY", "SELL", "fill", "fill", "cancel", "correct", "by hand", "midnight"]
Step = tuple[str, int, Decimal]
steps = st.lists(
    st.tuples(st.sampled_from(MOVES), st.integers(1, 40), st.decimals("0.01", "500", places=2)),
    max_size=40,
)


def opened(store: Store) -> Exchange:
    return Exchange(store, Decimal(1000), lambda: NOON)


def a_ticket(side: Side, shares: int, ref: str = "ref") -> Ticket:
    return Ticket("SPXL", side, Decimal(shares), ref, "MKT", "DAY", "DU1")


def take(exchange: Exchange, step: Step) -> None:
    """One step of a broker's day; what is not possible is left out."""
    what, shares, price = step
    if what in ("BUY", "SELL"):
        order_id = exchange.highest_id(1) + 1
        ticket = a_ticket(Side(what), shares, f"ref-{order_id}")
        exchange.accept(1, order_id, ticket, "HELD", Status.SUBMITTED)
    elif what == "by hand":
        exchange.trade_by_hand("SPXL", Decimal(shares if shares % 2 else -shares), price)
    elif what == "midnight":
        exchange.forget_executions()
    elif what == "correct" and exchange.executions:
        exec_id = list(exchange.executions)[shares % len(exchange.executions)]
        exchange.correct(exec_id, exchange.executions[exec_id].shares, price)
    elif what in ("fill", "cancel") and exchange.working:
        order = exchange.working[shares % len(exchange.working)]
        if what == "fill":
            exchange.fill(order.perm_id, min(order.open, Decimal(shares)), price)
        else:
            exchange.end(order.perm_id, Status.CANCELLED, "")


@given(steps)
def test_the_broker_adds_up_and_reads_the_same_again(taken: list[Step]) -> None:
    with closing(Store(None)) as store:
        require_that_it_adds_up(store, taken)


def require_that_it_adds_up(store: Store, taken: list[Step]) -> None:
    exchange = opened(store)
    for step in taken:
        take(exchange, step)
    snapshot = exchange.snapshot([])
    latest = {one.base: one for one in snapshot.executions}.values()
    for order in snapshot.orders:
        fills = [one for one in latest if one.perm_id == order.perm_id]
        assert order.filled == sum(one.shares for one in fills) <= order.ticket.quantity
        assert order.value == sum(one.shares * one.price for one in fills)
        assert (order.status is Status.FILLED) == (order.filled == order.ticket.quantity)
    shares = sum((one.shares * one.side.sign for one in latest), ZERO)
    assert snapshot.positions.get("SPXL", ZERO) == shares
    paid = sum(one.shares * one.side.sign * one.price + one.commission for one in latest)
    assert snapshot.cash == 1000 - paid
    again = opened(store).snapshot([])
    assert (again.orders, again.executions) == (snapshot.orders, snapshot.executions)
    assert (again.receipts, again.cash) == (snapshot.receipts, snapshot.cash)
    assert again.positions == snapshot.positions


@pytest.fixture
def exchange() -> Iterator[Exchange]:
    with closing(Store(None)) as store:
        yield opened(store)


def test_an_order_takes_no_more_than_is_open(exchange: Exchange) -> None:
    order = exchange.accept(1, 5, a_ticket(Side.BUY, 10), "HELD", Status.SUBMITTED)
    exchange.fill(order.perm_id, Decimal(4), Decimal(1))
    with pytest.raises(NotPossibleError, match="Submitted with 6 open: 7 at 1 cannot be filled"):
        exchange.fill(order.perm_id, Decimal(7), Decimal(1))
    exchange.end(order.perm_id, Status.CANCELLED, "")
    with pytest.raises(NotPossibleError, match="Cancelled with 6 open"):
        exchange.fill(order.perm_id, Decimal(6), Decimal(1))
    with pytest.raises(NotPossibleError, match="Cancelled already"):
        exchange.end(order.perm_id, Status.CANCELLED, "")
    with pytest.raises(UnknownError, match="ref-9"):
        exchange.named("ref-9")
    assert exchange.named("ref") == exchange.named(order.perm_id)


def test_a_lost_order_uses_no_id(exchange: Exchange) -> None:
    exchange.record(1, 7, a_ticket(Side.BUY, 1), Outcome.LOST)
    assert exchange.highest_id(1) == 0
    exchange.record(1, 5, a_ticket(Side.BUY, 1), Outcome.REFUSED)
    assert exchange.highest_id(1) == 5
    assert exchange.highest_id(2) == 0


def test_changes_that_belong_together_are_kept_together_or_not_at_all(tmp_path: Path) -> None:
    store = Store(tmp_path / "state")
    numbers = store.shelf("numbers", int)
    with suppress(RuntimeError), store.together():
        numbers.put("a", 1)
        raise RuntimeError
    assert numbers.all() == []
    with pytest.raises(StateFileError, match="Is another gateway running"):
        Store(tmp_path / "state")
    store.close()


def test_a_file_that_is_no_state_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.write_text("no database" * 1000)
    with pytest.raises(StateFileError, match="not a database"):
        Store(path)

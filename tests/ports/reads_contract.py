"""What all Reads promise. Subclass it where pytest finds it; `store` is the implementation."""

from collections.abc import Callable, Coroutine
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from itertools import product
from typing import Any

import pytest

from services.portfolio.domain.book import RequestedMode, State
from services.portfolio.domain.mutation import Mutation
from services.portfolio.domain.order import Order, Status
from services.portfolio.domain.position import Position
from services.portfolio.ports import (
    Changes,
    MutationFilter,
    OrderFilter,
    PositionFilter,
    PriceMark,
)
from services.portfolio.views import InvestedView, PositionView
from tests.ledger.amounts import exactly
from tests.ledger.values import d, half_even, new_id
from tests.ports.makers import (
    LIVE,
    PAPER,
    at,
    book,
    corrected_day,
    filled_day,
    opened,
    order,
    position,
    save,
    strategy,
    with_orders,
)
from tests.ports.stores import Store

ORDER_FILTERS = [
    OrderFilter(name, symbol, status)
    for name, symbol, status in product(
        (None, "A", "Nobody"), (None, "SPXL", "GLD"), (None, Status.PENDING, Status.EXECUTED)
    )
]


def mutation(actor: str, strategy_name: str) -> Mutation:
    """A change that was asked for."""
    trace = "0af7651916cd43dd8448eb211c80319c"
    return Mutation(new_id(), at(1), actor, "BuyAll", strategy_name, "about", "req-1", trace)


def mark(name: str, symbol: str, price: str | int, seconds: float) -> PriceMark:
    """A price that a strategy saw."""
    return PriceMark(name, symbol, d(price), at(seconds))


class ReadsContract:
    """Reads of any store."""

    async def test_mutations_read_back_newest_first_by_filter_and_page(self, store: Store) -> None:
        ledger, reads = store.ledger, store.reads
        assert await reads.mutations(MutationFilter(), None, 10) == []
        made = [
            mutation(actor, name)
            for actor, name in product(("strategy/A", "operator/alice", "router"), ("A", "B", ""))
        ]
        first = opened("A")
        first.mutations.extend(made[:5])
        second = opened("B")
        second.mutations.extend(made[5:])
        await save(ledger, first, second)
        for name, actor in product((None, "A", "Nobody"), (None, "operator/alice", "operator")):
            wanted = [
                each
                for each in reversed(made)
                if name in (None, each.strategy_name) and actor in (None, each.actor)
            ]
            which = MutationFilter(name, actor)
            assert await reads.mutations(which, None, 10) == wanted
            for place, each in enumerate(wanted):
                rest = await reads.mutations(which, each.mutation_id, 2)
                assert rest == wanted[place + 1 : place + 3]

    async def test_what_does_not_exist_is_absent(self, store: Store) -> None:
        reads = store.reads
        assert await reads.order(new_id()) is None
        assert await reads.orders(OrderFilter(), None, 10) == []
        assert await reads.orders_by_id([new_id()]) == []
        assert await reads.orders_by_id([]) == []
        assert await reads.positions(PositionFilter(), None, 10) == []
        assert await reads.portfolios() == []
        assert await reads.portfolios(["Nobody"]) == []
        assert await reads.invested(["Nobody"]) == {}
        assert await reads.invested([]) == {}
        assert await reads.audit() == (0, [])
        await reads.ping()

    async def test_an_order_reads_back_exactly(self, store: Store) -> None:
        changes = filled_day("A")
        await save(store.ledger, changes)
        for order_id, one in changes.orders.items():
            assert await store.reads.order(order_id) == one

    async def test_named_orders_come_oldest_first_and_unknown_ones_are_left_out(
        self, store: Store
    ) -> None:
        orders = [order("A") for _ in range(5)]
        await save(store.ledger, opened("A"), with_orders("A", orders))
        wanted = [orders[3].order_id, new_id(), orders[0].order_id, orders[3].order_id]
        assert await store.reads.orders_by_id(wanted) == [orders[0], orders[3]]

    @pytest.mark.parametrize("size", [1, 3, 100])
    async def test_pages_of_orders_cover_everything_once_newest_first(
        self, store: Store, size: int
    ) -> None:
        orders = [
            order(name, symbol, status)
            for name, symbol, status in product("AB", ("SPXL", "AVL"), Status)
        ]
        for name in "AB":
            own = [each for each in orders if each.strategy_name == name]
            await save(store.ledger, opened(name), with_orders(name, own))
        for which in ORDER_FILTERS if size == 3 else ORDER_FILTERS[:2]:
            found = await self.all_orders(store, which, size)
            assert found == [each for each in reversed(orders) if fits(each, which)]

    async def all_orders(self, store: Store, which: OrderFilter, size: int) -> list[Order]:
        """Every page, one after the other."""
        found: list[Order] = []
        while page := await store.reads.orders(which, found[-1].order_id if found else None, size):
            assert len(page) <= size
            found += page
        return found

    @pytest.mark.parametrize("size", [1, 2, 100])
    async def test_pages_of_positions_cover_every_open_one_once_in_order(
        self, store: Store, size: int
    ) -> None:
        symbols = ["AVL", "HOOD", "SPXL"]
        for name, mode in (("A1", LIVE), ("A1", PAPER), ("B1", PAPER)):
            held = [position(symbol, 1, 5) for symbol in symbols]
            flat = position("NVDL", 0, 0)
            await save(store.ledger, opened(name, 10, mode, *held, flat))
        every = [
            (name, symbol, mode)
            for name in ("A1", "B1")
            for symbol in symbols
            for mode in (LIVE, PAPER)
            if (name, mode) != ("B1", LIVE)
        ]
        wanted = product((None, "A1", "Nobody"), (None, "HOOD", "NVDL"))
        for which in (PositionFilter(*names) for names in wanted):
            found: list[PositionView] = []
            after = None
            while page := await store.reads.positions(which, after, size):
                found += page
                after = (found[-1].strategy_name, found[-1].symbol, found[-1].mode)
            assert [(p.strategy_name, p.symbol, p.mode) for p in found] == [
                key
                for key in every
                if which.strategy_name in (None, key[0]) and which.symbol in (None, key[1])
            ]

    async def test_positions_of_a_paper_twin_are_left_out(self, store: Store) -> None:
        for mode in (PAPER, LIVE):
            await save(store.ledger, opened("A", 10, mode, position("SPXL", 1, 5)))
        (only,) = await store.reads.positions(PositionFilter("A"), None, 10)
        assert only.mode is LIVE

    async def test_orders_of_paper_twins_are_listed_only_if_asked_for(self, store: Store) -> None:
        orders = [order("A") for _ in range(4)]
        twins = [replace(order("A"), twin_of=each.order_id) for each in orders]
        mixed = sorted([*orders, *twins], key=lambda each: each.order_id)
        await save(store.ledger, opened("A"), with_orders("A", mixed))
        for which, every in (
            (OrderFilter("A"), orders),
            (OrderFilter(), orders),
            (OrderFilter("A", twins=True), mixed),
        ):
            assert await self.all_orders(store, which, 3) == every[::-1]
        assert await store.reads.orders_by_id([twins[0].order_id]) == [twins[0]]

    async def test_invested_names_the_open_positions_of_the_mode_in_force(
        self, store: Store
    ) -> None:
        await save(
            store.ledger,
            opened("A", 1, LIVE, position("GLD", 1, 1)),
            opened("A", 1, PAPER, position("SPXL", "0.00000001", 1), position("AVL", 2, 1)),
            opened("B", 1, PAPER, position("SPXL", 0, 0)),
            opened("C", 1, LIVE),
        )
        assert await store.reads.invested(["A", "B", "C", "Nobody"]) == {
            "A": InvestedView("A", PAPER, ("AVL", "SPXL")),
            "B": InvestedView("B", PAPER, ()),
            "C": InvestedView("C", LIVE, ()),
        }

    async def test_portfolios_equal_an_independent_sum(self, store: Store) -> None:
        held = {
            "A": [position("SPXL", "10.5", "1000.12345678", "101.3"), position("AVL", 3, 21, 8)],
            "B": [position("SPXL", "0.33333333", "7.77777777", "3.1")],
            "C": [],
            "D": [position("SPXL", 0, 0, 9)],
        }
        cash = {"A": d("12.00000001"), "B": d("0"), "C": d("5000"), "D": d("0.5")}
        for name, positions in held.items():
            await save(store.ledger, opened(name, str(cash[name]), PAPER, *positions))
        await save(store.ledger, opened("A", 10**6, LIVE, position("GLD", 5, 5)))  # not in force
        await save(store.ledger, Changes(strategies={"A": strategy("A")}))

        def worth(each: Position) -> Fraction:
            return exactly(half_even(exactly(each.quantity) * exactly(each.last_price)))

        values = {name: sum(map(worth, positions)) for name, positions in held.items()}
        total = sum(values.values()) + sum(map(exactly, cash.values()))
        found = await store.reads.portfolios()
        assert [view.strategy_name for view in found] == ["A", "B", "C", "D"]
        for view in found:
            name = view.strategy_name
            assert view.mode is PAPER
            assert view.cash == cash[name]
            assert exactly(view.positions_value) == values[name]
            assert view.positions_cost == sum(p.cost for p in held[name])
            assert view.realized_pnl == sum(p.realized_pnl for p in held[name])
            assert view.invested is any(p.quantity for p in held[name])
            assert exactly(view.total_equity) == total
            assert exactly(view.equity) == exactly(cash[name]) + values[name]
            assert view.weight == half_even(exactly(view.equity) / total)
            assert view.unrealized_pnl == view.positions_value - view.positions_cost
        assert await store.reads.portfolios(["C", "A", "Nobody"]) == [found[0], found[2]]
        assert await store.reads.portfolios([]) == []

    async def test_a_portfolio_tells_how_its_strategy_stands(self, store: Store) -> None:
        changes = opened("A")
        changes.strategies["A"] = replace(
            strategy("A", state=State.HALTED), requested_mode=RequestedMode.LIVE
        )
        await save(store.ledger, changes)
        (view,) = await store.reads.portfolios()
        assert (view.state, view.requested_mode, view.reserved_cash) == (
            State.HALTED,
            RequestedMode.LIVE,
            0,
        )
        assert view.weight == 1
        assert view.update_time == at(1)

    async def test_an_account_without_money_has_no_weights(self, store: Store) -> None:
        await save(store.ledger, opened("A", 0))
        (view,) = await store.reads.portfolios()
        assert (view.equity, view.weight) == (0, 0)

    @pytest.mark.parametrize(
        ("quantity", "price"),
        [("0.5", "10.00000001"), ("0.00000005", "0.3"), ("0.00000001", "0.5")],
    )
    async def test_a_portfolio_is_worth_what_its_positions_are_worth(
        self, store: Store, quantity: str, price: str
    ) -> None:
        # These products end in a half step: however it is rounded, both must round alike.
        await save(store.ledger, opened("A", 1, PAPER, position("SPXL", quantity, 1, price)))
        (portfolio,) = await store.reads.portfolios()
        (held,) = await store.reads.positions(PositionFilter(), None, 10)
        assert portfolio.positions_value == held.market_value
        assert portfolio.unrealized_pnl == held.unrealized_pnl

    async def test_views_hold_amounts_of_any_size(self, store: Store) -> None:
        huge = position("SPXL", "2E+12", 20_000, "0.00000001")
        await save(store.ledger, opened("A", 1, PAPER, huge))
        await store.reads.mark([mark("A", "SPXL", "1E+9", 60)])
        (held,) = await store.reads.positions(PositionFilter(), None, 10)
        assert held.market_value == d("2E+21")
        assert held.unrealized_pnl == d("2E+21") - 20_000
        (portfolio,) = await store.reads.portfolios()
        assert portfolio.positions_value == d("2E+21")
        assert portfolio.weight == 1

    async def test_a_position_is_worth_what_was_seen_or_traded_last(self, store: Store) -> None:
        held = position("SPXL", 2, 7, last_price=5)  # traded at second 1
        await save(store.ledger, opened("A", 100, PAPER, held))

        async def price() -> Decimal:
            (view,) = await store.reads.positions(PositionFilter(), None, 10)
            (portfolio,) = await store.reads.portfolios()
            assert portfolio.positions_value == view.market_value == 2 * view.market_price
            assert portfolio.update_time >= view.update_time
            return view.market_price

        assert await price() == 5
        await store.reads.mark([mark("A", "SPXL", 4, 0.5)])  # older than the trade
        assert await price() == 5
        await store.reads.mark([mark("A", "SPXL", 6, 2)])
        assert await price() == 6
        await store.reads.mark([mark("A", "SPXL", 9, 1.5)])  # older than the last one
        assert await price() == 6
        await store.reads.mark([mark("A", "SPXL", "6.5", 2)])  # as old: the last one counts
        assert await price() == d("6.5")
        await store.reads.mark([mark("A", "SPXL", 7, 3), mark("A", "SPXL", 8, 3)])
        assert await price() == 8
        traded = replace(held, last_price=d(3), update_time=at(4))
        key = ("A", PAPER)
        changes = Changes(
            books={key: replace(book("A", d(100)), update_time=at(4))},
            positions={(key, "SPXL"): traded},
        )
        await save(store.ledger, changes)
        assert await price() == 3

    async def test_a_position_without_any_price_is_worth_its_cost(self, store: Store) -> None:
        await save(store.ledger, opened("A", 1, PAPER, position("SPXL", 3, 10, last_price=0)))
        (view,) = await store.reads.positions(PositionFilter(), None, 10)
        assert view.market_price == view.average_cost == d("3.33333333")

    async def test_marks_name_the_strategies_that_exist_and_belong_to_them_alone(
        self, store: Store
    ) -> None:
        held = [position("SPXL", 1, 5), position("AVL", 1, 5)]
        other = replace(position("SPXL", 1, 5), position_id=new_id())
        await save(
            store.ledger, opened("A", 1, PAPER, *held), opened("B", 1, PAPER, other), opened("C")
        )
        told = await store.reads.mark(
            [
                mark("A", "SPXL", 7, 9),
                mark("A", "GLD", 7, 9),
                mark("C", "SPXL", 8, 9),
                mark("Nobody", "SPXL", 9, 9),
            ]
        )
        assert told == {("A", None): True, ("C", None): True}
        assert await store.reads.mark([mark("Nobody", "SPXL", 9, 9)]) == {}
        assert await store.reads.mark([]) == {}
        views = await store.reads.positions(PositionFilter(), None, 10)
        assert [(v.strategy_name, v.symbol, v.market_price) for v in views] == [
            ("A", "AVL", d(5)),
            ("A", "SPXL", d(7)),
            ("B", "SPXL", d(5)),
        ]

    async def test_a_sound_ledger_is_balanced(self, store: Store) -> None:
        await save(store.ledger, filled_day("A"), filled_day("B"), opened("C"))
        assert await store.reads.audit() == (3, [])

    async def test_the_audit_replays_what_was_learnt_of_fills_later(self, store: Store) -> None:
        day = corrected_day("A")
        await save(store.ledger, day)
        assert await store.reads.audit() == (1, [])
        (one,) = day.orders.values()
        await save(store.ledger, Changes(orders={one.order_id: replace(one, commission=d(0))}))
        _, (found,) = await store.reads.audit()
        assert (found.figure, found.recorded, found.recomputed) == (
            f"order {one.order_id} commission",
            0,
            d("0.25"),
        )

    @pytest.mark.parametrize("tampered", ["cash", "shares", "order", "fill"])
    async def test_a_touched_figure_is_found_by_the_audit(
        self,
        store: Store,
        tamper: Callable[[str], Coroutine[Any, Any, None]],
        tampered: str,
    ) -> None:
        await save(store.ledger, filled_day("A"), opened("B"))
        await tamper(tampered)
        books, differences = await store.reads.audit()
        figures = {"cash": "cash", "shares": "quantity", "order": "filled_value", "fill": "cost"}
        assert books == 2
        assert differences
        assert any(figures[tampered] in found.figure for found in differences)
        assert {(found.strategy_name, found.mode) for found in differences} == {("A", PAPER)}


def fits(one: Order, which: OrderFilter) -> bool:
    """Whether a list with this filter shows the order."""
    return (
        which.strategy_name in (None, one.strategy_name)
        and which.symbol in (None, one.symbol)
        and which.status in (None, one.status)
    )

"""The audit finds each figure that the facts do not support, and each fact that was touched."""

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from services.portfolio.domain.money import STEP
from services.portfolio.domain.order import Mode, Side, Status
from tests.ledger.live_desk import LiveDesk, desk_with, executed, placed
from tests.ledger.world import World


def a_day() -> World:
    """A book on which everything has happened once: filled, partly filled, ended, set by hand."""
    world = World(Mode.PAPER)
    moves: list[tuple[object, ...]] = [
        ("place", Side.BUY, "SPXL", Decimal(10), Decimal("33.33")),
        ("fill", 0, 1, Decimal("33.3"), Decimal("0.25")),
        ("place", Side.SELL, "SPXL", Decimal(7), Decimal("40.1")),
        ("fill", 1, 2, Decimal("40.2"), Decimal("0.5")),
        ("place", Side.BUY, "AVL", Decimal(3), Decimal(7)),
        ("fill_all", 2, 1, Decimal(7), Decimal(0)),
        ("place", Side.SELL, "AVL", Decimal(2), Decimal(8)),
        ("fill_all", 3, 1, Decimal(8), Decimal("0.1")),
        ("cash", Decimal(50_000)),
        ("position", "AVL", Decimal(5), Decimal(9)),
    ]
    for move in moves:
        assert world.throw(move), move
    return world


def nudged(value: Any, name: str) -> Any:
    return replace(value, **{name: getattr(value, name) + STEP})


def tamper_book(name: str) -> Callable[[World], None]:
    def tamper(world: World) -> None:
        world.book = nudged(world.book, name)

    return tamper


def tamper_position(name: str) -> Callable[[World], None]:
    def tamper(world: World) -> None:
        position = nudged(world.book.positions["SPXL"], name)
        world.book = replace(world.book, positions={**world.book.positions, "SPXL": position})

    return tamper


def tamper_order(number: int, **changes: Any) -> Callable[[World], None]:
    def tamper(world: World) -> None:
        order = list(world.orders.values())[number]
        for name, change in changes.items():
            order = nudged(order, name) if change is STEP else replace(order, **{name: change})
        world.orders[order.order_id] = order

    return tamper


def tamper_fact(facts: str, number: int, name: str) -> Callable[[World], None]:
    def tamper(world: World) -> None:
        rows = getattr(world, facts)
        rows[number] = nudged(rows[number], name)

    return tamper


def drop_fact(facts: str, number: int) -> Callable[[World], None]:
    def tamper(world: World) -> None:
        del getattr(world, facts)[number]

    return tamper


def drop_position(world: World) -> None:
    world.book = replace(world.book, positions={"SPXL": world.book.positions["SPXL"]})


def drop_order(world: World) -> None:
    """An order is gone with its fills."""
    order_id = next(iter(world.orders))
    del world.orders[order_id]
    world.fills = [fill for fill in world.fills if fill.order_id != order_id]


def drop_shares(world: World) -> None:
    """All that was bought or set is gone; what was sold is not."""
    world.adjustments = []
    world.fills = [fill for fill in world.fills if world.orders[fill.order_id].side is Side.SELL]


TAMPERED: list[tuple[str, Callable[[World], None], set[str]]] = [
    ("cash", tamper_book("cash"), {"cash"}),
    ("reserved cash", tamper_book("reserved_cash"), {"reserved_cash"}),
    ("shares", tamper_position("quantity"), {"SPXL quantity"}),
    ("reserved shares", tamper_position("reserved_quantity"), {"SPXL reserved_quantity"}),
    ("cost", tamper_position("cost"), {"SPXL cost"}),
    ("profit", tamper_position("realized_pnl"), {"SPXL realized_pnl"}),
    ("last price", tamper_position("last_price"), {"SPXL last_price"}),
    ("lost position", drop_position, {"AVL quantity", "AVL cost"}),
    ("order filled", tamper_order(2, filled_quantity=STEP), {"filled_quantity"}),
    ("order value", tamper_order(2, filled_value=STEP), {"filled_value"}),
    ("order commission", tamper_order(2, commission=STEP), {"commission"}),
    ("order reservation", tamper_order(0, reserved_cash=STEP), {"reserved_cash"}),
    ("ended order that reserves", tamper_order(2, reserved_cash=STEP), {"order", "reserved_cash"}),
    ("order size", tamper_order(1, quantity=STEP), {"SPXL reserved_quantity"}),
    ("sale ended", tamper_order(1, status=Status.CANCELLED), {"SPXL reserved_quantity"}),
    ("buy ended", tamper_order(0, status=Status.REJECTED), {"reserved_cash"}),
    ("lost order", drop_order, {"reserved_cash", "TRADE cash entries", "SPXL quantity"}),
    ("lost shares", drop_shares, {"SPXL shares before fill"}),
    ("cash entry", tamper_fact("entries", 1, "amount"), {"cash", "TRADE cash entries"}),
    ("commission entry", tamper_fact("entries", 2, "amount"), {"cash", "COMMISSION cash entries"}),
    ("set cash", tamper_fact("entries", -1, "amount"), {"cash"}),
    ("lost entry", drop_fact("entries", 0), {"cash"}),
    ("fill quantity", tamper_fact("fills", 0, "quantity"), {"filled_quantity", "SPXL quantity"}),
    ("fill value", tamper_fact("fills", 0, "value"), {"filled_value", "SPXL cost"}),
    ("fill commission", tamper_fact("fills", 1, "commission"), {"commission", "SPXL realized_pnl"}),
    ("last fill price", tamper_fact("fills", 1, "price"), {"SPXL last_price"}),
    ("lost fill", drop_fact("fills", 0), {"filled_quantity", "SPXL quantity"}),
    ("lost purchase", drop_fact("adjustments", 0), {"SPXL quantity", "SPXL cost"}),
    ("adjusted shares", tamper_fact("adjustments", -1, "quantity_delta"), {"AVL quantity"}),
    ("adjusted cost", tamper_fact("adjustments", -1, "cost_delta"), {"AVL cost"}),
]


def test_an_untouched_day_has_no_difference() -> None:
    assert a_day().audit() == []


@pytest.mark.parametrize(
    ("tamper", "figures"), [case[1:] for case in TAMPERED], ids=[case[0] for case in TAMPERED]
)
def test_a_touched_figure_is_found(tamper: Callable[[World], None], figures: set[str]) -> None:
    world = a_day()
    tamper(world)
    found = world.audit()
    shown = " / ".join(difference.figure for difference in found)
    assert all(figure in shown for figure in figures), shown
    assert all(d.recorded != d.recomputed for d in found)
    assert all((d.strategy_name, d.mode) == (world.book.strategy_name, Mode.PAPER) for d in found)


def test_a_difference_tells_both_figures() -> None:
    world = a_day()
    cash = world.book.cash
    tamper_book("cash")(world)
    (difference,) = world.audit()
    assert (difference.figure, difference.recorded, difference.recomputed) == (
        "cash",
        cash + STEP,
        cash,
    )


def a_live_day() -> LiveDesk:
    """A LIVE order whose fill was corrected and charged later."""
    desk = desk_with()
    order = placed(desk)
    desk.order(executed(order, "e1.01", 10, 100))
    desk.order(executed(order, "e1.02", 9, 101, commission="1.5"))
    return desk


@pytest.mark.parametrize(
    ("number", "name", "figures"),
    [
        (1, "quantity", {"filled_quantity", "SPXL quantity"}),
        (1, "value", {"filled_value", "SPXL cost", "TRADE cash entries"}),
        (1, "price", {"SPXL last_price"}),
        (2, "commission", {"commission", "SPXL realized_pnl", "COMMISSION cash entries"}),
    ],
)
def test_a_touched_correction_or_commission_is_found(
    number: int, name: str, figures: set[str]
) -> None:
    desk = a_live_day()
    assert desk.differences() == []
    desk.fills[number] = nudged(desk.fills[number], name)
    shown = " / ".join(difference.figure for difference in desk.differences())
    assert all(figure in shown for figure in figures), shown


def test_a_correction_of_shares_that_were_never_there_is_found() -> None:
    desk = a_live_day()
    del desk.fills[0]
    assert any("SPXL shares before fill" in found.figure for found in desk.differences())

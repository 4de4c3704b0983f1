from decimal import Decimal
from typing import Any

import pytest
from rich.console import Console

from services.mesh.board import (
    KEPT_NOTES,
    Board,
    Broker,
    Order,
    Portfolio,
    note_of,
    note_of_broker,
    note_of_order,
)
from services.mesh.view import render, weather

SPXL, HOOD = "IncredibleLeverage_SPXL", "IncredibleLeverage_HOOD"
TICK: dict[str, Any] = {
    "event": "tick",
    "symbol": "SPY",
    "price": Decimal("412.5"),
    "average": Decimal("401.256"),
    "position_symbol": "SPXL",
    "position_price": Decimal("150.67"),
    "session": "2019-04-01",
}
ORDER: dict[str, Any] = {
    "event": "order",
    "side": "BUY",
    "quantity": 132,
    "symbol": "SPXL",
    "price": Decimal("150.67"),
    "status": "EXECUTED",
}


def owns_spxl(strategy_name: str, **changes: Any) -> Portfolio:
    figures: dict[str, Any] = {
        "strategy_name": strategy_name,
        "mode": "PAPER",
        "cash": Decimal("111.56"),
        "equity": Decimal("20110.2"),
        "pnl": Decimal("110.2"),
        "halted": False,
        "holdings": (("SPXL", Decimal(132)),),
    }
    return Portfolio(**{**figures, **changes})


def sells_hood(**changes: Any) -> Order:
    figures: dict[str, Any] = {
        "order_id": "1",
        "strategy_name": HOOD,
        "side": "SELL",
        "quantity": Decimal(100),
        "symbol": "HOOD",
        "status": "PENDING",
        "filled": Decimal(0),
        "average_price": Decimal(0),
    }
    return Order(**{**figures, **changes})


CONNECTED = Broker("CONNECTED", "", True, "DU***001", "PAPER", "OK")
AWAY = Broker("CONNECTIVITY_LOST", "It passes by itself.", False, "U***567", "LIVE", "BROKEN")


def shown(board: Board, width: int = 120) -> list[str]:
    console = Console(width=width, no_color=True)
    with console.capture() as captured:
        console.print(render(board, "The headline", ["The footer"]))
    return [" ".join(line.split()) for line in captured.get().splitlines()]


def test_before_any_news_every_strategy_has_a_line() -> None:
    lines = shown(Board.of([SPXL, HOOD]))

    assert lines[0] == "The headline"
    assert "Strategy Follows Session Price Average Holds Cash Equity P&L" in lines
    assert {"SPXL", "HOOD"} <= set(lines)
    assert lines[-1] == "The footer"


def test_a_line_shows_price_average_position_cash_equity_and_profit() -> None:
    board = Board.of([SPXL]).with_event(SPXL, TICK).with_portfolio(owns_spxl(SPXL))

    assert "SPXL SPY 2019-04-01 412.50 401.26 132 SPXL 111.56 20,110.20 +110.20" in shown(board)


def test_a_strategy_without_a_position_holds_cash() -> None:
    board = Board.of([SPXL]).with_portfolio(owns_spxl(SPXL, holdings=(), pnl=Decimal(-5)))

    assert "SPXL cash 111.56 20,110.20 -5.00" in shown(board)


def test_the_last_line_sums_up() -> None:
    board = Board.of([SPXL, HOOD]).with_portfolio(owns_spxl(SPXL)).with_portfolio(owns_spxl(HOOD))

    assert "All 223.12 40,220.40 +220.40" in shown(board)


def test_halted_live_and_troubled_strategies_are_marked() -> None:
    board = (
        Board.of([SPXL])
        .with_portfolio(owns_spxl(SPXL, mode="LIVE", halted=True))
        .with_event(SPXL, {"event": "router_lost"})
    )

    assert any(line.startswith("SPXL LIVE HALTED router lost") for line in shown(board))


@pytest.mark.parametrize("event", [TICK, ORDER, {"event": "router_back"}])
def test_trouble_is_over_when_a_strategy_works_again(event: dict[str, Any]) -> None:
    board = Board.of([SPXL]).with_event(SPXL, {"event": "router_lost"}).with_event(SPXL, event)

    assert board.rows[SPXL].trouble is None


def test_portfolios_of_strategies_that_run_elsewhere_are_left_out() -> None:
    board = Board.of([SPXL])

    assert board.with_portfolio(owns_spxl("Elsewhere")) == board


def test_an_open_order_stands_beside_what_is_held_until_it_ends() -> None:
    board = Board.of([HOOD]).with_portfolio(owns_spxl(HOOD, holdings=(("HOOD", Decimal(100)),)))

    pending = board.with_order(sells_hood())
    half = pending.with_order(sells_hood(filled=Decimal(40)))
    unknown = half.with_order(sells_hood(status="UNKNOWN"))
    ended = unknown.with_order(sells_hood(status="EXECUTED"))

    assert any("100 HOOD, SELL 100 HOOD PENDING" in line for line in shown(pending))
    assert any("100 HOOD, SELL 60 HOOD PENDING" in line for line in shown(half))
    assert any("100 HOOD, SELL 100 HOOD UNKNOWN" in line for line in shown(unknown))
    assert ended == board


def test_orders_of_strategies_that_run_elsewhere_are_left_out() -> None:
    board = Board.of([SPXL])

    assert board.with_order(sells_hood()) == board


def test_the_broker_is_a_line_above_the_table_and_red_when_it_takes_no_orders() -> None:
    board = Board.of([SPXL])

    assert not any("Broker" in line for line in shown(board))
    assert shown(board.with_broker(CONNECTED))[1] == (
        "Broker: CONNECTED, account DU***001 (the broker's paper money)"
    )
    assert shown(board.with_broker(AWAY), width=160)[1] == (
        "Broker: CONNECTIVITY LOST, account U***567 (REAL MONEY), no new orders are taken, "
        "prices broken: It passes by itself."
    )
    assert weather(CONNECTED).style == "green"
    assert weather(AWAY).style == "bold red"


def test_a_change_of_the_brokers_state_is_a_note_and_its_repetition_is_none() -> None:
    assert note_of_broker(None, AWAY) is not None
    assert note_of_broker(AWAY, AWAY) is None
    assert note_of_broker(AWAY, CONNECTED) == (
        "The broker: CONNECTED, account DU***001 (the broker's paper money)"
    )


@pytest.mark.parametrize(
    ("order", "note"),
    [
        (sells_hood(), None),
        (
            sells_hood(filled=Decimal(40), average_price=Decimal("10.125")),
            "HOOD: SELL 100 HOOD: PENDING, 40 filled at 10.12",
        ),
        (
            sells_hood(status="EXECUTED", filled=Decimal(100), average_price=Decimal("10.5")),
            "HOOD: SELL 100 HOOD: EXECUTED, 100 filled at 10.50",
        ),
        (
            sells_hood(status="REJECTED", reason="201: no margin"),
            "HOOD: SELL 100 HOOD: REJECTED (201: no margin)",
        ),
        (
            sells_hood(status="UNKNOWN", reason="The broker is silent."),
            "HOOD: SELL 100 HOOD: UNKNOWN (The broker is silent.)",
        ),
    ],
)
def test_what_becomes_of_a_live_order_is_a_note(order: Order, note: str | None) -> None:
    assert note_of_order(order) == note


def test_only_the_last_notes_are_kept() -> None:
    board = Board.of([SPXL])
    for number in range(KEPT_NOTES + 5):
        board = board.with_note(f"note {number}")

    assert board.notes[0] == "note 5"
    assert f"note {KEPT_NOTES + 4}" in shown(board)


@pytest.mark.parametrize(
    ("event", "note"),
    [
        (ORDER, "SPXL: BUY 132 SPXL at 150.67: EXECUTED"),
        ({"event": "idle", "reason": "it is closed"}, "SPXL: waits, it is closed"),
        ({"event": "error", "error": "no price of SPXL"}, "SPXL: no price of SPXL"),
        ({"event": "router_lost"}, "SPXL: the router does not answer; trying on"),
        (
            {"event": "router_lost", "reason": "CREDENTIALS_INVALID"},
            "SPXL: the router says CREDENTIALS_INVALID; trying on",
        ),
        ({"event": "router_back"}, "SPXL: the router answers again"),
        (TICK, None),
        ({"event": "started"}, None),
        ({}, None),
    ],
)  # fmt: skip
def test_what_people_should_know_becomes_a_note(event: dict[str, Any], note: str | None) -> None:
    assert note_of(SPXL, event) == note


def test_the_view_fits_a_narrow_terminal_without_an_error() -> None:
    board = Board.of([SPXL]).with_event(SPXL, TICK).with_portfolio(owns_spxl(SPXL))

    assert all(len(line) <= 60 for line in shown(board.with_note("long " * 50), width=60))

"""The figures hold the very numbers that they were given, and stay readable when these are many."""

import json
import math
from collections.abc import Sequence
from datetime import date
from random import Random
from typing import Any

import plotly.graph_objects as go  # type: ignore[import-untyped] # it ships none
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.portfolio.domain.capital import RiskReturn
from services.portfolio.pictures.figures import (
    MOST_DRAWN,
    MOST_NAMED,
    MOST_POINTS,
    WHOLE,
    Curve,
    Dot,
    Figure,
    Spec,
    Weights,
    drawdowns,
    equity,
    frontier,
    shares,
    thinned,
    weights,
)
from services.portfolio.pictures.pages import Kind, page
from tests.ledger.amounts import PROPERTY
from tests.pictures.samples import CURVE, DOTS, NAMES, NOW, PROPOSED, history, walk, week


def test_the_frontier_holds_the_numbers_it_was_given() -> None:
    dots, line, way, now, proposed = frontier(DOTS, CURVE, NOW, PROPOSED).traces

    shown = {row[0]: (x, y, *row[2:]) for row, x, y in zip(*_of(dots), strict=True)}
    assert shown == {
        dot.name: (
            dot.own.volatility,
            dot.own.expected_return,
            dot.weight_now,
            dot.weight_proposed,
        )
        for dot in DOTS
    }
    assert _points(line) == CURVE
    assert _points(now) == [NOW]
    assert _points(proposed) == [PROPOSED]
    assert _points(way) == [NOW, PROPOSED]
    assert now["marker"]["symbol"] != proposed["marker"]["symbol"]


def test_dots_are_named_without_what_all_names_begin_with() -> None:
    dots = frontier(DOTS, CURVE, NOW, PROPOSED).traces[0]
    assert sorted(dots["text"]) == sorted(name.removeprefix("Leverage_") for name in NAMES)
    assert {row[0] for row in dots["customdata"]} == set(NAMES)


def test_the_names_of_two_dots_side_by_side_stand_apart() -> None:
    near = [
        Dot(name, RiskReturn(0.2, 0.1 + i / 1000), 0.5, 0.5) for i, name in enumerate(("A", "B"))
    ]
    figure = frontier(near, [RiskReturn(0.1, 0.0), RiskReturn(0.4, 0.3)], None, None)
    for shown in (figure.traces[0], figure.narrow):
        assert sorted(shown["text"]) == ["A", "B"]
        assert len(set(shown["textposition"])) == 2


def test_of_a_thousand_dots_the_largest_are_named_and_the_rest_counted() -> None:
    rng = Random(1)
    many = [
        Dot(f"S{i:04}", RiskReturn(rng.uniform(0.05, 0.5), rng.gauss(0.1, 0.2)), 0.0, i / 499500)
        for i in range(1000)
    ]
    figure = frontier(many, CURVE, NOW, PROPOSED)
    named = {text for text in figure.traces[0]["text"] if text}
    assert 10 < len(named) <= MOST_NAMED
    assert named <= {f"S{i:04}" for i in range(1000 - MOST_NAMED, 1000)}
    assert figure.note.startswith(f"{len(named)} of 1,000 dots are named")


def test_a_strategy_that_never_traded_is_a_dot_without_a_sharpe_ratio() -> None:
    figure = frontier([Dot("Idle", RiskReturn(0.0, 0.0), 1.0, 1.0)], [], RiskReturn(0.0, 0.0), None)
    assert figure.traces[0]["customdata"] == [["Idle", "not defined", 1.0, 1.0]]
    _check(figure)


def test_the_curves_hold_the_growth_and_the_drawdowns_at_each_close() -> None:
    sessions = week(5)
    whole = Curve(WHOLE, sessions, [1.1, 1.2, 0.9, 1.5, 1.2], 1.0)
    one = Curve("Momentum", sessions, [0.8, 1.0, 1.25, 1.0, 1.25], 0.6)
    growth_of_one, growth_of_whole, fall_of_one, fall_of_whole = equity(whole, [one]).traces

    assert growth_of_one["y"] == [0.8, 1.0, 1.25, 1.0, 1.25]
    assert growth_of_whole["y"] == [1.1, 1.2, 0.9, 1.5, 1.2]
    assert fall_of_one["y"] == pytest.approx([-0.2, 0, 0, -0.2, 0])
    assert fall_of_whole["y"] == pytest.approx([0, 0, -0.25, 0, -0.2])
    for trace in (growth_of_one, growth_of_whole, fall_of_one, fall_of_whole):
        assert trace["x"] == [day.isoformat() for day in sessions]
    assert {trace.get("yaxis", "y") for trace in (growth_of_one, growth_of_whole)} == {"y"}
    assert {trace["yaxis"] for trace in (fall_of_one, fall_of_whole)} == {"y2"}


def test_of_a_thousand_strategies_the_whole_and_the_largest_are_drawn() -> None:
    sessions = week(1260)
    many = [Curve(f"S{i:04}", sessions, walk(i, 1260), i / 499500) for i in range(1000)]
    figure = equity(Curve(WHOLE, sessions, walk(-1, 1260), 1.0), many)

    drawn = [trace["meta"][0] for trace in figure.traces[: len(figure.traces) // 2]]
    assert drawn == [*(f"S{i:04}" for i in range(1000 - MOST_DRAWN, 1000)), WHOLE]
    looks = {json.dumps(trace["line"]) for trace in figure.traces}
    assert len(looks) == len(drawn), "two of them look the same"
    assert "12 largest of 1,000 strategies; the other 988 are left out" in figure.note
    assert len(page(Kind.EQUITY, figure, "Equity", "")) < 600_000


def test_a_long_history_keeps_its_highs_and_lows_in_both_parts() -> None:
    growth = walk(7, 8000)
    figure = equity(Curve(WHOLE, week(8000), growth, 1.0), [])
    upper, lower = figure.traces
    assert len(upper["x"]) <= MOST_POINTS
    assert (min(upper["y"]), max(upper["y"])) == (min(growth), max(growth))
    assert min(lower["y"]) == min(drawdowns(growth))
    assert upper["y"][-1] == growth[-1]


def test_growth_over_a_wide_range_is_drawn_to_a_logarithmic_scale_but_a_ruin_is_not() -> None:
    sessions = week(3)
    wide = equity(Curve(WHOLE, sessions, [1.0, 4.0, 20.0], 1.0), [])
    ruin = equity(Curve(WHOLE, sessions, [1.0, 20.0, 0.0], 1.0), [])
    assert wide.layout["yaxis"]["type"] == "log"
    assert "log scale" in wide.layout["yaxis"]["title"]["text"]
    assert ruin.layout["yaxis"].get("type") != "log"
    assert ruin.traces[1]["y"][-1] == -1


def test_the_weights_hold_each_share_and_the_rest() -> None:
    days = [
        Weights(date(2026, 1, 5), {"A": 0.5, "B": 0.3}, 0.2),
        Weights(date(2026, 1, 6), {"B": 0.9}, 0.1),
    ]
    a, b, rest = weights(days, 3).traces
    assert [trace["name"] for trace in (a, b, rest)] == ["A", "B", "3 others"]
    assert (rest["y"], a["y"], b["y"]) == ([0.2, 0.1], [0.5, 0.0], [0.3, 0.9])
    assert a["x"] == ["2026-01-05", "2026-01-06"]


def test_shares_carry_an_equity_over_missing_closes_and_the_rest_is_others() -> None:
    monday, tuesday, wednesday = week(3)
    days = shares(
        {"A": {monday: 50.0, wednesday: 75.0}, "B": {tuesday: 30.0}},
        {monday: 100.0, tuesday: 160.0, wednesday: 120.0},
    )
    assert days == [
        Weights(monday, {"A": 0.5, "B": 0.0}, 0.5),
        Weights(tuesday, {"A": 0.3125, "B": 0.1875}, 0.5),
        Weights(wednesday, {"A": 0.625, "B": 0.25}, 0.125),
    ]
    assert shares({"A": {monday: 0.0}}, {}) == []
    assert shares({"A": {monday: 40.0}}, {}) == [Weights(monday, {"A": 1.0}, 0.0)]


def test_the_weights_of_a_thousand_strategies_still_sum_to_one_on_each_day() -> None:
    traces = weights(history(1000, 1260)).traces
    assert len(traces) == MOST_DRAWN + 1
    assert traces[-1]["name"] == "988 others"
    assert len(traces[0]["x"]) <= MOST_POINTS
    for parts in zip(*(trace["y"] for trace in traces), strict=True):
        assert math.fsum(parts) == pytest.approx(1)


def test_the_first_close_alone_can_be_seen() -> None:
    only = week(1)
    curves = equity(Curve(WHOLE, only, [1.01], 1.0), [])
    shares = weights([Weights(only[0], {"A": 0.7}, 0.3)])
    assert {trace["mode"] for trace in curves.traces} == {"markers"}
    assert {trace["type"] for trace in shares.traces} == {"bar"}
    for figure in (curves, shares):
        _check(figure)


@pytest.mark.parametrize(
    "figure",
    [
        frontier([], [], None, None),
        equity(None, []),
        equity(Curve(WHOLE, [], [], 1.0), []),
        weights([]),
    ],
)
def test_without_history_nothing_is_drawn(figure: Figure) -> None:
    assert not figure.traces


@pytest.mark.parametrize("strategies", [1, 5, 20])
def test_plotly_knows_every_attribute_of_every_figure(strategies: int) -> None:
    sessions = week(40)
    curves = [Curve(f"S_{i}", sessions, walk(i, 40), 1 / strategies) for i in range(strategies)]
    _check(frontier(DOTS[:strategies], CURVE, NOW, PROPOSED))
    _check(equity(Curve(WHOLE, sessions, walk(-1, 40), 1.0), curves))
    _check(weights(history(strategies, 40)))


@PROPERTY
@given(st.lists(st.floats(-1e6, 1e6), max_size=300), st.integers(4, 60))
def test_thinning_keeps_the_ends_the_extremes_and_the_order(values: list[float], most: int) -> None:
    kept = thinned(values, most)
    assert kept == sorted(set(kept))
    assert len(kept) <= max(most, 0)
    if values:
        assert (kept[0], kept[-1]) == (0, len(values) - 1)
        assert min(values) == min(values[i] for i in kept)
        assert max(values) == max(values[i] for i in kept)
    if len(values) <= most:
        assert kept == list(range(len(values)))


def _of(dots: Spec) -> tuple[Any, Any, Any]:
    return dots["customdata"], dots["x"], dots["y"]


def _points(trace: Spec) -> Sequence[RiskReturn]:
    return [RiskReturn(x, y) for x, y in zip(trace["x"], trace["y"], strict=True)]


def _check(figure: Figure) -> None:
    """Plotly's own schema takes the figure, once each role has a colour."""
    text = json.dumps({"data": figure.traces, "layout": figure.layout}, allow_nan=False)
    for role in ("ink", "muted", "grid", "paper", "others"):
        text = text.replace(f'"{role}"', '"#123456"')
    go.Figure(json.loads(text))

"""The figures: what plotly.js draws, made from plain values by pure functions.

A figure is a specification in plain dicts and lists, so that drawing costs the router no library.
Colours that differ between a light and a dark page are given by their role ("ink"), and the page
puts in the colour. Names come from users: `literal` keeps plotly.js from reading them as markup.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from itertools import accumulate
from typing import Any, TypeVar

from services.portfolio.domain.capital import RiskReturn

Item = TypeVar("Item")
Spec = dict[str, Any]  # as plotly.js takes it

WHOLE = "All strategies"
MOST_DRAWN = 12  # strategies with a line or an area of their own: what the colours tell apart
MOST_POINTS = 500  # of one line: more than two a pixel column show nothing more
MOST_NAMED = 30  # dots with their name beside them
MANY_DOTS = 100  # more are drawn smaller, and let each other shine through

# Okabe and Ito's colours that can be told apart by the colour-blind, on white and on black.
HUES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
BLUE, VERMILLION, *_ = HUES
DASHES = ("solid", "dash")  # for the first six and the second six
PATTERNS = ("", "/")


@dataclass(frozen=True, slots=True)
class Dot:
    """A strategy in the frontier's plane, and its share of the whole, 0 to 1."""

    name: str
    own: RiskReturn
    weight_now: float
    weight_proposed: float


@dataclass(frozen=True, slots=True)
class Curve:
    """What 1 USD put in at the beginning has become, at the close of each session.

    Time-weighted, so that deposits and transfers do not show. `weight` is today's share of the
    whole, 0 to 1, and says which curves are drawn when there are many.
    """

    name: str
    sessions: Sequence[date]
    growth: Sequence[float]
    weight: float


@dataclass(frozen=True, slots=True)
class Weights:
    """The share of the whole that each strategy had at a close, 0 to 1.

    `rest` is the share of strategies that are not named. All shares together are 1.
    """

    session: date
    strategies: Mapping[str, float]
    rest: float


@dataclass(frozen=True, slots=True)
class Figure:
    """What to draw: plotly.js's traces and layout, and a note on what is not drawn.

    `narrow` replaces attributes of the first trace where the page is as narrow as a phone.
    """

    traces: Sequence[Spec]
    layout: Spec
    note: str = ""
    narrow: Spec = field(default_factory=dict)


def frontier(
    strategies: Sequence[Dot],
    curve: Sequence[RiskReturn],
    now: RiskReturn | None,
    proposed: RiskReturn | None,
) -> Figure:
    """Expected return against volatility: strategies, frontier, the portfolio now and proposed.

    Where names would cover each other, those of the largest strategies are shown; to point at a
    dot gives its name and figures.
    """
    dots = sorted(strategies, key=lambda dot: -max(dot.weight_now, dot.weight_proposed))
    traces = [_dots(dots)] if dots else []
    if curve:
        traces.append(_line_of(curve))
    if now and proposed:
        traces.append(_way(now, proposed))
    if now:
        traces.append(_mark("Portfolio now", now, "diamond-open", "ink"))
    if proposed:
        traces.append(_mark("Portfolio proposed", proposed, "star", VERMILLION))
    layout = _layout(
        xaxis=_axis("Volatility, % a year", tickformat=_PERCENT, rangemode="tozero"),
        yaxis=_axis("Expected return, % a year", tickformat=_PERCENT, zeroline=True),
        hovermode="closest",
    )
    layout["legend"]["itemsizing"] = "trace"
    points = [*curve, *(point for point in (now, proposed) if point)]
    wide, narrow = (_labels(dots, points, room) for room in (_WIDE, _NARROW))
    if dots:
        traces[0].update(wide)
    named = sum(bool(text) for text in wide["text"])
    note = (
        f"{named} of {len(dots):,} dots are named: the largest strategies, as far as there is "
        "room. Point at a dot to read its name."
    )
    return Figure(traces, layout, note if named < len(dots) else "", narrow if dots else {})


def equity(whole: Curve | None, strategies: Sequence[Curve]) -> Figure:
    """Growth of 1 USD, and below it how far it is under its highest until then.

    The whole and the largest strategies are drawn. Long histories are thinned out to what a screen
    can show; every high and low stays.
    """
    begun = [curve for curve in strategies if curve.growth]
    drawn = _largest(begun, lambda curve: curve.weight, lambda curve: curve.name)
    lines = [(curve, _line(place)) for place, curve in enumerate(drawn)]
    if whole and whole.growth:
        lines.append((whole, {"color": "ink", "width": 2.5}))
    label = _labeller(curve.name for curve in drawn)
    traces = [_growth(curve, label(curve.name), line) for curve, line in lines]
    traces += [_drawdown(curve, label(curve.name), line) for curve, line in lines]
    highest = max((max(curve.growth) for curve, _ in lines), default=1)
    lowest = min((min(curve.growth) for curve, _ in lines), default=1)
    deepest = min((min(drawdowns(curve.growth)) for curve, _ in lines), default=0) or -0.01
    is_wide = lowest > 0 and highest > 8 * lowest
    layout = _layout(
        xaxis=_time([day for curve, _ in lines for day in curve.sessions], anchor="y2"),
        yaxis=_axis(
            "Growth of 1 USD" + (" (log scale)" if is_wide else ""),
            **(_LOG if is_wide else {}),
            domain=[0.38, 1],
        ),
        yaxis2=_axis(
            "Below its high, %",
            tickformat=_PERCENT,
            domain=[0, 0.32],
            range=[1.08 * deepest, -0.04 * deepest],
            anchor="x",
        ),
        hovermode="closest",
    )
    return Figure(traces, layout, _left_out(len(drawn), len(begun)))


def weights(history: Sequence[Weights], unnamed: int = 0) -> Figure:
    """Shares of the whole over time, stacked: the largest strategies, and all others.

    Largest are those of the last session; `unnamed` is how many the history does not name. Long
    histories are thinned out to what a screen can show.
    """
    highest = [max(day.strategies.values(), default=0.0) for day in history]
    kept = [history[i] for i in thinned(highest, MOST_POINTS)]
    last = kept[-1].strategies if kept else {}
    names = {name for day in kept for name in day.strategies}
    drawn = _largest(sorted(names), lambda name: last.get(name, 0.0), str)
    label = _labeller(drawn)
    traces: list[Spec] = []
    for place, name in enumerate(drawn):
        shares = [day.strategies.get(name, 0.0) for day in kept]
        hue, pattern = HUES[place % len(HUES)], PATTERNS[place // len(HUES)]
        traces.append(_area(kept, label(name), shares, hue, pattern))
    others = len(names) - len(drawn) + unnamed
    if kept and others:
        rest = names.difference(drawn)
        shares = [day.rest + sum(day.strategies.get(name, 0.0) for name in rest) for day in kept]
        traces.append(_area(kept, f"{others:,} others", shares, "others", ""))
    layout = _layout(
        xaxis=_time([day.session for day in kept]),
        yaxis=_axis("Share of the whole, %", tickformat=_PERCENT, range=[0, 1]),
        hovermode="x unified",
        showlegend=True,  # of a single strategy too
    )
    layout["legend"]["traceorder"] = "reversed"
    return Figure(traces, layout)


def shares(
    equity_at: Mapping[str, Mapping[date, float]], whole_at: Mapping[date, float]
) -> list[Weights]:
    """Each strategy's share of the whole at each session, from equity in USD at closes.

    A session that a strategy has no close of (it was down) has its last equity. What the whole has
    beyond these strategies is the rest. Sessions at which nobody had anything are left out.
    """
    days, held = [], dict.fromkeys(equity_at, 0.0)
    for session in sorted({*whole_at, *(day for closes in equity_at.values() for day in closes)}):
        held |= {name: at[session] for name, at in equity_at.items() if session in at}
        of_strategies = sum(held.values())
        total = max(whole_at.get(session, 0.0), of_strategies)
        if total > 0:
            parts = {name: equity / total for name, equity in held.items()}
            days.append(Weights(session, parts, 1 - of_strategies / total))
    return days


def thinned(values: Sequence[float], most: int) -> list[int]:
    """The places of at most `most` (4 or more) values that draw the same line, in order.

    They are the first, the last, and of each of equal stretches between them the lowest and the
    highest.
    """
    if len(values) <= most:
        return list(range(len(values)))
    inner, stretches = len(values) - 2, (most - 2) // 2
    kept = {0, len(values) - 1}
    for k in range(stretches):
        stretch = range(1 + inner * k // stretches, 1 + inner * (k + 1) // stretches)
        kept |= {min(stretch, key=values.__getitem__), max(stretch, key=values.__getitem__)}
    return sorted(kept)


def literal(name: str) -> str:
    """The text such that plotly.js, which reads some HTML and %{templates}, shows it as it is."""
    escaped = name.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return escaped.replace("%{", "&#37;{")


# ---- The frontier


def _dots(dots: Sequence[Dot]) -> Spec:
    return {
        "type": "scatter",
        "mode": "markers+text",
        "name": "Strategies",
        "x": [dot.own.volatility for dot in dots],
        "y": [dot.own.expected_return for dot in dots],
        "customdata": [
            [literal(dot.name), _sharpe(dot.own), dot.weight_now, dot.weight_proposed]
            for dot in dots
        ],
        "hovertemplate": "<b>%{customdata[0]}</b><br>Expected return %{y:.2%}<br>"
        "Volatility %{x:.2%}<br>Sharpe ratio %{customdata[1]}<br>"
        "Weight now %{customdata[2]:.1%}, proposed %{customdata[3]:.1%}<extra></extra>",
        "marker": {"color": BLUE, **_DOT[len(dots) > MANY_DOTS]},
        "textfont": {"color": "ink", "size": 12},
        "cliponaxis": False,
    }


_DOT = ({"size": 9, "opacity": 1}, {"size": 5, "opacity": 0.6})  # of few, of many


def _line_of(curve: Sequence[RiskReturn]) -> Spec:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "Efficient frontier",
        "x": [point.volatility for point in curve],
        "y": [point.expected_return for point in curve],
        "customdata": [_sharpe(point) for point in curve],
        "hovertemplate": _HOVER.format("Efficient frontier"),
        "line": {"color": "#009E73", "width": 3},
    }


def _mark(name: str, point: RiskReturn, symbol: str, color: str) -> Spec:
    border = {"width": 2.5} if symbol.endswith("open") else {"width": 1, "color": "paper"}
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [point.volatility],
        "y": [point.expected_return],
        "customdata": [_sharpe(point)],
        "hovertemplate": _HOVER.format(name),
        "marker": {
            "color": color,
            "size": 18 if symbol == "star" else 15,
            "symbol": symbol,
            "line": border,
        },
        "cliponaxis": False,
    }


def _way(now: RiskReturn, proposed: RiskReturn) -> Spec:
    """The move that is proposed, as a dotted line."""
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [now.volatility, proposed.volatility],
        "y": [now.expected_return, proposed.expected_return],
        "line": {"color": "muted", "width": 1.5, "dash": "dot"},
        "hoverinfo": "skip",
        "showlegend": False,
    }


_HOVER = (
    "<b>{}</b><br>Expected return %{{y:.2%}}<br>Volatility %{{x:.2%}}<br>"
    "Sharpe ratio %{{customdata}}<extra></extra>"
)


def _sharpe(point: RiskReturn) -> str:
    """The Sharpe ratio for a reader, at a risk-free rate of 0."""
    return (
        f"{point.expected_return / point.volatility:.2f}" if point.volatility > 0 else "not defined"
    )


# What a plot has for its dots and names, in pixels: (width, height).
_WIDE = (1000, 520)
_NARROW = (300, 420)
_LETTER = (7.0, 15.0)  # of 12 px
# Where a name may stand, in the order of preference: plotly.js's word, and the shift of the name's
# middle from the dot's, in halves of the name's size and in pixels.
_PLACES = (
    ("middle right", 1, 0, 9, 0),
    ("middle left", -1, 0, -9, 0),
    ("top center", 0, 1, 0, 6),
    ("bottom center", 0, -1, 0, -6),
    ("top right", 1, 1, 4, 4),
    ("top left", -1, 1, -4, 4),
    ("bottom right", 1, -1, 4, -4),
    ("bottom left", -1, -1, -4, -4),
)
_Box = tuple[float, float, float, float]  # left, right, bottom, top


def _labels(dots: Sequence[Dot], others: Sequence[RiskReturn], room: tuple[int, int]) -> Spec:
    """The names beside the largest dots, where they cover none of these, no line and no name."""
    scaled = _scale([*(dot.own for dot in dots), *others], room)
    named = min(MOST_NAMED, len(dots))
    taken = [_box(x, y, 10, 10) for x, y in scaled[:named] + scaled[len(dots) :]]
    label = _labeller(dot.name for dot in dots)
    texts, positions = [""] * len(dots), ["middle right"] * len(dots)
    for i, dot in enumerate(dots[:named]):
        text = label(dot.name)
        width, height = _LETTER[0] * len(text), _LETTER[1]
        for position, right, up, dx, dy in _PLACES:
            x = scaled[i][0] + right * width / 2 + dx
            y = scaled[i][1] + up * height / 2 + dy
            box = _box(x, y, width, height)
            if box[0] >= 0 and box[1] <= room[0] and not any(_cover(box, one) for one in taken):
                texts[i], positions[i] = literal(text), position
                taken.append(box)
                break
    return {"text": texts, "textposition": positions}


def _scale(points: Sequence[RiskReturn], room: tuple[int, int]) -> list[tuple[float, float]]:
    """About where plotly.js draws these, in pixels from the lower left corner."""
    highest = max((point.expected_return for point in points), default=0.0)
    lowest = min((point.expected_return for point in points), default=0.0)
    width = max((point.volatility for point in points), default=0.0) * 1.08 or 1.0
    height = (highest - lowest) * 1.15 or 1.0
    middle = (highest + lowest) / 2
    return [
        (
            point.volatility / width * room[0],
            ((point.expected_return - middle) / height + 0.5) * room[1],
        )
        for point in points
    ]


def _box(x: float, y: float, width: float, height: float) -> _Box:
    return x - width / 2, x + width / 2, y - height / 2, y + height / 2


def _cover(a: _Box, b: _Box) -> bool:
    return a[0] < b[1] and b[0] < a[1] and a[2] < b[3] and b[2] < a[3]


# ---- Equity


def _growth(curve: Curve, label: str, line: Spec) -> Spec:
    return _history(curve, curve.growth, label, line) | {
        "hovertemplate": _ON + "%{y:.4f} USD<extra></extra>"
    }


def _drawdown(curve: Curve, label: str, line: Spec) -> Spec:
    return _history(curve, drawdowns(curve.growth), label, line) | {
        "hovertemplate": _ON + "%{y:.2%}<extra></extra>",
        "yaxis": "y2",
        "showlegend": False,
    }


_ON = "<b>%{meta[0]}</b><br>%{x|%d %b %Y}: "


def drawdowns(growth: Sequence[float]) -> list[float]:
    """How far each value is from the highest until then, and from 1: 0 to -1."""
    highs = list(accumulate(growth, max, initial=1.0))[1:]
    return [value / high - 1 for value, high in zip(growth, highs, strict=True)]


def _history(curve: Curve, values: Sequence[float], label: str, line: Spec) -> Spec:
    kept = thinned(values, MOST_POINTS)
    return {
        "type": "scatter",
        "mode": "lines" if len(kept) > 1 else "markers",
        "name": literal(label),
        "meta": [literal(curve.name)],
        "legendgroup": curve.name,
        "legendrank": 1 if line["color"] == "ink" else 2,
        "x": [curve.sessions[i].isoformat() for i in kept],
        "y": [values[i] for i in kept],
        "line": line,
        "marker": {"color": line["color"]},
    }


def _line(place: int) -> Spec:
    """How the strategy at this place among those drawn looks."""
    dash = DASHES[place // len(HUES)]
    return {"color": HUES[place % len(HUES)], "width": 1.5, "dash": dash}


def _left_out(drawn: int, of: int) -> str:
    if drawn == of:
        return ""
    return (
        f"Drawn are the whole and the {drawn} largest of {of:,} strategies; the other "
        f"{of - drawn:,} are left out here and counted in the whole."
    )


# ---- Weights


def _area(
    days: Sequence[Weights], label: str, shares: Sequence[float], color: str, pattern: str
) -> Spec:
    trace: Spec = {
        "name": literal(label),
        "x": [day.session.isoformat() for day in days],
        "y": list(shares),
        "hovertemplate": "%{y:.1%}",
    }
    if len(days) == 1:  # one point has no area
        return trace | {"type": "bar", "width": 0.5 * _DAY_MS, "marker": {"color": color}}
    return trace | {
        "type": "scatter",
        "mode": "lines",
        "stackgroup": "whole",
        "line": {"width": 0.5, "color": "paper"},
        "fillcolor": color,
        "fillpattern": {"shape": pattern, "fgcolor": "paper", "bgcolor": color, "size": 6},
    }


# ---- All


def _largest(
    items: Sequence[Item], size: Callable[[Item], float], name: Callable[[Item], str]
) -> list[Item]:
    """The largest as far as there are colours, by name, so that a colour seldom changes hands."""
    largest = sorted(items, key=lambda item: (-size(item), name(item)))[:MOST_DRAWN]
    return sorted(largest, key=name)


def _labeller(names: Iterable[str]) -> Callable[[str], str]:
    """Shows names without the words before a `_` that all of them begin with."""
    several = list(names)
    first = several[0].split("_")[:-1] if len(several) > 1 else []
    prefix = ""
    for word in first:
        if not all(name.startswith(f"{prefix}{word}_") for name in several):
            break
        prefix += f"{word}_"
    return lambda name: name.removeprefix(prefix)


def _layout(**axes: Any) -> Spec:
    return {
        "barmode": "stack",
        "font": {"color": "ink", "size": 13, "family": _FONT},
        "paper_bgcolor": "paper",
        "plot_bgcolor": "paper",
        "margin": {"l": 64, "r": 16, "t": 36, "b": 28},
        "legend": {"itemsizing": "constant", "tracegroupgap": 0},
        "hoverlabel": {
            "bgcolor": "paper",
            "bordercolor": "grid",
            "font": {"color": "ink", "family": _FONT},
        },
        **axes,
    }


def _axis(title: str, **more: Any) -> Spec:
    return {
        "title": {"text": title, "standoff": 12, "font": {"color": "muted", "size": 13}},
        "gridcolor": "grid",
        "zerolinecolor": "muted",
        "linecolor": "grid",
        "zeroline": False,
        "automargin": True,
        **more,
    }


def _time(sessions: Collection[date], **more: Any) -> Spec:
    """The axis of sessions; where they are few, each day has its tick."""
    axis = _axis("", type="date", **more)
    if sessions and (last := max(sessions)) - (first := min(sessions)) < timedelta(days=10):
        day = timedelta(days=1)
        axis["range"] = [(first - day).isoformat(), (last + day).isoformat()]
        axis |= {"dtick": _DAY_MS, "tickformat": "%-d %b<br>%Y"}
    return axis


_FONT = "system-ui, sans-serif"
_DAY_MS = 86_400_000
_PERCENT = ".2~%"  # as few decimals as the ticks need
_LOG: Spec = {"type": "log", "dtick": "D2", "minorloglabels": "complete"}  # 1, 2, 5, 10

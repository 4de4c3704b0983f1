"""The gallery: each page drawn from what the router knows at this moment."""

import asyncio
from collections.abc import Mapping, Sequence

from services.portfolio.allocation.ports import AllocationReads
from services.portfolio.domain.capital import RESERVE, Plan
from services.portfolio.history.history import History
from services.portfolio.history.ports import Close
from services.portfolio.pictures.figures import (
    MOST_DRAWN,
    WHOLE,
    Curve,
    Dot,
    Figure,
    equity,
    frontier,
    shares,
    weights,
)
from services.portfolio.pictures.pages import NAMES, SHOWS, Kind, page, said_of_plan
from services.portfolio.ports import Reads

NO_PLAN = "No plan has been made yet: POST /allocation:plan makes one, and moves nothing."


class Gallery:
    """Draws the pages."""

    def __init__(self, reads: Reads, history: History, plans: AllocationReads) -> None:
        self._reads = reads
        self._history = history
        self._plans = plans

    async def page(self, kind: Kind) -> bytes:
        """The page as HTML. Drawing is done beside the event loop: it may take 0.1 s."""
        if kind is Kind.FRONTIER:
            plans = await self._plans.plans(None, 1)
            return await asyncio.to_thread(_frontier_page, plans[0] if plans else None)
        whole = await self._history.closes("", None, None, None)
        closes, others, held = await self._largest()
        if kind is Kind.EQUITY:
            return await asyncio.to_thread(_equity_page, whole, closes, others, held)
        return await asyncio.to_thread(_weights_page, whole, closes, others)

    async def _largest(self) -> tuple[dict[str, Sequence[Close]], int, dict[str, float]]:
        """The closes of the strategies that are drawn, how many are not, and their weights."""
        portfolios = sorted(await self._reads.portfolios(), key=lambda p: -p.equity)
        drawn = portfolios[:MOST_DRAWN]
        closes: dict[str, Sequence[Close]] = {
            p.strategy_name: await self._history.closes(p.strategy_name, None, None, None)
            for p in drawn
        }
        held = {p.strategy_name: float(p.weight) for p in drawn}
        return closes, len(portfolios) - len(drawn), held


def _frontier_page(plan: Plan | None) -> bytes:
    if plan is None:
        return _page(Kind.FRONTIER, frontier([], [], None, None), NO_PLAN)
    dots = [
        Dot(row.strategy_name, row.own, float(row.weight), float(row.target_weight))
        for row in plan.rows
        if row.strategy_name != RESERVE and row.own is not None
    ]
    figure = frontier(dots, plan.frontier, plan.current, plan.proposed)
    said = said_of_plan(plan.method, plan.current, plan.proposed, plan.fallback_reason)
    return _page(Kind.FRONTIER, figure, f"{said} Planned {plan.create_time:%Y-%m-%d %H:%M} UTC.")


def _equity_page(
    whole: Sequence[Close],
    closes: Mapping[str, Sequence[Close]],
    others: int,
    held: Mapping[str, float],
) -> bytes:
    strategies = [_curve(name, of, held[name]) for name, of in closes.items()]
    said = SHOWS[Kind.EQUITY]
    if others:
        said += f" {others:,} smaller strategies are not drawn."
    return _page(Kind.EQUITY, equity(_curve(WHOLE, whole, 1.0), strategies), said)


def _weights_page(
    whole: Sequence[Close], closes: Mapping[str, Sequence[Close]], others: int
) -> bytes:
    whole_at = {close.session: float(close.equity) for close in whole}
    equity_at = {
        name: {close.session: float(close.equity) for close in of} for name, of in closes.items()
    }
    figure = weights(shares(equity_at, whole_at), others)
    return _page(Kind.WEIGHTS, figure, SHOWS[Kind.WEIGHTS])


def _curve(name: str, closes: Sequence[Close], weight: float) -> Curve:
    """A curve of closes, which come newest first."""
    oldest_first = closes[::-1]
    return Curve(
        name,
        [close.session for close in oldest_first],
        [close.growth for close in oldest_first],
        weight,
    )


def _page(kind: Kind, figure: Figure, said: str) -> bytes:
    return page(kind, figure, NAMES[kind], said)

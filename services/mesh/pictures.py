"""`make pictures`: saves what the running mesh knows as pages: frontier, equity, weights.

Each is one file that any browser opens, with nothing else. Exit code 1: nothing answers, or no plan
can be made.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any
from urllib.parse import quote

from services.mesh.access import Access
from services.mesh.asking import ask, show_who_we_are
from services.mesh.errors import MeshError
from services.mesh.settings import read_settings
from services.portfolio.domain.capital import RESERVE, RiskReturn
from services.portfolio.pictures.figures import (
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

PAGE_SIZE = 1000

Answer = Mapping[str, Any]  # a message as JSON


def main() -> None:
    """Saves the pages and prints where."""
    parser = argparse.ArgumentParser(prog="python -m services.mesh.pictures", description=__doc__)
    parser.add_argument("--out", type=Path, help="the folder to save to (DATA_DIR/pictures)")
    asked = parser.parse_args()
    try:
        settings = read_settings()
        folder = asked.out or settings.data_dir / "pictures"
        access = Access(settings)
        show_who_we_are(access)
        for file in save_pictures(access.url, folder):
            print(file)
    except MeshError as error:
        sys.exit(str(error))


def save_pictures(mesh: str, folder: Path) -> list[Path]:
    """Saves a page of each kind, from the mesh at this address, and returns the files.

    Raises:
        MeshError: The mesh does not answer, refuses, or the folder cannot be written to.
    """
    names = [one["strategy_name"] for one in ask(f"{mesh}/portfolio")["portfolios"]]
    closes = {name: _closes(f"{mesh}/portfolio/{name}/equity") for name in names}
    whole = _closes(f"{mesh}/equity")
    made = ask(f"{mesh}/allocation/plans?page_size=1")["plans"]
    plan = made[0] if made else ask(f"{mesh}/allocation:plan", {})
    pictures: dict[Kind, tuple[Figure, str]] = {
        Kind.FRONTIER: (frontier_of(plan), _said(plan)),
        Kind.EQUITY: (equity_of(whole, closes), SHOWS[Kind.EQUITY]),
        Kind.WEIGHTS: (weights_of(whole, closes), SHOWS[Kind.WEIGHTS]),
    }
    files = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for kind, (figure, said) in pictures.items():
            files.append(folder / f"{kind}.html")
            files[-1].write_bytes(page(kind, figure, NAMES[kind], said, standalone=True))
    except OSError as error:
        raise MeshError(f"{folder} cannot be written to ({error}): choose another --out.") from None
    return files


def frontier_of(plan: Answer) -> Figure:
    """The frontier of a Plan."""
    dots = [
        Dot(row["strategy_name"], own, row["weight"], row["target_weight"])
        for row in plan["rows"]
        if row["strategy_name"] != RESERVE and (own := _point(row.get("own")))
    ]
    curve = [point for one in plan["frontier"] if (point := _point(one))]
    return frontier(dots, curve, _point(plan.get("current")), _point(plan.get("proposed")))


def equity_of(whole: Sequence[Answer], closes: Mapping[str, Sequence[Answer]]) -> Figure:
    """The curves of EquityPoints, oldest first."""
    last = {name: points[-1]["equity"] if points else 0.0 for name, points in closes.items()}
    total = sum(last.values()) or 1.0
    strategies = [_curve(name, points, last[name] / total) for name, points in closes.items()]
    return equity(_curve(WHOLE, whole, 1.0), strategies)


def weights_of(whole: Sequence[Answer], closes: Mapping[str, Sequence[Answer]]) -> Figure:
    """The weights of EquityPoints, oldest first."""
    return weights(
        shares({name: _equities(points) for name, points in closes.items()}, _equities(whole))
    )


def _said(plan: Answer) -> str:
    now, proposed = _point(plan.get("current")), _point(plan.get("proposed"))
    return said_of_plan(plan["method"], now, proposed, plan["fallback_reason"])


def _point(one: Answer | None) -> RiskReturn | None:
    return RiskReturn(one["volatility"], one["expected_return"]) if one else None


def _curve(name: str, points: Sequence[Answer], weight: float) -> Curve:
    sessions = [date.fromisoformat(point["session"]) for point in points]
    return Curve(name, sessions, [point["growth"] for point in points], weight)


def _equities(points: Sequence[Answer]) -> dict[date, float]:
    return {date.fromisoformat(point["session"]): point["equity"] for point in points}


def _closes(url: str) -> list[Answer]:
    """All EquityPoints, oldest first."""
    points: list[Answer] = []
    token = ""
    while True:
        answer = ask(f"{url}?page_size={PAGE_SIZE}&page_token={quote(token)}")
        points += answer["points"]
        token = answer["next_page_token"]
        if not token:
            return points[::-1]


if __name__ == "__main__":
    main()

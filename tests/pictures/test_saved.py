"""`python -m services.mesh.pictures` makes files of the messages that the contract promises."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message

from efficientfrontier.v1.allocation_service_pb2 import (
    AllocationPolicy,
    ListPlansResponse,
    Plan,
    RiskReturn,
)
from efficientfrontier.v1.equity_service_pb2 import EquityPoint, ListEquityResponse
from efficientfrontier.v1.portfolio_service_pb2 import ListPortfoliosResponse, Portfolio
from services.mesh.errors import MeshError
from services.mesh.pictures import save_pictures
from services.portfolio.pictures.pages import NOTHING_YET, Kind
from tests.pictures.pages_server import serving

GROWTH = {"": [1.0, 1.05, 1.1], "A": [1.0, 1.1, 1.2], "B": [1.0, 1.0, 1.0]}
EQUITY = {"": [90.0, 95.0, 100.0], "A": [50.0, 55.0, 60.0], "B": [40.0, 40.0, 40.0]}
PLAN = Plan(
    method=AllocationPolicy.MINIMUM_VARIANCE,
    rows=[
        Plan.Row(
            strategy_name="A",
            weight=0.55,
            target_weight=0.4,
            own=RiskReturn(volatility=0.3, expected_return=0.2),
        ),
        Plan.Row(strategy_name="New", weight=0.35, target_weight=0.5),  # no history: no dot
        Plan.Row(strategy_name="RESERVE", weight=0.1, target_weight=0.1),
    ],
    current=RiskReturn(volatility=0.2, expected_return=0.1),
    proposed=RiskReturn(volatility=0.15, expected_return=0.12),
    frontier=[RiskReturn(volatility=0.1, expected_return=0.05)],
)


def test_the_files_show_what_the_mesh_answered_page_by_page(tmp_path: Path) -> None:
    with serving(_mesh) as address:
        files = save_pictures(address, tmp_path / "new" / "folder")
    assert [file.name for file in files] == [f"{kind}.html" for kind in Kind]
    frontier, equity, weights = (_figure(file) for file in files)

    dots, curve, way, now, proposed = frontier
    assert [row[0] for row in dots["customdata"]] == ["A"]
    assert (dots["x"], dots["y"]) == ([0.3], [0.2])
    assert (curve["x"], now["x"], proposed["x"], way["x"]) == ([0.1], [0.2], [0.15], [0.2, 0.15])
    assert b"Method: MINIMUM_VARIANCE. Proposed: 12.0 % expected" in files[0].read_bytes()

    assert [trace["y"] for trace in equity[:3]] == [GROWTH["A"], GROWTH["B"], GROWTH[""]]
    assert equity[0]["x"] == ["2026-01-05", "2026-01-06", "2026-01-07"]

    shown = {trace["name"]: trace["y"] for trace in weights}
    assert shown.keys() == {"A", "B"}
    assert shown["A"] == pytest.approx([50 / 90, 55 / 95, 60 / 100])
    assert b"(the reserve) is left out" in files[2].read_bytes()


def test_a_mesh_without_history_gives_pages_that_say_what_will_appear(tmp_path: Path) -> None:
    empty = {
        "/portfolio": ListPortfoliosResponse(portfolios=[Portfolio(strategy_name="A")]),
        "/allocation/plans": ListPlansResponse(),
        "/allocation:plan": Plan(rows=[Plan.Row(strategy_name="A")]),
    }
    with serving(
        lambda path: _json(empty.get(path.split("?")[0], ListEquityResponse()))
    ) as address:
        files = save_pictures(address, tmp_path)
    for kind, file in zip(Kind, files, strict=True):
        assert NOTHING_YET[kind].split(".")[0] in file.read_text()


def test_a_refusal_is_told_in_the_routers_words(tmp_path: Path) -> None:
    refusal = (503, "application/json", b'{"message": "The database is away."}')
    with serving(lambda _: refusal) as address, pytest.raises(MeshError, match="database is away"):
        save_pictures(address, tmp_path)


def test_the_command_prints_the_files_and_without_a_mesh_what_to_do(tmp_path: Path) -> None:
    with serving(_mesh) as address:
        port = address.rpartition(":")[2]
        ran = _command(port, tmp_path)
        assert ran.returncode == 0, ran.stderr
        assert ran.stdout.split() == [str(tmp_path / f"{kind}.html") for kind in Kind]
    ran = _command(port, tmp_path)
    assert ran.returncode == 1
    assert "run `make up` first" in ran.stderr
    assert "Traceback" not in ran.stderr


def _command(port: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "services.mesh.pictures", "--out", str(folder)],
        env={**os.environ, "PORT": port},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def _mesh(path: str) -> tuple[int, str, bytes]:
    """The router's answers, newest close first, two closes a page."""
    if path == "/portfolio":
        strategies = [Portfolio(strategy_name=name) for name in ("A", "B")]
        return _json(ListPortfoliosResponse(portfolios=strategies))
    where, _, query = path.partition("?")
    if where == "/allocation/plans":
        return _json(ListPlansResponse(plans=[PLAN]))
    name = where.split("/")[2] if where.startswith("/portfolio/") else ""
    points = [
        EquityPoint(session=f"2026-01-0{5 + i}", equity=equity, growth=growth)
        for i, (equity, growth) in enumerate(zip(EQUITY[name], GROWTH[name], strict=True))
    ][::-1]
    if query.endswith("page_token=a/b%2Bc%3D"):
        return _json(ListEquityResponse(points=points[2:]))
    return _json(ListEquityResponse(points=points[:2], next_page_token="a/b+c="))


def _json(message: Message) -> tuple[int, str, bytes]:
    """As Envoy prints it: all fields of a plain type, by their names in the contract."""
    text = MessageToJson(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return 200, "application/json", text.encode()


def _figure(file: Path) -> list[dict[str, Any]]:
    """The traces in a page."""
    _, _, rest = file.read_text().partition('<script type="application/json" id="figure">')
    return list(json.loads(rest.partition("</script>")[0])["traces"])

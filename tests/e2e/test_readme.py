"""README.md is true: what it says a command prints is what the real mesh prints."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.mesh import Mesh

README = (Path(__file__).parents[2] / "README.md").read_text()
VARYING = {"order_id", "create_time", "update_time"}  # other at each run


def without_varying(answer: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in answer.items() if key not in VARYING}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_each_curl_prints_the_very_json_that_the_readme_shows(own_mesh: Mesh) -> None:
    (console,) = blocks("console")
    lines = console.strip().splitlines()
    commands, printed = lines[::2], lines[1::2]
    assert len(commands) == len(printed) == 4
    for command, shown in zip(commands, printed, strict=True):
        line = command.removeprefix("$ ").replace("localhost:8000", own_mesh.grpc_address)
        ran = subprocess.run(
            ["bash", "-c", line], capture_output=True, text=True, timeout=30, check=True
        )
        got, wanted = json.loads(ran.stdout), json.loads(shown)
        assert without_varying(got) == without_varying(wanted), command
        assert list(got) == list(wanted), "the order of the fields"


def test_the_notebook_cell_runs(own_mesh: Mesh) -> None:
    own_mesh.new_strategy()
    (cell,) = (block for block in blocks("python") if "PortfolioClient" in block)
    ran = subprocess.run(
        [sys.executable, "-c", cell.replace("localhost:8000", own_mesh.grpc_address)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "IncredibleLeverage_SPXL 20000.0 False" in ran.stdout


def test_every_path_of_the_table_is_a_path_of_the_contract() -> None:
    contract = "".join(
        path.read_text() for path in (Path(__file__).parents[2] / "protos").rglob("*.proto")
    )
    rows = re.findall(r"^\| ((?:GET|POST|PUT|DELETE) /[^|]*?) \|", README, re.MULTILINE)
    assert len(rows) >= 16
    for row in rows:
        for method, path in re.findall(r"(GET|POST|PUT|DELETE) (/[^ ,]*)", row):
            assert f'{method.lower()}: "{path}"' in contract, row


def test_the_samples_of_the_readme_are_the_ones_that_are_tested() -> None:
    from tests.e2e.test_samples import REQUESTS_SAMPLE, SCHEDULER_SAMPLE  # noqa: PLC0415

    python = blocks("python")
    assert REQUESTS_SAMPLE.strip() in {block.strip() for block in python}
    assert SCHEDULER_SAMPLE.strip() in {block.strip() for block in python}

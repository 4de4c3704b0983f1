"""README is true about LIVE: what it says a command prints is what a rehearsal prints."""

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from services.mesh.envoy import Envoy
from tests.support.gateway import GatewayProcess
from tests.support.router import Router

FOLLOWS_WITHIN_S = 20
README = (Path(__file__).parents[2] / "README.md").read_text()
VARYING = {"order_id", "create_time", "update_time", "since_time", "time", "sender"}


@pytest.fixture
def live_url(database_url: str, tmp_path: Path) -> Iterator[str]:
    """The REST address of a rehearsal in which SPXL costs what it does in README."""
    gateway = GatewayProcess(tmp_path, {"SPXL": Decimal("150.5")})
    settings = gateway.router_settings | {"PROMOTION": "at_once"}
    router = Router(database_url, tmp_path / "router.log", settings)
    envoy = Envoy(0, [router.address], tmp_path / "envoy", tmp_path)
    try:
        gateway.start()
        envoy.start()
        router.start()
        envoy.wait_ready(30)
        yield f"127.0.0.1:{envoy.port}"
    finally:
        envoy.stop()
        router.stop()
        gateway.stop()


def test_a_rehearsal_prints_the_very_json_that_the_readme_shows(live_url: str) -> None:
    (console,) = re.findall(r"```console live\n(.*?)```", README, re.DOTALL)
    lines = console.strip().splitlines()
    order_id = ""
    for command, shown in zip(lines[::2], lines[1::2], strict=True):
        line = command.removeprefix("$ ").replace("localhost:8000", live_url)
        wanted = json.loads(shown)
        got = printed(line, order_id)
        if " -d " not in line:  # a reading: the broker and its fills may take a moment
            give_up = time.monotonic() + FOLLOWS_WITHIN_S
            while without_varying(got) != without_varying(wanted) and time.monotonic() < give_up:
                got = printed(line, order_id)
        assert without_varying(got) == without_varying(wanted), command
        assert list(got) == list(wanted), "the order of the fields"
        order_id = got.get("order_id", order_id)
    assert len(lines) == 8
    assert order_id


def printed(line: str, order_id: str) -> dict[str, Any]:
    """What a command prints."""
    ran = subprocess.run(
        ["bash", "-c", line],
        env={**os.environ, "ORDER_ID": order_id},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    answer: dict[str, Any] = json.loads(ran.stdout)
    return answer


def without_varying(answer: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in answer.items() if key not in VARYING}

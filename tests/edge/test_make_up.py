"""`make up AUTH=...` as a whole: every part shows who it is, and a person is told how to."""

import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mesh.test_mesh import START_S, STOP_S, Up

REHEARSAL = {
    "TRADING_MODE": "LIVE",
    "IBKR_HOST": "simulated",
    "PRICE_FEED": "",
    "INTERVAL_S": "1",
    "STRATEGIES": "SPXL",
}


@pytest.fixture(params=["mtls", "token"])
def up(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Up]:
    """A rehearsal of LIVE: its view tells of orders and of the broker only what the watch hears."""
    one = Up(tmp_path, AUTH=request.param, **REHEARSAL)
    try:
        yield one.started()
    finally:
        one.stop(STOP_S)


def test_every_part_is_let_in_and_the_printed_commands_work(up: Up) -> None:
    up.wait_for_line("The broker: CONNECTED", START_S)
    up.wait_for_line("SPXL: BUY", START_S)
    up.wait_for_line(": EXECUTED, ", START_S)

    said = {line.split()[0]: line.strip() for line in up.output().splitlines() if line[:2] == "  "}
    assert "You are operator/local" in up.output()
    assert '"portfolios"' in shell(said["curl"] + " -s")
    if platform.machine() == "x86_64":  # no other has it from the package registry
        assert "efficientfrontier.v1.OrderService" in shell(said["grpcurl"])
    name, _, value = said["SureshotSDK:"].partition(" ")[2].partition("=")
    asked = "from SureshotSDK import PortfolioClient as P; print(P().audit().balanced)"
    assert python("-c", asked, PORTFOLIO_ADDRESS=f"localhost:{up.port}", **{name: value}) == "True"
    settings = {"PORT": str(up.port), "DATA_DIR": str(up.data_dir), "AUTH": up.environ["AUTH"]}
    assert python("-m", "services.mesh.audit", **settings).endswith("balanced")


def shell(command: str) -> str:
    """What a printed command prints; a program of our own environment is taken from there."""
    program, _, rest = command.partition(" ")
    own = Path(sys.executable).with_name(program)
    line = f"{own if own.exists() else program} {rest}"
    done = subprocess.run(
        ["/bin/sh", "-c", line], capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def python(*words: str, **environ: str) -> str:
    done = subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, **environ},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()

"""`make up` as a whole, with real parts, as a process on a data folder and a port of its own."""

import re
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from services.mesh.ports import free_port
from services.mesh.postgres import EmbeddedPostgres
from services.mesh.settings import STRATEGIES
from tests.support.database import psql
from tests.support.process import Process
from tests.support.waiting import wait_until

START_S = 60
STOP_S = 30


class Up(Process):
    """A running mesh of the test."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.port = int(settings.get("PORT", free_port()))
        self.url = f"http://127.0.0.1:{self.port}"
        self.data_dir = folder / "data"
        given = {
            "PORT": str(self.port),
            "DATA_DIR": str(self.data_dir),
            "DATABASE_URL": "",
            "STRATEGIES": "none",
            "PRICE_FEED": "replay",
            "TRADING_MODE": "PAPER",
            "INTERVAL_S": "0.05",
        }
        command = Process.of_module("services.mesh", log=folder / "up.log").command
        super().__init__("make up", command, folder / "up.log", {**given, **settings})

    def started(self) -> "Up":
        """Starts it, and waits until it says that it is ready."""
        self.start()
        self.wait_for_line("Ready", START_S)
        return self

    def parts(self) -> dict[str, psutil.Process]:
        """Its child processes by what they are, PostgreSQL's own children aside."""
        return {what(part): part for part in psutil.Process(self.pid).children()}

    def family(self) -> list[psutil.Process]:
        """Every process below it."""
        return psutil.Process(self.pid).children(recursive=True)

    def get(self, path: str) -> Any:
        """The JSON that it answers."""
        answer = requests.get(self.url + path, timeout=10)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def serves(self) -> bool:
        """Whether it answers reads of the ledger at this moment."""
        try:
            return requests.get(f"{self.url}/portfolio", timeout=5).status_code == 200
        except requests.ConnectionError:
            return False


def what(part: psutil.Process) -> str:
    command = " ".join(part.cmdline())
    known = {
        "bin/postgres": "PostgreSQL",
        "services.portfolio": "the router",
        "envoy": "Envoy",
        "services.strategy": "a strategy",
        "services.gateway": "the gateway",
    }
    return next(name for mark, name in known.items() if mark in command)


def gone(processes: list[psutil.Process]) -> bool:
    return not any(process.is_running() for process in processes)


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Callable[..., Up]]:
    """Makes meshes: `up(NAME=value, ...)`; whatever happens, they are stopped."""
    with ExitStack() as running:

        def make(**settings: str) -> Up:
            one = Up(tmp_path, **settings)
            running.callback(one.stop, STOP_S)
            return one

        yield make


def refused(mesh: Up) -> str:
    """Starts a mesh that must refuse; its last line, once it has ended without a trace."""
    mesh.start()
    assert mesh.wait(START_S) == 1
    assert "Traceback" not in mesh.output()
    return mesh.last_words()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it_cleanly_and_leaves_no_process(
    up: Callable[..., Up], number: signal.Signals
) -> None:
    mesh = up(STRATEGIES="SPXL,HOOD").started()
    family = mesh.family()
    assert {what(part) for part in psutil.Process(mesh.pid).children()} == {
        "PostgreSQL",
        "the router",
        "Envoy",
        "a strategy",
    }

    mesh.send(number)

    assert mesh.wait(STOP_S) == 0
    assert gone(family)
    assert mesh.last_words().endswith("keeps everything for the next time.")
    assert "Traceback" not in mesh.output()


def test_a_signal_while_it_starts_stops_it_cleanly(up: Callable[..., Up]) -> None:
    mesh = up()
    mesh.start()
    mesh.wait_for_line("Starting", START_S)
    wait_until(mesh.family, START_S, "the first part")

    mesh.send(signal.SIGINT)

    assert mesh.wait(STOP_S) == 0
    assert "Traceback" not in mesh.output()


def test_a_second_start_goes_on_where_the_first_stopped(up: Callable[..., Up]) -> None:
    first = up().started()
    wish = {"strategy_name": STRATEGIES[0], "symbol": "SPXL", "price": 150.5}
    order = requests.post(f"{first.url}/orders/buy_all", json=wish, timeout=10).json()
    names = [one["strategy_name"] for one in first.get("/portfolio")["portfolios"]]
    first.send(signal.SIGTERM)
    first.wait(STOP_S)

    second = up().started()

    assert order["status"] == "EXECUTED"
    assert sorted(names) == sorted(STRATEGIES)
    assert second.get(f"/orders/{order['order_id']}") == order
    assert second.get("/audit")["balanced"]


def test_strategies_trade_and_each_order_is_a_line(up: Callable[..., Up]) -> None:
    mesh = up(STRATEGIES="SPXL").started()

    line = mesh.wait_for_line("SPXL: BUY", START_S)
    orders = mesh.get("/orders?strategy=IncredibleLeverage_SPXL")["orders"]

    assert re.search(r"SPXL: BUY [\d,.]+ SPXL at [\d.]+: EXECUTED", line)
    assert orders[-1]["side"] == "BUY"
    assert any("SAMPLE DATA" in line for line in mesh.output().splitlines())
    assert mesh.get("/audit")["balanced"]


@pytest.mark.parametrize("part", ["PostgreSQL", "the router", "Envoy", "a strategy"])
def test_a_killed_part_is_started_again_and_said(up: Callable[..., Up], part: str) -> None:
    mesh = up(STRATEGIES="SPXL").started()
    killed = mesh.parts()[part]

    killed.kill()

    mesh.wait_for_line("killed by signal 9", START_S)
    mesh.wait_for_line("is started again", START_S)
    wait_until(lambda: mesh.parts().get(part) not in (None, killed), START_S, part)
    wait_until(mesh.serves, START_S, "the ledger is served again")
    assert mesh.get("/audit")["balanced"]


def test_a_killed_mesh_leaves_no_process_and_the_next_start_goes_on(up: Callable[..., Up]) -> None:
    first = up(STRATEGIES="SPXL").started()
    family = first.family()

    first.kill()
    wait_until(lambda: gone(family), STOP_S, "every part is gone")
    second = up().started()

    assert len(second.get("/portfolio")["portfolios"]) == len(STRATEGIES)
    assert second.get("/audit")["balanced"]


def test_a_second_mesh_on_the_same_folder_is_refused_and_the_first_lives(
    up: Callable[..., Up], tmp_path: Path
) -> None:
    first = up().started()
    second = Up(tmp_path, PORT=str(free_port()))
    second.log = tmp_path / "second.log"

    assert f"A mesh already runs on {first.data_dir} (process {first.pid})" in refused(second)
    assert first.serves()


def test_a_taken_port_is_refused_before_anything_starts(up: Callable[..., Up]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        mesh = up(PORT=str(port))

        assert f"Port {port} cannot be used (Address already in use)" in refused(mesh)

    assert len(mesh.output().splitlines()) == 1
    assert not (mesh.data_dir / "postgres").exists()


@pytest.fixture
def guarded_url(tmp_path: Path) -> Iterator[str]:
    """A server that asks for a password: `secret`, of role `me`, database `books`."""
    server = EmbeddedPostgres(tmp_path / "guarded", tmp_path / "guarded.log")
    server.start()
    server.wait_ready()
    psql(server.url, "CREATE ROLE me LOGIN PASSWORD 'secret'")
    psql(server.url, "CREATE DATABASE books OWNER me")
    (server.folder / "pg_hba.conf").write_text("local all me scram-sha-256\nlocal all all trust\n")
    psql(server.url, "SELECT pg_reload_conf()")
    yield server.url.replace("postgres@/postgres", "me:secret@/books")
    server.stop()


def test_a_database_of_ones_own_is_used(up: Callable[..., Up], guarded_url: str) -> None:
    mesh = up(DATABASE_URL=guarded_url).started()

    assert "PostgreSQL" not in mesh.parts()
    assert len(mesh.get("/portfolio")["portfolios"]) == len(STRATEGIES)
    assert psql(guarded_url, "SELECT count(*) > 0 FROM pg_tables WHERE tableowner = 'me'") == "t"


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(lambda _: "no address at all", id="no URL"),
        pytest.param(lambda _: "mysql://me@localhost/books", id="another kind of database"),
        pytest.param(
            lambda _: f"postgresql://me:hidden@127.0.0.1:{free_port()}/books", id="unreachable"
        ),
        pytest.param(lambda url: url.replace("secret", "hidden"), id="wrong password"),
        pytest.param(lambda url: url.replace("/books", "/bookz"), id="no such database"),
    ],
)
def test_a_broken_database_url_is_one_line_without_the_password(
    up: Callable[..., Up], guarded_url: str, broken: Callable[[str], str]
) -> None:
    mesh = up(DATABASE_URL=broken(guarded_url))

    line = refused(mesh)

    assert line.startswith("make up: The router cannot start. DATABASE_URL")
    assert "hidden" not in mesh.output()
    assert "secret" not in mesh.output()


def test_live_without_its_settings_is_refused_by_name(up: Callable[..., Up]) -> None:
    mesh = up(TRADING_MODE="LIVE", IBKR_PORT="4002")

    line = refused(mesh)

    for name in ("IBKR_HOST", "IBKR_CLIENT_ID", "IBKR_ACCOUNT", "AUTH"):
        assert name in line
    assert "IBKR_PORT" not in line
    assert not mesh.data_dir.exists()


REHEARSAL = {"TRADING_MODE": "LIVE", "IBKR_HOST": "simulated", "PRICE_FEED": "", "INTERVAL_S": "1"}


def test_a_rehearsal_of_live_fills_orders_and_goes_on_after_a_kill_and_a_stop(
    up: Callable[..., Up],
) -> None:
    first = up(STRATEGIES="SPXL", **REHEARSAL).started()
    assert {"the gateway", "PostgreSQL", "the router", "Envoy", "a strategy"} == {*first.parts()}

    first.wait_for_line("The broker: CONNECTED", START_S)
    first.wait_for_line("SPXL: BUY", START_S)
    executed = first.wait_for_line(": EXECUTED, ", START_S)
    order = wait_until(lambda: with_commission(first), START_S, "the order and its commission")
    killed = first.parts()["the gateway"]
    killed.kill()
    first.wait_for_line("the simulated gateway was killed by signal 9", START_S)
    wait_until(lambda: first.parts().get("the gateway") not in (None, killed), START_S, "gateway")
    wait_until(lambda: takes_orders(first), START_S, "the broker's line")
    first.send(signal.SIGINT)
    assert first.wait(STOP_S) == 0
    second = up(STRATEGIES="none", **REHEARSAL).started()
    wait_until(lambda: takes_orders(second), START_S, "the broker's line")

    assert re.search(r"SPXL: BUY [\d,]+ SPXL: EXECUTED, [\d,]+ filled at [\d.]+", executed)
    assert any("SIMULATED" in line for line in first.output().splitlines())
    assert (order["mode"], order["filled_quantity"]) == ("LIVE", order["quantity"])
    assert second.get(f"/orders/{order['order_id']}") == order
    assert second.get("/reconciliation").get("frozen_symbols", []) == []
    assert second.get("/audit")["balanced"]


def with_commission(mesh: Up) -> Any:
    """The first LIVE order, once it is executed and its commission is known."""
    orders = mesh.get("/orders?status=EXECUTED")["orders"]
    return orders[-1] if orders and orders[-1]["commission"] > 0 else None


def takes_orders(mesh: Up) -> bool:
    return bool(mesh.get("/broker").get("takes_orders"))


def test_a_taken_port_of_the_simulated_gateway_is_refused_before_anything_starts(
    up: Callable[..., Up],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        mesh = up(**REHEARSAL, IBKR_PORT=str(port))

        assert f"Port {port} cannot be used (Address already in use)" in refused(mesh)


def test_a_data_folder_that_cannot_be_made_is_one_line(
    up: Callable[..., Up], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    mesh = up(DATA_DIR=str(tmp_path / "file" / "data"))

    assert "cannot be used (Not a directory)" in refused(mesh)
    assert len(mesh.output().splitlines()) == 1


def test_a_wrong_setting_is_one_line(up: Callable[..., Up]) -> None:
    mesh = up(STRATEGIES="SPXX")

    assert "STRATEGIES=SPXX does not do" in refused(mesh)
    assert len(mesh.output().splitlines()) == 1

"""The five strategies, by their names and on the sample data."""

import importlib
import inspect
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from services.strategy.__main__ import STRATEGIES, find, main
from services.strategy.above_average import AboveAverage
from SureshotSDK import PortfolioClient
from SureshotSDK.testing import InMemoryPortfolio, ManualClock, run_over
from tests.support.mesh import Mesh
from tests.support.process import Process

NAMES = [f"IncredibleLeverage_{end}" for end in ("SPXL", "PTIR", "NVDL", "HOOD", "AVL")]
FOLLOWED = {"SPXL": "SPY", "PTIR": "PLTR", "NVDL": "NVDA", "HOOD": "HOOD", "AVL": "AVGO"}


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SYMBOL", "SMA_WINDOW", "INTERVAL_S", "PRICE_FEED", "DATA_DIR", "STOP_AT_END"):
        monkeypatch.delenv(name, raising=False)


def test_there_are_the_five(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    assert capsys.readouterr().out.split() == NAMES


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_each_trades_its_symbol_and_follows_what_it_is_leveraged_on(
    strategy: type[AboveAverage],
) -> None:
    made = strategy()
    assert made.symbol == FOLLOWED[made.positionSymbol]
    assert made.strategy_name == f"IncredibleLeverage_{made.positionSymbol}"
    assert strategy(symbol="VOO").symbol == "VOO"


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_each_is_a_small_file_that_begins_with_its_idea(strategy: type[AboveAverage]) -> None:
    module = importlib.import_module(strategy.__module__)
    assert module.__doc__
    assert len(inspect.getsource(module).splitlines()) < 60


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_each_trades_on_the_sample_data_and_its_ledger_balances(
    strategy: type[AboveAverage],
) -> None:
    portfolio, made = InMemoryPortfolio(), strategy(interval_s=0, feed="replay")
    portfolio.upsert_portfolio(made.strategy_name, cash=20_000)
    made.portfolio, made.clock = portfolio, ManualClock()
    made.run(stop_at_end=True)
    assert len(list(portfolio.list_orders(page_size=1000))) > 50
    assert portfolio.get_portfolio(made.strategy_name).equity > 0
    assert portfolio.audit().balanced


def test_a_price_at_its_average_is_not_held() -> None:
    portfolio = run_over(find("spxl")(sma_window=2), [10.0, 11, 11, 11])  # type: ignore[misc]
    assert [order.quantity > 0 for order in portfolio.list_orders()] == [True, True]
    assert not portfolio.invested("IncredibleLeverage_SPXL")


@pytest.mark.parametrize("name", ["spxl", "SPXL", "incrediblelEVERAGE_spxl"])
def test_a_strategy_is_found_in_any_case(name: str) -> None:
    found = find(name)
    assert found is not None
    assert found.name == "IncredibleLeverage_SPXL"


@pytest.mark.parametrize("arguments", [["nobody"], []])
def test_an_unknown_name_gets_one_line_with_the_names(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert all(name in said for name in NAMES)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["spxl", "--feed", "ibkr"], "needs IBKR_HOST and IBKR_PORT"),
        (["spxl", "--sma-window", "0"], "sma_window is 0"),
        (["spxl", "--feed", "csv:/no/such/folder"], "no such folder"),
    ],
)
def test_a_wrong_setting_gets_one_line(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert says in said


def test_a_setting_of_the_environment_beats_the_strategys_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SMA_WINDOW", "no number")
    assert main(["spxl"]) == 2
    assert "sma_window is 'no number'" in capsys.readouterr().err


def test_a_strategy_waits_for_its_router_and_ends_on_sigint(tmp_path: Path) -> None:
    environ = {"PORTFOLIO_ADDRESS": "127.0.0.1:1", "LOG_FORMAT": "json"}
    log = tmp_path / "log"
    with Process.of_module("services.strategy", "hood", log=log, environ=environ) as strategy:
        strategy.wait_for_line('"event": "router_lost"')
        strategy.send(signal.SIGINT)
        strategy.wait_for_line('"event": "stopped"')
        assert strategy.wait() == 0


def test_a_strategy_trades_through_the_mesh(mesh: Mesh, tmp_path: Path) -> None:
    name = mesh.new_strategy(cash=10_000)
    program = (
        "from services.strategy.above_average import AboveAverage\n"
        f"class Own(AboveAverage):\n    name = {name!r}\n"
        "Own(position_symbol='SPXL', symbol='SPY', interval_s=0).run()\n"
    )
    environ = {"PORTFOLIO_ADDRESS": mesh.grpc_address, "DATA_DIR": str(tmp_path)}
    command = [sys.executable, "-c", program]
    with (
        PortfolioClient(mesh.grpc_address) as portfolio,
        Process("strategy", command, tmp_path / "log", environ) as strategy,
    ):
        strategy.wait_for_line("SELL")
        strategy.send(signal.SIGTERM)
        assert strategy.wait() == 0
        assert len(list(portfolio.list_orders(strategy_name=name))) >= 2
    assert (tmp_path / "replay" / f"{name}.json").is_file()


def test_no_strategy_imports_the_router() -> None:
    code = (
        "import sys, services.strategy.__main__;"
        "print([m for m in sys.modules if m.startswith('services.portfolio')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

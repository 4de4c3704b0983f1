"""The documented sample, as it stands in the documentation, with nothing added."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from SureshotSDK.Scheduler import Scheduler
from SureshotSDK.testing import run_over
from tests.sdk.scripted_router import ScriptedRouter
from tests.support.waiting import wait_until

SAMPLE = """
from SureshotSDK.Scheduler import Scheduler

class ilSPXLScheduler(Scheduler):
    def __init__(self):
        self.name = "IncredibleLeverage_SPXL"
        super().__init__(portfolio=None, strategy_name=self.name)

    def on_data(self, price):
        if price > self.sma.get_value():
            if not self.invested:
                self.buy_all(self.positionSymbol)
        elif self.invested:
            self.sell_all(self.positionSymbol)
"""


def sample() -> Scheduler:
    names: dict[str, type[Scheduler]] = {}
    exec(SAMPLE, names)
    return names["ilSPXLScheduler"]()


def test_the_sample_finds_its_symbols_and_its_average() -> None:
    strategy = sample()
    assert strategy.strategy_name == "IncredibleLeverage_SPXL"
    assert (strategy.symbol, strategy.positionSymbol) == ("SPY", "SPXL")
    assert strategy.sma.window == 50


def test_the_sample_trades_by_its_average(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMA_WINDOW", "3")
    portfolio = run_over(
        sample(), [10, 10, 10, 11, 12, 9], position_prices=[1, 1, 1, 3, 4, 5], cash=10
    )
    orders = [(order.quantity, order.price) for order in portfolio.list_orders()]
    assert orders == [(3, 5), (3, 3)]
    assert portfolio.get_portfolio("IncredibleLeverage_SPXL").cash == 16


@pytest.mark.parametrize("method", ["run", "start"])
def test_the_sample_runs_as_a_program_and_stops_on_sigterm(
    router: ScriptedRouter, tmp_path: Path, method: str
) -> None:
    router.memory.upsert_portfolio("IncredibleLeverage_SPXL", cash=20_000)
    program = tmp_path / "strategy.py"
    program.write_text(f"{SAMPLE}\nilSPXLScheduler().{method}()\n")
    environ = {"PORTFOLIO_ADDRESS": router.address, "INTERVAL_S": "0.01"}
    with subprocess.Popen(
        [sys.executable, program], env=environ, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            wait_until(lambda: list(router.memory.list_orders()), 60, "an order on sample data")
            process.send_signal(signal.SIGTERM)
            output, _ = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 0
    assert "BUY" in output
    assert "sample data" in output
    assert output.splitlines()[-1].endswith("IncredibleLeverage_SPXL stopped")

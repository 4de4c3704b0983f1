"""The two documented samples, run unchanged."""

import sys
from pathlib import Path

from tests.e2e.rest import Rest
from tests.support.mesh import Mesh
from tests.support.process import Process
from tests.support.waiting import wait_until

REQUESTS_SAMPLE = """
import requests

response = requests.post(
    "http://localhost:8000/orders/buy_all",
    json={"strategy_name": "IncredibleLeverage_SPXL", "symbol": "SPXL", "price": 150.5},
)
print(response.json())
"""

SCHEDULER_SAMPLE = """
from SureshotSDK.Scheduler import Scheduler


class ilSPXLScheduler(Scheduler):
    def __init__(self):
        self.name = "IncredibleLeverage_SPXL"
        super().__init__(portfolio=None, strategy_name=self.name)

    def on_data(self, price):
        if price > self.sma.get_value():
            if not self.invested:
                self.buy_all(self.positionSymbol)
        else:
            if self.invested:
                self.sell_all(self.positionSymbol)


if __name__ == "__main__":
    ilSPXLScheduler().run()
"""


def test_the_requests_sample_returns_an_executed_order(own_mesh: Mesh, tmp_path: Path) -> None:
    # Port 8000 belongs to whoever runs a mesh on this machine, so the port alone is another.
    sample = tmp_path / "sample.py"
    sample.write_text(REQUESTS_SAMPLE.replace("localhost:8000", own_mesh.grpc_address))
    process = Process("sample", [sys.executable, str(sample)], tmp_path / "sample.log")
    with process:
        wait_until(lambda: process.exit_code() is not None, 60, "the sample ends")
    assert process.exit_code() == 0, process.output()
    assert "'status': 'EXECUTED'" in process.output()
    assert "'quantity': 132," in process.output()


def test_the_scheduler_sample_trades_with_nothing_added(own_mesh: Mesh, tmp_path: Path) -> None:
    sample = tmp_path / "il_spxl.py"
    sample.write_text(SCHEDULER_SAMPLE)
    environ = {"PORTFOLIO_ADDRESS": own_mesh.grpc_address, "INTERVAL_S": "0.01"}
    process = Process("sample", [sys.executable, str(sample)], tmp_path / "sample.log", environ)
    rest = Rest(own_mesh.rest_url)

    def orders() -> list[dict[str, object]]:
        listed: list[dict[str, object]] = rest.ok(
            "GET", "/orders", strategy="IncredibleLeverage_SPXL"
        )["orders"]
        return listed

    with process:
        wait_until(lambda: len(orders()) >= 4, 90, f"four orders; it said:\n{process.output()}")
    sides = [order["side"] for order in reversed(orders())]
    assert sides == ["BUY", "SELL"] * (len(sides) // 2) + ["BUY"] * (len(sides) % 2)
    assert {order["symbol"] for order in orders()} == {"SPXL"}

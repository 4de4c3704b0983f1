"""The SDK's base install is light: it imports with its four dependencies and nothing else."""

import subprocess
import sys

BLOCKED = """
import os, sys
from importlib.machinery import PathFinder
class WithoutHeavy:
    def find_spec(self, name, path=None, target=None):
        heavy = name.partition(".")[0] in {heavy}
        return None if heavy else PathFinder.find_spec(name, path, target)
sys.meta_path[sys.meta_path.index(PathFinder)] = WithoutHeavy()
import SureshotSDK, SureshotSDK.Scheduler, SureshotSDK.testing, SureshotSDK.indicators
import SureshotSDK.feeds
class S(SureshotSDK.Scheduler.Scheduler):
    name = "S_SPXL"
    def on_data(self, price):
        self.buy_all("SPXL")
portfolio = SureshotSDK.testing.run_over(S(sma_window=2), [1.0, 2.0, 3.0], cash=10)
print(portfolio.get_portfolio("S_SPXL").equity)
os.environ.update(IBKR_HOST="127.0.0.1", IBKR_PORT="4002")
for feed in ("replay", "yahoo", "ibkr"):
    try:
        S(feed=feed).feed
    except ValueError as missing:
        print(missing)
"""
HEAVY = {
    "opentelemetry",
    "skfolio",
    "pandas",
    "numpy",
    "yfinance",
    "exchange_calendars",
    "ib_async",
    "ib_insync",
    "eventkit",
    "sqlalchemy",
    "asyncpg",
    "rich",
    "pydantic",
    "protovalidate",
    "grpc_status",
    "grpc_health",
    "services",
    "pytest",
    "requests",
}


def test_the_sdk_works_with_its_own_dependencies_alone() -> None:
    code = BLOCKED.format(heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "\n15.0\n" in done.stdout
    assert "needs the sample data: install the extra `local`" in done.stdout
    assert "needs ib_insync or ib_async: install the extra `ibkr`" in done.stdout
    assert "needs yfinance: install the extra `yahoo`" in done.stdout

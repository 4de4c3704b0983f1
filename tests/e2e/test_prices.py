"""The main job against an independent computation: five strategies over recorded prices.

The five processes trade day by day through the real mesh; pandas computes what they should end
with. The prices are random walks written by the test; PRICES_FOLDER=some/folder uses real ones.
"""

import math
import os
import random
from contextlib import ExitStack
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pandas as pd
import pytest

from tests.e2e.rest import Rest
from tests.support.mesh import Mesh
from tests.support.process import Process
from tests.support.waiting import wait_until

PAIRS = {"SPXL": "SPY", "PTIR": "PLTR", "NVDL": "NVDA", "HOOD": "HOOD", "AVL": "AVGO"}
WINDOW = 50
DAYS = 260


@pytest.fixture
def prices(tmp_path: Path) -> Path:
    """A folder of SYMBOL.csv files with date and close."""
    if given := os.environ.get("PRICES_FOLDER"):
        return Path(given).resolve()
    days = pd.bdate_range("2024-01-02", periods=DAYS).strftime("%Y-%m-%d")
    walk = random.Random(7)
    for place, symbol in enumerate(sorted({*PAIRS, *PAIRS.values()})):
        close = 40.0 + 30 * place
        rows = ["date,open,high,low,close,volume"]
        for number, day in enumerate(days):
            close *= math.exp(walk.gauss(0.0005, 0.025))
            # Some funds are younger than what they follow: their files begin later.
            if symbol in {"PTIR", "AVL"} and number < 90:
                continue
            rows.append(f"{day},0,0,0,{close:.2f},0")
        (tmp_path / f"{symbol}.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


@dataclass(frozen=True)
class Outcome:
    """What a strategy ends with, in USD and shares."""

    cash: Decimal
    quantity: Decimal
    equity: Decimal
    orders: int


def computed(folder: Path, traded: str, followed: str, cash: Decimal) -> Outcome:
    """The same rule in pandas: hold the fund on days that close above the followed one's mean."""
    closes = {
        symbol: pd.read_csv(
            folder / f"{symbol}.csv",
            usecols=["date", "close"],
            index_col="date",
            dtype={"close": str},
        )["close"]
        for symbol in {traded, followed}
    }
    frame = pd.DataFrame({"followed": closes[followed], "traded": closes[traded]})
    frame = frame[frame["followed"].notna()]
    exact = frame["followed"].map(Fraction)
    mean = [None] * (WINDOW - 1) + [
        sum(exact.iloc[end - WINDOW : end]) / WINDOW for end in range(WINDOW, len(exact) + 1)
    ]
    above = [m is not None and price > m for price, m in zip(exact, mean, strict=True)]
    quantity, orders, last = Decimal(0), 0, Decimal(0)
    days = zip(mean, above, frame["traded"], strict=True)
    for average, is_above, price in days:
        if average is None or not isinstance(price, str):
            continue  # not warm yet, or the fund has no price that day
        last = Decimal(price)
        if is_above and not quantity and cash >= last:
            quantity = cash // last
            cash -= quantity * last
            orders += 1
        elif not is_above and quantity:
            cash += quantity * last
            quantity = Decimal(0)
            orders += 1
    return Outcome(cash, quantity, cash + quantity * last, orders)


@pytest.mark.timeout(400)
def test_five_strategies_end_with_what_pandas_computes_to_the_cent(
    own_mesh: Mesh, prices: Path, tmp_path: Path
) -> None:
    environ = {
        "PORTFOLIO_ADDRESS": own_mesh.grpc_address,
        "PRICE_FEED": f"csv:{prices}",
        "INTERVAL_S": "0",
        "SMA_WINDOW": str(WINDOW),
        "STOP_AT_END": "1",
    }
    with ExitStack() as running:
        strategies = [
            running.enter_context(
                Process.of_module(
                    "services.strategy", name, log=tmp_path / f"{name}.log", environ=environ
                )
            )
            for name in PAIRS
        ]
        for strategy in strategies:
            wait_until(lambda s=strategy: s.exit_code() is not None, 300, "the prices end")  # type: ignore[misc]
            assert strategy.exit_code() == 0, strategy.output()
    rest = Rest(own_mesh.rest_url)
    for traded, followed in PAIRS.items():
        wanted = computed(prices, traded, followed, Decimal(20_000))
        name = f"IncredibleLeverage_{traded}"
        portfolio = rest.ok("GET", f"/portfolio/{name}")
        positions = rest.ok("GET", "/positions", strategy=name)["positions"]
        orders = rest.ok("GET", "/orders", strategy=name, page_size=1000)["orders"]
        got = Outcome(
            Decimal(str(portfolio["cash"])),
            sum((Decimal(str(p["quantity"])) for p in positions), Decimal(0)),
            Decimal(str(portfolio["equity"])),
            len(orders),
        )
        assert got == wanted, name
        assert got.orders > 2, f"{name} hardly traded: the test has shown little"

"""The equity history over REST: weeks of real prices, replayed, equal pandas to the cent."""

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import empyrical
import pandas as pd
import pytest
from skfolio.datasets import load_sp500_dataset

from services.portfolio.history.sessions import session_at
from tests.e2e.rest import Rest
from tests.support.mesh import Mesh

NAMES = ("AAPL", "JPM", "XOM")
CASH = 20_000
DEPOSIT = 5_000
FIRST, LAST = "2008-09-02", "2008-11-03"  # a time when prices moved


@dataclass(frozen=True)
class Replay:
    """What was replayed: closing prices by session and symbol, and who held shares when."""

    prices: pd.DataFrame
    shares: pd.DataFrame
    cash: pd.DataFrame
    flows: pd.DataFrame

    @property
    def equity(self) -> pd.DataFrame:
        """What each strategy was worth at the closes; the last day stays open."""
        exact = self.prices.map(lambda price: Decimal(str(price)))
        return (self.cash + self.shares * exact).iloc[:-1]


@pytest.fixture(scope="module")
def prices() -> pd.DataFrame:
    """Closes of three stocks in two months, to the cent."""
    frame: pd.DataFrame = load_sp500_dataset().loc[FIRST:LAST, list(NAMES)].round(2)
    return frame


@pytest.fixture
def replayed(own_mesh: Mesh, prices: pd.DataFrame) -> tuple[Rest, Replay]:
    """Three strategies over these weeks: each buys, sells and buys again on days of its own.

    Each price is reported before the day's order; on day 20 cash comes in. The last day stays open.
    """
    rest = Rest(own_mesh.rest_url)
    shares, cashes, flows = [], [], []
    for name in NAMES:
        rest.ok("POST", "/portfolio", {"strategy_name": name, "cash": CASH})
    held = dict.fromkeys(NAMES, Decimal(0))
    cash = dict.fromkeys(NAMES, Decimal(CASH))
    for number, session in enumerate(prices.index):
        row = prices.loc[session].astype(float)
        flow = dict.fromkeys(NAMES, Decimal(0))
        for place, name in enumerate(NAMES):
            price = Decimal(str(row[name]))
            rest.ok("POST", "/prices", reported(name, name, row[name], session))
            if number == 20:
                cash[name] += DEPOSIT
                rest.ok("POST", "/portfolio", {"strategy_name": name, "cash": float(cash[name])})
                flow[name] = Decimal(DEPOSIT)
            order = {"strategy_name": name, "symbol": name, "price": row[name]}
            if number % 9 == 2 + place:
                rest.ok("POST", "/orders/buy_all", order)
                held[name] = cash[name] // price
                cash[name] -= held[name] * price
            elif number % 9 == 6 + place and held[name]:
                rest.ok("POST", "/orders/sell_all", order)
                cash[name] += held[name] * price
                held[name] = Decimal(0)
        shares.append(dict(held))
        cashes.append(dict(cash))
        flows.append(flow)
    days = [pd.DataFrame(rows, index=prices.index) for rows in (shares, cashes, flows)]
    return rest, Replay(prices, *days)


def reported(name: str, symbol: str, price: float, session: pd.Timestamp) -> dict[str, Any]:
    """The body of POST /prices."""
    seen = [{"symbol": symbol, "price": price}]
    return {"strategy_name": name, "prices": seen, "session": f"{session:%Y-%m-%d}"}


def all_points(rest: Rest, path: str, **query: object) -> list[Any]:
    """Every page of closes, oldest first."""
    points: list[Any] = []
    token = ""
    while True:
        page = rest.ok("GET", path, page_size=7, page_token=token, **query)
        assert len(page["points"]) <= 7
        points += page["points"]
        token = page.get("next_page_token", "")
        if not token:
            return points[::-1]


@pytest.mark.timeout(400)
def test_a_replay_of_real_prices_equals_pandas_to_the_cent(
    replayed: tuple[Rest, Replay],
) -> None:
    rest, replay = replayed
    equity, flows = replay.equity, replay.flows.iloc[:-1]
    # Nothing is traded between the day's price and the deposit, so that the day's gain is what the
    # deposit does not explain.
    opening = [Decimal(CASH)] * len(NAMES)
    before = pd.DataFrame([opening, *equity.to_numpy()[:-1]], equity.index, equity.columns)
    returns = ((equity - flows) / before - 1).astype(float)
    growth = (1 + returns).cumprod()
    for name in NAMES:
        points = all_points(rest, f"/portfolio/{name}/equity")
        assert [p["session"] for p in points] == [f"{day:%Y-%m-%d}" for day in equity.index]
        assert [Decimal(str(p["equity"])) for p in points] == list(equity[name])
        assert [Decimal(str(p["cash"])) for p in points] == list(replay.cash[name].iloc[:-1])
        assert [p["flow"] for p in points] == [CASH, *flows[name].iloc[1:].astype(float)]
        assert [p["growth"] for p in points] == pytest.approx(list(growth[name]), rel=1e-12)
        assert_performance(rest.ok("GET", f"/portfolio/{name}/performance"), returns[name])
    assert growth.iloc[-1].nunique() == len(NAMES), "they hardly traded: this has shown little"
    # The five strategies of a fresh system have closed nothing: they are no part of the whole yet.
    weights = (before + flows).astype(float)
    weights.iloc[0] = CASH
    whole = (returns * weights).sum(axis=1) / weights.sum(axis=1)
    points = all_points(rest, "/equity")
    assert [Decimal(str(p["equity"])) for p in points] == list(equity.sum(axis=1))
    assert [p["flow"] for p in points] == [3 * CASH, *flows.sum(axis=1).iloc[1:].astype(float)]
    assert [p["growth"] for p in points] == pytest.approx(list((1 + whole).cumprod()), rel=1e-12)
    assert_performance(rest.ok("GET", "/performance"), whole)
    assert rest.ok("GET", "/performance")["orders"] == sum(
        len(rest.ok("GET", "/orders", strategy=name, page_size=100)["orders"]) for name in NAMES
    )


def assert_performance(shown: Any, returns: pd.Series) -> None:
    """The figures that empyrical has are empyrical's."""
    drawdown = -empyrical.max_drawdown(returns)
    assert shown["days"] == len(returns)
    assert shown["total_return"] == pytest.approx(empyrical.cum_returns_final(returns), rel=1e-9)
    assert shown["annual_return"] == pytest.approx(empyrical.annual_return(returns), rel=1e-9)
    assert shown["volatility"] == pytest.approx(empyrical.annual_volatility(returns), rel=1e-9)
    assert shown["sharpe_ratio"] == pytest.approx(empyrical.sharpe_ratio(returns), rel=1e-9)
    assert shown["max_drawdown"] == pytest.approx(drawdown, rel=1e-9)
    assert "cost_of_reality" not in shown or shown["cost_of_reality"] is None


def test_who_has_no_history_has_an_empty_one(rest: Rest, mesh: Mesh) -> None:
    name = mesh.new_strategy()
    assert rest.ok("GET", f"/portfolio/{name}/equity")["points"] == []
    assert rest.ok("GET", f"/portfolio/{name}/equity", mode="LIVE")["points"] == []
    shown = rest.ok("GET", f"/portfolio/{name}/performance")
    assert (shown["days"], shown["orders"], shown["first_session"]) == (0, 0, "")
    assert "sharpe_ratio" not in shown


def test_what_does_not_exist_has_no_history(rest: Rest) -> None:
    for path in ("/portfolio/Nobody/equity", "/portfolio/Nobody/performance"):
        assert rest.error(404, "GET", path)["reason"] == "STRATEGY_NOT_FOUND"
    assert rest.error(404, "GET", "/portfolio/RESERVE/equity")["reason"] == "STRATEGY_NOT_FOUND"


@pytest.mark.parametrize(
    "query", [{"page_size": -1}, {"page_token": "x"}, {"mode": "DEMO"}, {"colour": "red"}]
)
def test_a_wrong_question_is_named(rest: Rest, query: dict[str, object]) -> None:
    rest.error(400, "GET", "/equity", **query)


def test_a_token_of_one_list_opens_no_other(rest: Rest, mesh: Mesh) -> None:
    name = mesh.new_strategy()
    for day in pd.bdate_range("2024-01-01", periods=4):
        rest.ok("POST", "/prices", reported(name, "SPXL", 10, day))
    page = rest.ok("GET", f"/portfolio/{name}/equity", page_size=2)
    token = page["next_page_token"]
    assert rest.error(400, "GET", "/equity", page_token=token)["reason"] == "INVALID_PAGE_TOKEN"
    rest_of_it = rest.ok("GET", f"/portfolio/{name}/equity", page_size=2, page_token=token)
    assert [p["session"] for p in (*page["points"], *rest_of_it["points"])] == [
        "2024-01-03",
        "2024-01-02",
        "2024-01-01",
    ]


@pytest.mark.parametrize(
    "session", ["2024-02-31", "2024-1-1", "yesterday", "2924-01-01", "0000-01-01"]
)
def test_a_session_that_cannot_be_is_named_and_keeps_no_price(
    rest: Rest, mesh: Mesh, session: str
) -> None:
    name = mesh.new_strategy()
    body = {"strategy_name": name, "prices": [{"symbol": "SPXL", "price": 5}], "session": session}
    error = rest.error(400, "POST", "/prices", body)
    assert (error["reason"], error["metadata"]["field"]) == ("INVALID_FIELD", "session")
    portfolio = rest.ok("GET", f"/portfolio/{name}")
    assert portfolio["session"] == ""
    assert "seen_time" not in portfolio or portfolio["seen_time"] is None


def test_prices_that_name_no_session_are_of_today(rest: Rest, mesh: Mesh) -> None:
    name = mesh.new_strategy()
    sessions = {session_at(datetime.now(UTC)).isoformat()}
    body = {"strategy_name": name, "prices": [{"symbol": "SPXL", "price": 5}]}
    rest.ok("POST", "/prices", body)
    sessions.add(session_at(datetime.now(UTC)).isoformat())
    assert rest.ok("GET", f"/portfolio/{name}")["session"] in sessions

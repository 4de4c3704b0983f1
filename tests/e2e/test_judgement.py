"""Results, capital, limits, the kill switch and the pictures, through the real Envoy."""

import json
import re
import subprocess
from datetime import date, timedelta
from math import sin
from typing import Any

import pytest
import requests

from tests.e2e.rest import Rest
from tests.e2e.test_readme import README
from tests.support.mesh import Mesh

NAMES = [f"IncredibleLeverage_{symbol}" for symbol in ("SPXL", "PTIR", "NVDL", "HOOD", "AVL")]
DAYS = 70
SECTION = README.partition("## Capital, results and risk")[2].partition("\n## ")[0]


@pytest.fixture
def rest(own_mesh: Mesh) -> Rest:
    """Five strategies that hold their symbol from the first of 70 sessions on."""
    caller = Rest(own_mesh.rest_url)
    for place, name in enumerate(NAMES):
        symbol = name.partition("_")[2]
        for day in range(DAYS):
            price = round(50 + 0.1 * (place + 1) * day + 3 * sin(day * (place + 1)), 2)
            session = (date(2024, 1, 1) + timedelta(day)).isoformat()
            seen = {"strategy_name": name, "prices": [{"symbol": symbol, "price": price}]}
            caller.ok("POST", "/prices", {**seen, "session": session})
            if not day:
                order = {"strategy_name": name, "symbol": symbol, "price": price}
                caller.ok("POST", "/orders/buy_all", order)
    return caller


def run(command: str, mesh: Mesh) -> Any:
    """What a command of the README prints, as JSON."""
    line = command.replace("localhost:8000", mesh.grpc_address)
    ran = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, timeout=60, check=True
    )
    return json.loads(ran.stdout)


def test_every_command_of_the_readme_answers(own_mesh: Mesh, rest: Rest) -> None:
    blocks = re.findall(r"```sh\n(.*?)```", SECTION, re.DOTALL)
    commands = [c for block in blocks for c in re.split(r"\n(?=curl)", block.strip())]
    assert len(commands) == 10
    plan_id = ""
    for command in commands:
        answer = run(command.replace('"plan_id": "..."', f'"plan_id": "{plan_id}"'), own_mesh)
        assert "code" not in answer, (command, answer)
        plan_id = answer.get("plan_id", plan_id)
    assert plan_id
    assert rest.ok("GET", "/audit")["balanced"]


def test_a_plan_says_who_gets_what_and_is_carried_out_to_the_cent(rest: Rest) -> None:
    policy = {"method": "MINIMUM_VARIANCE", "cash_floor": 0.1}
    rest.ok("POST", "/allocation", {"policy": policy})
    for name in NAMES:  # flat, so that all may move at once
        rest.ok("POST", f"/portfolio/{name}:halt", {"flatten": True})
        rest.ok("POST", f"/portfolio/{name}:resume")
    portfolios = rest.ok("GET", "/portfolio")["portfolios"]
    equity = {one["strategy_name"]: one["equity"] for one in portfolios}
    capital = sum(equity.values())

    plan = rest.ok("POST", "/allocation:plan", {})
    assert (plan["state"], plan["method"], plan["fallback_reason"]) == (
        "PLANNED",
        "MINIMUM_VARIANCE",
        "",
    )
    assert plan["capital"] == pytest.approx(capital, abs=1e-6)
    assert [row["strategy_name"] for row in plan["rows"]] == [*sorted(NAMES), "RESERVE"]
    assert sum(row["target_equity"] for row in plan["rows"]) == pytest.approx(capital, abs=1e-6)
    assert len(plan["frontier"]) > 2
    assert rest.ok("GET", "/allocation")["reserve"] == 0, "a plan moves nothing"

    carried_out = rest.ok("POST", "/allocation:rebalance", {"plan_id": plan["plan_id"]})
    assert carried_out["state"] == "CARRIED_OUT"
    now = rest.ok("GET", "/allocation")
    targets = {row["strategy_name"]: row["target_equity"] for row in plan["rows"]}
    assert {one["strategy_name"]: one["equity"] for one in now["holdings"]} == {
        name: targets[name] for name in NAMES
    }
    assert now["reserve"] == targets["RESERVE"] >= round(0.1 * capital, 2)
    again = rest.error(400, "POST", "/allocation:rebalance", {"plan_id": plan["plan_id"]})
    assert again["reason"] == "PLAN_OUTDATED"
    assert rest.ok("GET", "/audit") == {"balanced": True, "books": 6, "differences": []}
    moved = {row["strategy_name"]: row["moves_now"] for row in carried_out["rows"]}
    for name in NAMES:  # the session after closes the one in which cash moved
        seen = {"strategy_name": name, "prices": [{"symbol": "SPY", "price": 1}]}
        rest.ok("POST", "/prices", {**seen, "session": "2024-06-03"})
        (close,) = rest.ok("GET", f"/portfolio/{name}/equity", page_size=1)["points"]
        assert close["flow"] == moved[name] != 0
        assert close["equity"] == targets[name]
        # A transfer is no gain and no loss.
        assert close["growth"] == pytest.approx(equity[name] / 20_000, abs=1e-12)


def test_a_limit_refuses_with_its_figures_and_halts_with_its_reason(rest: Rest) -> None:
    name, symbol = NAMES[0], "SPXL"
    rest.ok("POST", "/orders/sell_all", {"strategy_name": name, "symbol": symbol, "price": 60})
    limits = {"strategy_name": name, "limits": {"max_order_value": 600}}
    rest.ok("POST", "/risk/limits", limits)
    order = {"strategy_name": name, "symbol": symbol, "side": "BUY", "price": 60}
    rest.ok("POST", "/orders", {**order, "quantity": 10})
    refused = rest.error(400, "POST", "/orders", {**order, "quantity": 10.00000001})
    assert refused["reason"] == "LIMIT_EXCEEDED"
    assert refused["metadata"]["limit"] == "max_order_value"
    assert rest.ok("GET", "/risk/limits")["limits"][5]["limits"]["max_order_value"] == 600
    assert rest.error(404, "POST", "/risk/limits", {"strategy_name": "Nobody"})["reason"] == (
        "STRATEGY_NOT_FOUND"
    )


def test_after_the_kill_switch_nothing_is_accepted_and_nothing_is_held(rest: Rest) -> None:
    halted = rest.ok("POST", "/portfolio:halt", {"reason": "fire", "flatten": True})
    assert (halted["halted"], halted["strategies"]) == (True, 5)
    for one in rest.ok("GET", "/portfolio")["portfolios"]:
        assert (one["state"], one["halt_reason"], one["invested"]) == ("HALTED", "fire", False)
    order = {"strategy_name": NAMES[0], "symbol": "SPXL", "price": 60}
    assert rest.error(400, "POST", "/orders/buy_all", order)["reason"] == "STRATEGY_HALTED"
    rest.ok("POST", "/portfolio", {"strategy_name": "New", "cash": 100})
    assert rest.ok("GET", "/portfolio/New")["state"] == "HALTED"
    assert not rest.ok("POST", "/portfolio:resume", {})["halted"]
    assert rest.ok("POST", "/orders/buy_all", order)["status"] == "EXECUTED"
    kinds = {event["kind"] for event in rest.ok("GET", "/risk/events")["events"]}
    assert {"HALT", "FLATTEN", "RESUME"} <= kinds
    assert rest.ok("GET", "/audit")["balanced"]


def test_a_review_tells_what_is_missing_for_live(rest: Rest) -> None:
    decision = rest.ok("POST", f"/portfolio/{NAMES[0]}:review", {})
    assert (decision["rule"], decision["outcome"]) == ("promotion", "STAYS")
    assert {one["figure"]: one["holds"] for one in decision["evidence"]}["trades"] is False
    listed = rest.ok("GET", "/decisions", strategy=NAMES[0])["decisions"]
    assert listed[0] == decision


def test_the_pages_are_drawn_from_what_there_is(rest: Rest) -> None:
    rest.ok("POST", "/allocation:plan", {"policy": {"method": "MAXIMUM_SHARPE"}})
    for page, drawn in (
        ("frontier", "Efficient frontier"),
        ("equity", "All strategies"),
        ("weights", "Share of the whole"),
    ):
        answer = requests.get(f"{rest.url}/pages/{page}", timeout=30)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert "SPXL" in answer.text
        assert drawn in answer.text
    script = requests.get(f"{rest.url}/pages/plotly.js", timeout=30)
    assert script.headers["content-type"].startswith("text/javascript")
    assert "max-age" in script.headers["cache-control"]
    assert len(script.content) > 1_000_000
    assert rest.error(404, "GET", "/pages/nothing")["reason"] == "UNKNOWN_PATH"

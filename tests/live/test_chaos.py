"""The crash test, short and with a fixed seed; and its checks find what they are there to find."""

from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from tests.live.chaos.checks import (
    Answers,
    Booked,
    Broker,
    Executed,
    Ledger,
    LedgerOrder,
    check,
)
from tests.live.chaos.plan import Kill, steps
from tests.support.process import Process

ONE, TWO = "order-1", "order-2"
BOUGHT = LedgerOrder(
    ONE, "Alder", "a-1", "SPXL", "BUY", Decimal(5), "EXECUTED", Decimal(5), Decimal(1), True
)
REFUSED = LedgerOrder(
    TWO, "Alder", "a-2", "SPXL", "BUY", Decimal(7), "REJECTED", Decimal(0), Decimal(0), True
)
LEDGER = Ledger(
    orders={ONE: BOUGHT, TWO: REFUSED},
    booked=[
        Booked(ONE, "e.01", Decimal(5), Decimal(500), Decimal(0)),
        Booked(ONE, "e.01", Decimal(0), Decimal(0), Decimal(1)),
    ],
    deposits={"Alder": Decimal(1000)},
    cash={"Alder": Decimal(499)},
    positions={("Alder", "SPXL"): Decimal(5)},
    reserved={},
    unattributed={},
    differences=[],
)
FILL = Executed(ONE, "e.01", "SPXL", "BUY", Decimal(5), Decimal(100), Decimal(1))
BROKER = Broker(
    received=[ONE, TWO],
    taken={ONE: "Filled"},
    executed=[FILL],
    positions={"SPXL": Decimal(5)},
    cash=Decimal(9499),
    cash_at_first=Decimal(10_000),
)
ANSWERS = Answers({"a-1": ONE, "a-2": TWO, "a-3": ""})

FAULTS = {
    "accepted twice": (
        replace(LEDGER, orders={**LEDGER.orders, "x": replace(BOUGHT, order_id="x")}),
        BROKER,
        "requests accepted once or refused",
    ),
    "lost": (
        replace(LEDGER, orders={ONE: BOUGHT}),
        BROKER,
        "requests accepted once or refused",
    ),
    "unknown for ever": (
        replace(LEDGER, orders={ONE: BOUGHT, TWO: replace(REFUSED, status="UNKNOWN")}),
        BROKER,
        "orders ended, none PENDING or UNKNOWN",
    ),
    "sent twice": (
        LEDGER,
        replace(BROKER, received=[ONE, TWO, ONE]),
        "orders received by the broker at most once",
    ),
    "sent without a record": (
        replace(LEDGER, orders={ONE: BOUGHT, TWO: replace(REFUSED, was_sent=False)}),
        BROKER,
        "orders received were recorded as sent before",
    ),
    "executed and never received": (
        LEDGER,
        replace(BROKER, received=[TWO]),
        "EXECUTED orders received exactly once, and filled",
    ),
    "rejected and alive": (
        LEDGER,
        replace(BROKER, taken={ONE: "Filled", TWO: "Submitted"}),
        "REJECTED and CANCELLED orders not alive at the broker",
    ),
    "a fill missed": (
        replace(LEDGER, booked=[]),
        BROKER,
        "executions booked exactly once",
    ),
    "a fill doubled": (
        replace(LEDGER, booked=[*LEDGER.booked, LEDGER.booked[0]]),
        BROKER,
        "executions booked exactly once",
    ),
    "a fill made up": (
        LEDGER,
        replace(BROKER, executed=[]),
        "executions booked exactly once",
    ),
    "a commission missed": (
        replace(LEDGER, booked=LEDGER.booked[:1]),
        BROKER,
        "commissions equal",
    ),
    "an order that forgot its fill": (
        replace(LEDGER, orders={ONE: replace(BOUGHT, filled_quantity=Decimal(0)), TWO: REFUSED}),
        BROKER,
        "orders equal to the sum of their fills",
    ),
    "shares lost": (
        replace(LEDGER, positions={}),
        BROKER,
        "positions, strategies + UNATTRIBUTED = broker",
    ),
    "cash lost": (
        replace(LEDGER, cash={"Alder": Decimal(498)}),
        BROKER,
        "cash = deposits - purchases + sales - commissions",
    ),
    "a reservation left": (
        replace(LEDGER, reserved={"Alder": Decimal(10)}),
        BROKER,
        "nothing reserved without an open order",
    ),
    "an unbalanced audit": (
        replace(LEDGER, differences=["cash"]),
        BROKER,
        "the audit balances",
    ),
}


def test_a_ledger_that_agrees_with_the_broker_has_nothing_wrong() -> None:
    assert [finding.wrong for finding in check(LEDGER, BROKER, ANSWERS) if finding.wrong] == []


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_found(fault: str) -> None:
    ledger, broker, what = FAULTS[fault]

    wrong = [finding.what for finding in check(ledger, broker, ANSWERS) if finding.wrong]

    assert what in wrong


def test_twelve_kills_meet_every_kind_and_a_seed_plans_them_alike() -> None:
    plan = steps(7, 12, ["HOOD", "SPXL"])

    assert {step.kill for step in plan} == set(Kill)
    assert plan == steps(7, 12, ["HOOD", "SPXL"])
    assert plan != steps(8, 12, ["HOOD", "SPXL"])


def test_no_order_is_lost_or_doubled_when_any_part_is_killed(tmp_path: Path) -> None:
    chaos = Process.of_module(
        "tests.live.chaos",
        *("--seed", "1", "--kills", "12", "--folder", str(tmp_path / "chaos")),
        log=tmp_path / "chaos.log",
    )
    with chaos:
        assert chaos.wait(170) == 0, chaos.output()

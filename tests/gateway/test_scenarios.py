"""Each scenario as the real client library sees it on the wire, and what is true at the broker."""

from decimal import Decimal

import pytest

from efficientfrontier.simulation.v1 import simulation_pb2 as pb
from services.gateway import Scenario, Snapshot, Status
from services.gateway.records import Outcome
from services.gateway.scenario import OF_CONNECTIONS, Rule, Rules
from services.gateway.scripts import SCRIPTS
from tests.gateway.client import IS_IB_ASYNC, client_of, until
from tests.support.gateway import gateway

TAKEN = ["openOrder Submitted", "orderStatus Submitted"]
WARNED = ["openOrder PreSubmitted", "orderStatus PreSubmitted"]
PART = ["execDetails .01", *TAKEN, "commissionReport .01"]
TOLD = ["openOrder Filled", "orderStatus Filled"]
DONE = ["execDetails .01", *TOLD, "commissionReport .01"]

# What the client sees of an order of 10 until it waits, and after each release.
FILLED: dict[str, list[list[str]]] = {
    "IMMEDIATE_FILL": [TAKEN + DONE],
    "PARTIAL_FILLS": [TAKEN + PART, PART, DONE],
    "HELD": [TAKEN, DONE],
    "SILENT": [[], []],
    "FILL_BEFORE_STATUS": [["execDetails .01", *TAKEN, *TOLD, "commissionReport .01"]],
    "NO_STATUS": [["execDetails .01", "commissionReport .01"]],
    "STATUS_TWICE": [
        [
            *TAKEN,
            "orderStatus Submitted",
            "execDetails .01",
            "orderStatus Filled",
            *TOLD,
            "commissionReport .01",
        ]
    ],
    "STATUS_FILLED_BEFORE_FILL": [[*TAKEN, *TOLD, "execDetails .01", "commissionReport .01"]],
    "DUPLICATE_EXECUTION": [[*TAKEN, "execDetails .01", *DONE, "commissionReport .01"]],
    "CORRECTED_EXECUTION": [[*TAKEN, *DONE, "execDetails .02", "commissionReport .02"]],
    "LATE_COMMISSION": [[*TAKEN, "execDetails .01", *TOLD], ["commissionReport .01"]],
    "FALSE_CANCEL_10349": [["error 10349", "orderStatus Cancelled", *DONE]],
    "FALSE_END_105": [[*TAKEN, "error 105"], DONE],
    "WARNING_399": [[*WARNED, "error 399"], DONE],
    "WARNING_404": [[*WARNED, "error 404"], DONE],
    "WARNING_2109": [[*WARNED, "error 2109"], DONE],
    "CANCEL_RACE": [TAKEN, DONE],
    "CANCEL_REFUSED": [TAKEN, DONE],
    "CONNECTIVITY_LOST_IN_FILL": [[*TAKEN, *PART, "error 1100"], ["error 1102"]],
    "DATA_LOST": [[*TAKEN, *PART, "error 1100"], ["error 1101"]],
}
# What it sees of an order that ends without being filled.
ENDED: dict[str, tuple[list[str], str]] = {
    "REJECT_201": (["error 201"], "Inactive"),
    "REJECT_201_THEN_INACTIVE": (
        ["openOrder PreSubmitted", "error 201", "openOrder Inactive", "orderStatus Inactive"],
        "Inactive",
    ),
    "REJECT_200": (["error 200"], ""),
    "REJECT_460": (["error 460"], ""),
    "REJECT_10052": (["error 10052"], ""),
    "REJECT_10311": (["error 10311"], ""),
    "READ_ONLY_321": (["error 321"], ""),
    "CANCELLED_WITH_FILLS": (
        [*TAKEN, *PART, "openOrder Cancelled", "orderStatus Cancelled", "error 202"],
        "Cancelled",
    ),
}
# What it sees before the connection breaks, and whether the broker has the order, and its fills.
DROPPED: dict[str, tuple[list[str], bool, int]] = {
    "ORDER_LOST": ([], False, 0),
    "ANSWER_LOST": ([], True, 10),
    "DROP_AFTER_PLACE": ([], True, 0),
    "DROP_AFTER_OPEN_ORDER": (["openOrder Submitted"], True, 10),
    "DROP_AFTER_SUBMITTED": (TAKEN, True, 10),
    "DROP_IN_PARTIAL": (TAKEN + PART, True, 10),
    "DROP_AFTER_EXECUTION": ([*TAKEN, "execDetails .01"], True, 10),
    "DROP_AFTER_COMMISSION": (TAKEN + DONE, True, 10),
}


def test_each_scenario_has_a_script_a_test_and_a_place_in_the_contract() -> None:
    names = {scenario.value for scenario in Scenario}
    assert set(pb.SetScenarioRequest.Scenario.keys()) - {"SCENARIO_UNSPECIFIED"} == names
    assert set(SCRIPTS) == set(Scenario) - OF_CONNECTIONS
    assert {*FILLED, *ENDED, *DROPPED} == {scenario.value for scenario in SCRIPTS}


@pytest.mark.parametrize("name", FILLED)
async def test_an_order_that_fills(name: str) -> None:
    async with gateway() as broker, client_of(broker) as client:
        broker.set_scenario(name)
        client.place()
        await client.settled()
        assert client.seen == FILLED[name][0]
        for after_release in FILLED[name][1:]:
            client.seen_from_now()
            assert broker.release() == 1
            await client.settled()
            assert client.seen == after_release
        assert broker.release() == 0
        assert_filled_once(broker.snapshot())


@pytest.mark.parametrize("name", ENDED)
async def test_an_order_that_ends_unfilled(name: str) -> None:
    async with gateway() as broker, client_of(broker) as client:
        broker.set_scenario(name)
        client.place()
        await client.settled()
        seen, status = ENDED[name]
        assert client.seen == seen
        open_orders, completed, executions = await client.evidence()
        assert open_orders == []
        assert [trade.orderStatus.status for trade in completed] == ([status] if status else [])
        assert sum(fill.execution.shares for fill in executions) == (
            6 if name == "CANCELLED_WITH_FILLS" else 0
        )
        snapshot = broker.snapshot()
        assert [receipt.ticket.order_ref for receipt in snapshot.receipts] == ["ref-1"]
        assert [order.status for order in snapshot.orders] == ([status] if status else [])


@pytest.mark.parametrize("name", DROPPED)
async def test_an_order_whose_connection_breaks(name: str) -> None:
    seen, is_known, filled = DROPPED[name]
    async with gateway() as broker, client_of(broker) as client:
        broker.set_scenario(name)
        client.place()
        await client.dropped()
        assert client.seen == seen
        await client.connect(broker.port)
        open_orders, completed, executions = await client.evidence()
        refs = [trade.order.orderRef for trade in (*open_orders, *completed)]
        assert refs == (["ref-1"] if is_known else [])
        assert sum(fill.execution.shares for fill in executions) == filled
        if is_known and not filled:
            broker.release()
            await client.settled()
        if is_known:
            assert_filled_once(broker.snapshot())
        else:
            (receipt,) = broker.snapshot().receipts
            assert receipt.outcome is Outcome.LOST
            assert broker.snapshot().positions == {}


def assert_filled_once(snapshot: Snapshot) -> None:
    """The one order of 10 is filled, once, and was sent once."""
    (order,) = snapshot.orders
    assert (order.status, order.filled, order.ticket.order_ref) == (Status.FILLED, 10, "ref-1")
    assert snapshot.times_received(order) == 1
    assert snapshot.positions == {"SPXL": Decimal(10)}


async def test_a_held_order_is_cancelled_when_asked() -> None:
    async with gateway() as broker, client_of(broker) as client:
        broker.set_scenario("HELD")
        trade = client.place()
        await client.settled()
        client.seen_from_now()
        client.ib.cancelOrder(trade.order)
        await client.settled()
        cancelled = ["openOrder Cancelled", "orderStatus Cancelled", "error 202"]
        assert client.seen == ["orderStatus PendingCancel", *cancelled]
        assert trade.orderStatus.status == "Cancelled"
        assert broker.release() == 1  # its script goes on, and finds the order ended
        (order,) = broker.snapshot().orders
        assert (order.status, order.filled, order.cancels_received) == (Status.CANCELLED, 0, 1)


async def test_a_partly_filled_order_is_cancelled_with_its_fills() -> None:
    async with gateway() as broker, client_of(broker) as client:
        broker.set_scenario("PARTIAL_FILLS")
        trade = client.place()
        await client.settled()
        client.ib.cancelOrder(trade.order)
        await client.settled()
        assert (trade.orderStatus.status, trade.orderStatus.filled) == ("Cancelled", 3)
        assert broker.snapshot().positions == {"SPXL": Decimal(3)}


async def test_a_cancel_loses_the_race_against_the_fill() -> None:
    async with gateway() as broker, client_of(broker) as client:
        broker.set_scenario("CANCEL_RACE")
        trade = client.place()
        await client.settled()
        client.seen_from_now()
        client.ib.cancelOrder(trade.order)
        await client.settled()
        assert client.seen == ["orderStatus PendingCancel", *DONE]
        assert_filled_once(broker.snapshot())


async def test_a_refused_cancel_leaves_the_order_live() -> None:
    async with gateway() as broker, client_of(broker) as client:
        broker.set_scenario("CANCEL_REFUSED")
        trade = client.place()
        await client.settled()
        client.seen_from_now()
        client.ib.cancelOrder(trade.order)
        await client.settled()
        assert client.seen == ["error 10148"]
        open_orders, _, _ = await client.evidence()
        assert [one.order.orderRef for one in open_orders] == ["ref-1"]
        broker.release()
        await client.settled()
        assert_filled_once(broker.snapshot())


async def test_a_silent_broker_answers_no_cancel_and_shows_the_order_to_who_asks() -> None:
    async with gateway() as broker, client_of(broker) as client:
        broker.set_scenario("SILENT")
        trade = client.place()
        client.ib.cancelOrder(trade.order)
        await client.settled()
        assert client.seen == []
        assert trade.orderStatus.status in ("PendingSubmit", "PendingCancel")
        open_orders, _, _ = await client.evidence()
        assert [one.order.orderRef for one in open_orders] == ["ref-1"]


async def test_what_is_filled_while_connectivity_is_lost_is_found_by_asking() -> None:
    async with gateway() as broker, client_of(broker) as client:
        broker.set_scenario("CONNECTIVITY_LOST_IN_FILL")
        trade = client.place()
        await client.settled()
        assert sum(fill.execution.shares for fill in trade.fills) == 5
        broker.release()
        _, completed, executions = await client.evidence()
        assert [one.order.orderRef for one in completed] == ["ref-1"]
        assert sum(fill.execution.shares for fill in executions) == 10


async def test_the_libraries_believe_the_false_cancel() -> None:
    async with gateway() as broker, client_of(broker) as client:
        broker.set_scenario("FALSE_CANCEL_10349", held=True)
        trade = client.place()
        await client.settled()
        assert (trade.orderStatus.status, trade.isDone()) == ("Cancelled", True)
        broker.release()
        await client.settled()
        assert_filled_once(broker.snapshot())


async def test_a_read_only_gateway_is_told_differently_by_the_libraries() -> None:
    async with gateway() as broker, client_of(broker) as client:
        broker.set_scenario("READ_ONLY_321")
        trade = client.place()
        await client.settled()
        told = "ValidationError" if IS_IB_ASYNC else "Cancelled"
        assert trade.orderStatus.status == told


async def test_waits_last_so_long_when_a_delay_is_set() -> None:
    async with gateway() as broker, client_of(broker) as client:
        broker.set_scenario("PARTIAL_FILLS", delay_s=0.02)
        trade = client.place()
        await client.settled()
        assert trade.filled() == 3
        await until(lambda: trade.filled() == 10, "the delays are over")
        assert broker.release() == 0


async def test_a_scenario_for_the_next_orders_comes_before_those_for_ever() -> None:
    rules = Rules()
    rules.add(Rule(Scenario.HELD))
    rules.add(Rule(Scenario.SILENT, "NVDL"))
    rules.add(Rule(Scenario.REJECT_201, times=1))
    rules.add(Rule(Scenario.NO_STATUS, times=2))
    chosen = [rules.for_order("SPXL").scenario for _ in range(4)]
    assert chosen == ["REJECT_201", "NO_STATUS", "NO_STATUS", "HELD"]
    assert rules.for_order("NVDL").scenario == "SILENT"
    rules.add(Rule(Scenario.IMMEDIATE_FILL))
    assert rules.for_order("NVDL").scenario == "IMMEDIATE_FILL"

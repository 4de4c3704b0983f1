"""What becomes of an order under each of the gateway's scenarios; exactly once under all of them.

The `desk` fixture checks after each test that every order was sent once at most and that every
execution is booked once, with positions and cash to the cent.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from services.gateway import Scenario, SimulatedGateway
from services.portfolio.domain.order import Order, Status
from services.portfolio.domain.weather import BrokerState
from services.portfolio.live.verdict import NEVER_HAD_IT
from services.portfolio.ports import UnavailableError
from tests.live.desk import CASH, SOON_S, Desk, live_desk, stopped_desk
from tests.support.gateway import gateway
from tests.support.waiting import wait_until_async

PENDING, EXECUTED, UNKNOWN = Status.PENDING, Status.EXECUTED, Status.UNKNOWN
BOUGHT_AT = Decimal("100.01")  # a cent worse than the last price of 100
MARGIN = "The available funds are not enough for this order."

# An order of 10 that the broker fills by itself, and in how many executions of 1 USD each.
FILLS = {
    "IMMEDIATE_FILL": 1,
    "ANSWER_LOST": 1,
    "DROP_AFTER_OPEN_ORDER": 1,
    "DROP_AFTER_SUBMITTED": 1,
    "DROP_IN_PARTIAL": 2,
    "DROP_AFTER_EXECUTION": 1,
    "DROP_AFTER_COMMISSION": 1,
    "FILL_BEFORE_STATUS": 1,
    "NO_STATUS": 1,
    "STATUS_TWICE": 1,
    "STATUS_FILLED_BEFORE_FILL": 1,
    "DUPLICATE_EXECUTION": 1,
    "FALSE_CANCEL_10349": 1,
}
# Live until it is released, whatever is said of it.
STAYS = (
    "HELD",
    "CANCEL_RACE",
    "CANCEL_REFUSED",
    "FALSE_CANCEL_10349",
    "FALSE_END_105",
    "WARNING_399",
    "WARNING_404",
    "WARNING_2109",
    "DROP_AFTER_PLACE",
    "SILENT",
)
REFUSED = {
    "REJECT_201": MARGIN,
    "REJECT_201_THEN_INACTIVE": MARGIN,
    "REJECT_200": "No security definition has been found",
    "REJECT_460": "No trading permissions for this product",
    "REJECT_10052": "Invalid time in force",
    "REJECT_10311": "This order will be directly routed to the exchange",
    "READ_ONLY_321": "The API interface is currently in Read-Only mode",
}
TOLD_BELOW = {  # by a test of its own
    "PARTIAL_FILLS",
    "ORDER_LOST",
    "CORRECTED_EXECUTION",
    "LATE_COMMISSION",
    "CANCELLED_WITH_FILLS",
    "CONNECTIVITY_LOST_IN_FILL",
    "DATA_LOST",
    "CLIENT_ID_TAKEN",
    "ID_ROLLBACK",
}


def assert_filled(order: Order, executions: int = 1, price: Decimal = BOUGHT_AT) -> None:
    """All 10 are filled, and the order shows at what price and commission."""
    assert (order.status, order.filled_quantity) == (EXECUTED, 10)
    assert (order.average_fill_price, order.reason) == (price, "")
    assert (order.commission, order.reserved_cash) == (executions, 0)


async def filled(desk: Desk, order: Order, executions: int = 1) -> Order:
    """The order once it is filled and its commission is booked."""

    async def charged() -> bool:
        return (await desk.now(order)).commission == executions

    await desk.until(order, EXECUTED)
    await wait_until_async(charged, SOON_S, f"{executions} USD of commission")
    return await desk.now(order)


def test_each_scenario_has_a_test() -> None:
    assert {*FILLS, *STAYS, *REFUSED, *TOLD_BELOW} == {scenario.value for scenario in Scenario}


@pytest.mark.parametrize("name", FILLS)
async def test_an_order_that_the_broker_fills_is_executed(desk: Desk, name: str) -> None:
    desk.gateway.set_scenario(name)
    order = await desk.buy()
    assert (order.status, order.reserved_cash) == (PENDING, Decimal(1021))
    assert_filled(await filled(desk, order, FILLS[name]), FILLS[name])
    await desk.assert_exactly_once()
    assert desk.received(order) == 1
    assert (await desk.portfolio()).reserved_cash == 0


@pytest.mark.parametrize("name", STAYS)
async def test_a_live_order_stays_pending_whatever_is_said_of_it(desk: Desk, name: str) -> None:
    desk.gateway.set_scenario(name, held=True)
    began = datetime.now(UTC)
    order = await desk.buy()
    await desk.until_sent(order)
    if name == "DROP_AFTER_PLACE":
        await desk.until_connected_since(began)
    await desk.looked_for_sure()
    assert await desk.now(order) == order
    assert (await desk.portfolio()).reserved_cash == order.reserved_cash
    desk.gateway.release()
    if name == "SILENT":  # it does not even tell of the fill
        await desk.looked()
    assert_filled(await filled(desk, order))


@pytest.mark.parametrize("name", REFUSED)
async def test_an_order_that_the_broker_refuses_is_rejected_in_its_words(
    desk: Desk, name: str
) -> None:
    desk.gateway.set_scenario(name)
    order = await desk.until(await desk.buy(), Status.REJECTED)
    assert order.reason.startswith("The broker refused it: ")
    assert REFUSED[name] in order.reason
    assert (order.filled_quantity, order.commission, order.reserved_cash) == (0, 0, 0)
    portfolio = await desk.portfolio()
    assert (portfolio.cash, portfolio.reserved_cash) == (CASH, 0)
    assert desk.received(order) == 1


async def test_partial_fills_are_booked_one_by_one(desk: Desk) -> None:
    desk.gateway.set_scenario("PARTIAL_FILLS")
    order = await desk.buy()
    reserved = order.reserved_cash
    for shares in (3, 6):
        seen = await desk.until(order, PENDING, shares)
        assert seen.average_fill_price == BOUGHT_AT
        assert seen.reserved_cash == reserved * (10 - shares) / 10
        await desk.assert_exactly_once()
        desk.gateway.release()
    assert_filled(await filled(desk, order, 3), 3)


async def test_an_order_that_was_lost_is_unknown_until_it_is_sure_that_no_broker_has_it(
    desk: Desk,
) -> None:
    desk.gateway.set_scenario("ORDER_LOST", times=1)
    order = await desk.buy()
    unknown = await desk.until(order, UNKNOWN)
    assert "the broker has not said that it has it" in unknown.reason
    assert unknown.reserved_cash == order.reserved_cash
    rejected = await desk.until(order, Status.REJECTED)
    assert rejected.reason == NEVER_HAD_IT
    assert rejected.reserved_cash == 0
    portfolio = await desk.portfolio()
    assert (portfolio.cash, portfolio.reserved_cash) == (CASH, 0)
    assert desk.received(order) == 1
    assert_filled(await filled(desk, await desk.buy()))  # and the desk goes on


async def test_what_an_execution_is_corrected_to_is_what_counts(desk: Desk) -> None:
    desk.gateway.set_scenario("CORRECTED_EXECUTION", held=True)
    order = await desk.buy()
    await desk.until_sent(order)
    desk.gateway.release()
    assert_filled(await filled(desk, order))
    desk.gateway.release()
    corrected = BOUGHT_AT + Decimal("0.05")

    async def is_corrected() -> bool:
        return (await desk.now(order)).average_fill_price == corrected

    await wait_until_async(is_corrected, SOON_S, "the correction")
    await desk.assert_exactly_once()
    assert_filled(await desk.now(order), price=corrected)


@pytest.mark.parametrize("how", ["told", "asked for"])
async def test_a_commission_that_comes_late_is_booked_when_it_comes(desk: Desk, how: str) -> None:
    desk.gateway.set_scenario("LATE_COMMISSION")
    order = await desk.until(await desk.buy(), EXECUTED)
    assert order.commission == 0
    if how == "asked for":
        desk.gateway.go_silent(True)
    desk.gateway.release()
    if how == "asked for":
        desk.gateway.drop_connections()  # what it would have said is gone with them
        desk.gateway.go_silent(False)
    assert_filled(await filled(desk, order))


async def test_an_order_that_is_cancelled_with_fills_keeps_them(desk: Desk) -> None:
    desk.gateway.set_scenario("CANCELLED_WITH_FILLS")
    order = await desk.until(await desk.buy(), Status.CANCELLED)
    assert (order.filled_quantity, order.average_fill_price) == (6, BOUGHT_AT)
    assert (order.commission, order.reserved_cash) == (1, 0)
    assert order.reason == "The broker cancelled it. Cancelled by the exchange"
    assert (await desk.portfolio()).reserved_cash == 0


@pytest.mark.parametrize("name", ["CONNECTIVITY_LOST_IN_FILL", "DATA_LOST"])
async def test_what_fills_while_ib_is_away_is_found_when_it_is_back(desk: Desk, name: str) -> None:
    desk.gateway.set_scenario(name)
    order = await desk.buy()
    await desk.until(order, PENDING, 5)
    await desk.until_state(BrokerState.CONNECTIVITY_LOST)
    desk.gateway.release()
    assert_filled(await filled(desk, order, 2), 2)
    await desk.until_state(BrokerState.CONNECTED)


async def test_a_client_id_that_is_taken_is_tried_until_it_is_free(
    migrated_url: str, broker: SimulatedGateway
) -> None:
    broker.set_scenario("CLIENT_ID_TAKEN", times=2)
    async with stopped_desk(migrated_url, broker) as desk:
        desk.start_sender()

        async def says_so() -> bool:
            return "client id is already in use" in desk.lookout.seen().weather.detail

        await wait_until_async(says_so, SOON_S, "the reason")
        assert desk.lookout.seen().weather.state is BrokerState.DOWN
        await desk.until_state(BrokerState.CONNECTED)
        assert_filled(await filled(desk, await desk.buy()))
        await desk.assert_exactly_once()


@pytest.mark.parametrize("to", [None, 1])
async def test_no_order_id_is_used_again_when_the_gateway_rolls_back(
    desk: Desk, to: int | None
) -> None:
    for _ in range(3):
        await filled(desk, await desk.buy())
    if to is None:
        desk.gateway.set_scenario("ID_ROLLBACK", times=1)
    else:
        desk.gateway.roll_back_ids(to)
    began = datetime.now(UTC)
    desk.gateway.drop_connections()
    await desk.until_connected_since(began)
    assert_filled(await filled(desk, await desk.buy()))
    ids = [receipt.order_id for receipt in desk.gateway.snapshot().receipts]
    assert ids == sorted(set(ids))


async def test_a_gateway_that_is_started_again_with_its_state_goes_on(
    migrated_url: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    state = tmp_path_factory.mktemp("gateway") / "state.sqlite"
    async with gateway(state=state) as first:
        port = first.port
        async with live_desk(migrated_url, first) as desk:
            first.set_scenario("PARTIAL_FILLS")
            order = await desk.buy()
            await desk.until(order, PENDING, 3)
            began = datetime.now(UTC)
            await first.__aexit__(None, None, None)
            await desk.until_state(BrokerState.DOWN)
            async with gateway(state=state, port=port) as second:
                desk.gateway = second
                await desk.until_connected_since(began)
                assert await desk.now(order) == await desk.until(order, PENDING, 3)
                second.release()
                assert_filled(await filled(desk, order, 2), 2)
                assert_filled(await filled(desk, await desk.buy()))
                await desk.assert_exactly_once()


async def test_a_cancel_ends_the_order_once_the_broker_agrees(desk: Desk) -> None:
    desk.gateway.set_scenario("PARTIAL_FILLS")
    order = await desk.buy()
    await desk.until(order, PENDING, 3)
    assert (await desk.cancel(order)).status is PENDING
    ended = await desk.until(order, Status.CANCELLED)
    assert (ended.filled_quantity, ended.reserved_cash) == (3, 0)
    assert ended.reason.startswith("Cancelled, as asked.")
    (there,) = desk.gateway.snapshot().orders
    assert there.cancels_received == 1


async def test_a_cancel_that_loses_the_race_against_the_fill_changes_nothing(desk: Desk) -> None:
    desk.gateway.set_scenario("CANCEL_RACE")
    order = await desk.buy()
    await desk.until_sent(order)
    assert (await desk.cancel(order)).status is PENDING
    assert_filled(await filled(desk, order))


async def test_a_cancel_that_the_broker_refuses_leaves_the_order_pending(desk: Desk) -> None:
    desk.gateway.set_scenario("CANCEL_REFUSED")
    order = await desk.buy()
    await desk.until_sent(order)
    assert (await desk.cancel(order)).status is PENDING

    async def asked() -> bool:
        return desk.gateway.snapshot().orders[0].cancels_received == 1

    await wait_until_async(asked, SOON_S, "the cancel at the gateway")
    await desk.looked_for_sure()
    assert (await desk.now(order)).status is PENDING
    desk.gateway.release()
    assert_filled(await filled(desk, order))


@pytest.mark.parametrize("name", list(Scenario))
async def test_no_order_is_ever_sent_twice(desk: Desk, name: Scenario) -> None:
    """Whatever breaks while the orders are on their way: the line, the lock, the router."""
    desk.gateway.set_scenario(name, times=3)
    orders = [await desk.buy(symbol="SPXL")]
    await desk.until_sent(orders[0])
    desk.gateway.drop_connections()
    orders.append(await _placed(desk, "NVDL", 50))
    await desk.cut_sender()
    orders.append(await _placed(desk, "HOOD", 20))
    await desk.restart_sender()
    desk.gateway.set_scenario("IMMEDIATE_FILL")
    await _all_ended(desk, orders)
    await desk.assert_exactly_once()
    for order in orders:
        seen = await desk.now(order)
        assert desk.received(order) == 1 or (seen.status, seen.filled_quantity) == ("REJECTED", 0)


async def _placed(desk: Desk, symbol: str, price: int) -> Order:
    """An order that is placed as soon as orders are taken."""

    async def taken() -> Order | None:
        try:
            return await desk.buy(symbol=symbol, price=price)
        except UnavailableError:
            desk.gateway.release()  # the order before it may have taken IB away (1100)
            return None

    order = await wait_until_async(taken, SOON_S, "orders are taken")
    assert order is not None
    return order


async def _all_ended(desk: Desk, orders: Sequence[Order]) -> None:
    """Releases what waits until every order has ended."""

    async def ended() -> bool:
        desk.gateway.release()
        for order in orders:
            if (await desk.now(order)).is_open:
                return False
        return True

    await wait_until_async(ended, SOON_S, "the end of all orders")

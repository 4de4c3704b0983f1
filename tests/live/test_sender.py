"""The sender at the desk: what it refuses, what it lets wait, what it asks, and what it outlives.

The `desk` fixture checks after each test that every order was sent once at most and that every
execution is booked once, with positions and cash to the cent.
"""

import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from services.gateway import SimulatedGateway
from services.portfolio.commands import SellAll
from services.portfolio.domain.errors import NotUnattributedError, SymbolFrozenError
from services.portfolio.domain.ledger import Report
from services.portfolio.domain.order import Order, Status
from services.portfolio.domain.reconciliation import UNATTRIBUTED
from services.portfolio.domain.weather import BrokerState, MarketData, Weather
from services.portfolio.live.commands import AssignShares
from services.portfolio.live.sender import BEAT_S
from services.portfolio.live.verdict import NEVER_HAD_IT
from services.portfolio.ports import UnavailableError
from services.portfolio.storage.baton import PostgresBaton
from tests.live.desk import CASH, NAME, SOON_S, Desk, live_desk, row_of, stopped_desk
from tests.ports.stores import run_sql
from tests.support.waiting import wait_until_async

PENDING, EXECUTED = Status.PENDING, Status.EXECUTED
CANCELLED, REJECTED, UNKNOWN = Status.CANCELLED, Status.REJECTED, Status.UNKNOWN


async def assert_refused(desk: Desk) -> None:
    """A new order is refused, and leaves no trace."""
    before = [order.order_id for order in await desk.orders()]
    with pytest.raises(UnavailableError) as refused:
        await desk.buy()
    assert refused.value.reason == "BROKER_UNAVAILABLE"
    assert [order.order_id for order in await desk.orders()] == before
    assert (await desk.portfolio()).reserved_cash == 0


async def cut_off(desk: Desk) -> None:
    """The gateway is gone; the desk has not heard of it yet."""
    await desk.gateway.refuse_connections(True)
    desk.gateway.drop_connections()


def assert_nothing_is_held(order: Order) -> None:
    assert (order.filled_quantity, order.reserved_cash) == (0, 0)


async def test_a_sender_with_nothing_to_do_says_so_once_a_second(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[float] = []
    say = PostgresBaton.say

    async def counted(baton: PostgresBaton, weather: Weather) -> None:
        said.append(time.monotonic())
        await say(baton, weather)

    async def often() -> bool:
        return len(said) >= 5

    monkeypatch.setattr(PostgresBaton, "say", counted)
    await wait_until_async(often)
    assert said[-1] - said[0] > 3 * BEAT_S  # each word wakes every sender, this one too


# -- while the broker is away -----------------------------------------------------------------


async def test_without_a_sender_orders_are_refused(
    migrated_url: str, broker: SimulatedGateway
) -> None:
    async with stopped_desk(migrated_url, broker) as desk:
        await assert_refused(desk)


async def test_while_the_gateway_is_gone_orders_are_refused_and_then_taken_again(
    desk: Desk,
) -> None:
    await cut_off(desk)
    await desk.until_state(BrokerState.DOWN)
    await assert_refused(desk)
    await desk.gateway.refuse_connections(False)
    await desk.until_state(BrokerState.CONNECTED)
    await desk.until(await desk.buy(), EXECUTED)


@pytest.mark.parametrize(("lost", "back"), [(1100, 1102), (2110, 1102), (2110, 2104)])
async def test_while_the_gateway_has_lost_ib_orders_are_refused_and_then_taken_again(
    desk: Desk, lost: int, back: int
) -> None:
    desk.gateway.notice(lost)
    await desk.until_state(BrokerState.CONNECTIVITY_LOST)
    await assert_refused(desk)
    desk.gateway.notice(back)
    await desk.until_state(BrokerState.CONNECTED)
    await desk.until(await desk.buy(), EXECUTED)


async def test_after_1100_a_farm_that_is_back_is_not_ib_s_return(desk: Desk) -> None:
    desk.gateway.notice(1100)
    await desk.until_state(BrokerState.CONNECTIVITY_LOST)
    desk.gateway.notice(2103)
    await desk.until_market_data(MarketData.BROKEN)
    desk.gateway.notice(2104)
    await desk.until_market_data(MarketData.OK)
    await assert_refused(desk)
    desk.gateway.notice(1102)
    await desk.until_state(BrokerState.CONNECTED)


async def test_an_order_that_waits_too_long_to_be_sent_is_rejected_as_never_sent(
    migrated_url: str, broker: SimulatedGateway
) -> None:
    async with live_desk(migrated_url, broker, queue_within_s=4.5) as desk:
        await cut_off(desk)
        order = await desk.until(await desk.buy(), REJECTED)
        assert order.reason == "Never sent: it could not be sent within 4.5 s (DOWN)."
        # However long the pauses between two attempts to connect have become.
        assert order.update_time - order.create_time < timedelta(seconds=7)
        assert_nothing_is_held(order)
        assert (await desk.portfolio()).reserved_cash == 0
        await broker.refuse_connections(False)
        await desk.until_state(BrokerState.CONNECTED)
        await desk.until(await desk.buy(), EXECUTED)
        assert desk.received(order) == 0
        await desk.assert_exactly_once()


async def test_an_order_that_waits_for_a_short_break_is_sent_after_it(
    migrated_url: str, broker: SimulatedGateway
) -> None:
    async with live_desk(migrated_url, broker, queue_within_s=20.0) as desk:
        await cut_off(desk)
        order = await desk.buy()
        await desk.until_state(BrokerState.DOWN)
        assert (await desk.now(order)).status is PENDING
        await broker.refuse_connections(False)
        await desk.until(order, EXECUTED)
        await desk.assert_exactly_once()


async def test_an_order_that_waits_while_the_router_is_replaced_is_sent_by_the_next(
    migrated_url: str, broker: SimulatedGateway
) -> None:
    async with live_desk(migrated_url, broker, queue_within_s=20.0) as desk:
        await cut_off(desk)
        order = await desk.buy()
        await desk.restart_sender()
        await broker.refuse_connections(False)
        await desk.until(order, EXECUTED)
        await desk.assert_exactly_once()


async def test_an_order_whose_sender_died_before_it_reached_the_wire_is_never_sent(
    migrated_url: str, broker: SimulatedGateway
) -> None:
    """From the commit of its id on it may be at the broker: only evidence says that it is not."""
    async with live_desk(migrated_url, broker, queue_within_s=20.0) as desk:
        await cut_off(desk)
        order = await desk.buy()
        await desk.stop_sender()
        await desk.assign(order, 1000)  # as the sender does, which then dies
        await broker.refuse_connections(False)
        desk.start_sender()
        ended = await desk.until(order, REJECTED)
        assert ended.reason == NEVER_HAD_IT
        assert desk.received(order) == 0
        await desk.until(await desk.buy(), EXECUTED)
        assert [receipt.order_id > 1000 for receipt in broker.snapshot().receipts] == [True]
        await desk.assert_exactly_once()


async def test_a_gateway_that_hangs_leaves_an_order_unknown_until_it_speaks(desk: Desk) -> None:
    await desk.until(await desk.buy(), EXECUTED)  # a price is known, as on any other day
    desk.gateway.go_silent(True)
    order = await desk.until(await desk.buy(), UNKNOWN)
    assert order.reserved_cash > 0
    await desk.until_state(BrokerState.DOWN)
    with pytest.raises(UnavailableError):
        await desk.buy()
    desk.gateway.go_silent(False)
    ended = await desk.until(order, REJECTED)  # its connection had ended: it was lost
    assert ended.reason == NEVER_HAD_IT
    assert_nothing_is_held(ended)


async def test_an_order_outside_of_the_session_waits_for_the_open_at_the_broker(
    desk: Desk,
) -> None:
    desk.gateway.set_market_closed(True)
    order = await desk.buy()
    await desk.until_sent(order)
    await desk.looked_for_sure()
    assert await desk.now(order) == order
    desk.gateway.set_market_closed(False)
    await desk.until(order, EXECUTED)


@pytest.mark.parametrize(
    ("code", "shown"),
    [(2103, MarketData.BROKEN), (2105, MarketData.BROKEN), (10197, MarketData.COMPETING_SESSION)],
)
async def test_what_is_wrong_with_the_prices_is_shown(
    desk: Desk, code: int, shown: MarketData
) -> None:
    for notice, expected in ((code, shown), (2104, MarketData.OK)):
        desk.gateway.notice(notice)
        await desk.until_market_data(expected)
        assert desk.lookout.seen().weather.state is BrokerState.CONNECTED
    await desk.until(await desk.buy(), EXECUTED)


# -- what is not sent at all ------------------------------------------------------------------


@pytest.mark.parametrize("price", [94, 106])
async def test_an_order_whose_price_is_far_from_the_brokers_is_not_sent(
    desk: Desk, price: int
) -> None:
    order = await desk.until(await desk.buy(price=price), REJECTED)
    assert order.reason == (
        f"Not sent: the price {price}.00 lies more than 5.0% from the broker's last price 100.00."
    )
    assert_nothing_is_held(order)
    assert desk.received(order) == 0


async def test_the_distance_is_from_the_last_price_of_now(desk: Desk) -> None:
    await desk.until(await desk.buy(), EXECUTED)
    desk.gateway.set_price("SPXL", Decimal(110))
    await desk.looked()  # what was streamed before the answers has arrived with them
    await desk.until(await desk.buy(), REJECTED)
    await desk.until(await desk.buy(price=110), EXECUTED)


async def test_an_order_in_a_symbol_without_a_price_is_not_sent(desk: Desk) -> None:
    desk.gateway.set_market_data("UNSUBSCRIBED")
    order = await desk.until(await desk.buy(), REJECTED)
    assert "the broker told no price of SPXL" in order.reason
    assert desk.received(order) == 0


async def test_with_the_distance_off_any_price_goes(
    migrated_url: str, broker: SimulatedGateway
) -> None:
    async with live_desk(migrated_url, broker, price_distance=None) as desk:
        broker.set_market_data("UNSUBSCRIBED")
        await desk.until(await desk.buy(price=150), EXECUTED)
        await desk.assert_exactly_once()


async def test_a_burst_beyond_fifty_messages_a_second_is_sent_on_one_connection(
    desk: Desk,
) -> None:
    connected = desk.lookout.seen().weather.since
    orders = [await desk.buy(1) for _ in range(60)]
    for order in orders:
        await desk.until(order, EXECUTED)
    desk.gateway.set_scenario("HELD")
    orders = [await desk.buy(1) for _ in range(60)]
    for order in orders:
        await desk.until_sent(order)
    for order in orders:
        await desk.cancel(order)
    for order in orders:
        await desk.until(order, CANCELLED)
    assert desk.lookout.seen().weather.since == connected
    assert desk.lookout.seen().weather.state is BrokerState.CONNECTED


# -- cancelling -------------------------------------------------------------------------------


async def test_an_order_that_is_cancelled_before_it_is_sent_is_never_sent(
    migrated_url: str, broker: SimulatedGateway
) -> None:
    async with live_desk(migrated_url, broker, queue_within_s=60.0) as desk:
        await cut_off(desk)
        order = await desk.buy()
        assert (await desk.cancel(order)).status is PENDING
        ended = await desk.until(order, CANCELLED)
        assert ended.reason == "Cancelled before it was sent."
        assert_nothing_is_held(ended)
        await broker.refuse_connections(False)
        await desk.until_state(BrokerState.CONNECTED)
        await desk.until(await desk.buy(), EXECUTED)
        assert desk.received(order) == 0
        await desk.assert_exactly_once()


async def test_a_cancel_is_asked_for_by_the_router_that_comes_after(desk: Desk) -> None:
    desk.gateway.set_scenario("HELD")
    order = await desk.buy()
    await desk.until_sent(order)
    await desk.stop_sender()
    await desk.cancel(order)
    desk.start_sender()
    ended = await desk.until(order, CANCELLED)
    assert ended.reason.startswith("Cancelled, as asked.")


async def test_asking_for_a_cancel_proves_nothing_of_an_order_of_an_earlier_day(
    desk: Desk,
) -> None:
    """The broker forgets at midnight; "not found" may mean that it was filled the day before."""
    desk.gateway.set_scenario("DROP_AFTER_PLACE")
    order = await desk.buy()
    await desk.until_sent(order)
    await desk.stop_sender()
    desk.gateway.release()
    desk.gateway.forget_executions()
    await run_sql(desk.url, "UPDATE broker_orders SET sent_time = sent_time - interval '3 days'")
    desk.start_sender()
    unknown = await desk.until(order, UNKNOWN)
    assert "earlier day" in unknown.reason
    await desk.until_state(BrokerState.CONNECTED)
    desk.gateway.set_scenario("HELD")
    await desk.until_sent(await desk.buy(symbol="NVDL", price=50))
    await desk.cancel(order)
    (receipt, _) = desk.gateway.snapshot().receipts

    async def asked() -> bool:
        return desk.gateway.snapshot().orders[0].cancels_received == 1

    await wait_until_async(asked, SOON_S, "the cancel at the gateway")
    desk.gateway.notice(10147, "OrderId that needs to be cancelled is not found.", receipt.order_id)
    await desk.looked_for_sure()
    await desk.looked_for_sure()
    assert (await desk.now(order)).status is UNKNOWN
    # What no evidence can tell any more, a person does.
    report = Report(EXECUTED, Decimal(10), Decimal("100.01"), Decimal(1))
    told = await desk.tell(order, report)
    assert (told.status, told.filled_quantity, told.commission) == (EXECUTED, 10, 1)
    compared = await desk.until_compared(lambda seen: not row_of(seen).frozen)
    assert row_of(compared).strategies == 10


# -- what is only found by asking -------------------------------------------------------------


async def test_what_the_broker_never_tells_is_found_on_the_timer(
    migrated_url: str, broker: SimulatedGateway
) -> None:
    async with live_desk(migrated_url, broker, reconcile_every_s=0.2) as desk:
        broker.set_scenario("SILENT")
        order = await desk.buy()
        await desk.until_sent(order)
        broker.release()  # it is filled, and nobody is told
        await desk.until(order, EXECUTED)
        await desk.assert_exactly_once()


@pytest.mark.parametrize("restart", [False, True])
async def test_what_fills_while_nobody_listens_is_booked_after_the_next_connect(
    desk: Desk, restart: bool
) -> None:
    desk.gateway.set_scenario("PARTIAL_FILLS")
    order = await desk.buy()
    await desk.until(order, PENDING, 3)
    if restart:
        await desk.stop_sender()
    else:
        await cut_off(desk)
        await desk.until_state(BrokerState.DOWN)
    assert desk.gateway.release() == 1
    assert desk.gateway.release() == 1
    if restart:
        desk.start_sender()
    else:
        await desk.gateway.refuse_connections(False)
    filled = await desk.until(order, EXECUTED)
    await desk.assert_exactly_once()
    assert (filled.filled_quantity, (await desk.now(order)).commission) == (10, 3)


async def test_a_sender_that_lost_its_session_steps_back_and_misses_nothing(desk: Desk) -> None:
    desk.gateway.set_scenario("PARTIAL_FILLS")
    order = await desk.buy()
    await desk.until(order, PENDING, 3)
    began = datetime.now(UTC)
    await desk.cut_sender()
    desk.gateway.release()
    await desk.until(order, PENDING, 6)
    desk.gateway.release()
    await desk.until(order, EXECUTED)
    await desk.until_connected_since(began)
    await desk.until(await desk.buy(1), EXECUTED)


async def test_two_senders_never_both_hold_the_line(desk: Desk) -> None:
    desk.start_sender()
    held: set[tuple[int, ...]] = set()
    for _ in range(3):
        await desk.until_state(BrokerState.CONNECTED)
        order = await desk.buy()
        await desk.cut_sender()

        async def filled(order: Order = order) -> bool:
            held.add(tuple(desk.gateway.snapshot().connections))
            return (await desk.now(order)).status is EXECUTED

        await wait_until_async(filled, SOON_S, "the fill")
    assert held <= {(), (7,)}


# -- selling ----------------------------------------------------------------------------------


async def test_a_round_trip_leaves_the_cash_right_to_the_cent(desk: Desk) -> None:
    await desk.until(await desk.buy(), EXECUTED)
    desk.gateway.set_price("SPXL", Decimal("101.37"))
    await desk.looked()
    desk.gateway.set_scenario("PARTIAL_FILLS")
    sale = await desk.order(SellAll(NAME, "SPXL", Decimal(101)))
    for shares in (3, 6):
        await desk.until(sale, PENDING, shares)
        desk.gateway.release()
    sold = await desk.until(sale, EXECUTED)
    await desk.assert_exactly_once()
    assert sold.average_fill_price == Decimal("101.36")
    portfolio = await desk.portfolio()
    assert portfolio.cash == CASH - Decimal("1000.10") - 1 + Decimal("1013.60") - 3
    assert portfolio.realized_pnl == Decimal("9.50")


async def test_a_sale_that_is_cancelled_half_way_gives_the_shares_back(desk: Desk) -> None:
    await desk.until(await desk.buy(), EXECUTED)
    desk.gateway.set_scenario("CANCELLED_WITH_FILLS", times=1)
    sale = await desk.until(await desk.sell(), CANCELLED)
    assert sale.filled_quantity == 6
    rest = await desk.until(await desk.order(SellAll(NAME, "SPXL", Decimal(100))), EXECUTED)
    assert rest.quantity == 4


async def test_a_correction_of_shares_is_booked_on_an_order_that_has_ended(desk: Desk) -> None:
    order = await desk.until(await desk.buy(), EXECUTED)
    (made,) = desk.gateway.snapshot().executions
    desk.gateway.correct(made.exec_id, Decimal(9), Decimal("99.50"))
    corrected = await desk.until(order, EXECUTED, 9)
    assert corrected.average_fill_price == Decimal("99.50")
    await desk.assert_exactly_once()
    compared = await desk.until_compared(lambda seen: row_of(seen).broker == 9)
    assert row_of(compared).unattributed == 0


# -- shares that are nobody's -----------------------------------------------------------------


@pytest.mark.parametrize(("by_hand", "held"), [(5, 0), (5, 10), (-3, 10)])
async def test_shares_that_a_person_traded_freeze_the_symbol_until_they_are_assigned(
    desk: Desk, by_hand: int, held: int
) -> None:
    if held:
        await desk.until(await desk.buy(held), EXECUTED)
    desk.trade_by_hand(by_hand)
    await desk.looked()
    compared = await desk.until_compared(lambda seen: row_of(seen).frozen)
    row, seen = row_of(compared), compared.time
    assert (row.broker, row.strategies, row.unattributed) == (held + by_hand, held, by_hand)
    await _until_frozen(desk, True)
    with pytest.raises(SymbolFrozenError):
        await desk.buy()
    await desk.until(await desk.buy(symbol="NVDL", price=50), EXECUTED)  # the others go on
    with pytest.raises(NotUnattributedError):
        await desk.writer.submit(AssignShares(NAME, "SPXL", Decimal(by_hand * 2), Decimal(100)))
    await desk.writer.submit(AssignShares(NAME, "SPXL", Decimal(by_hand), Decimal(100)))
    await _until_frozen(desk, False)
    compared = await desk.until_compared(lambda now: not row_of(now).frozen, since=seen)
    assert row_of(compared).strategies == held + by_hand
    await desk.until(await desk.buy(), EXECUTED)


async def test_shares_that_are_acknowledged_as_nobodys_release_the_symbol(desk: Desk) -> None:
    desk.trade_by_hand(5)
    await desk.looked()
    await _until_frozen(desk, True)
    await desk.writer.submit(AssignShares(UNATTRIBUTED, "SPXL", Decimal(0), Decimal(0), "mine"))
    await _until_frozen(desk, False)
    await desk.until(await desk.buy(), EXECUTED)
    compared = await desk.until_compared(lambda seen: row_of(seen).strategies == 10)
    row = row_of(compared)
    assert (row.broker, row.unattributed, row.acknowledged) == (15, 5, 5)
    desk.trade_by_hand(1)  # what comes on top is nobody's word
    await desk.looked()
    await _until_frozen(desk, True)


async def test_fills_alone_never_freeze_a_symbol(
    migrated_url: str, broker: SimulatedGateway
) -> None:
    """A fill reaches the position and the ledger at two moments."""
    async with live_desk(migrated_url, broker, reconcile_every_s=0.01) as desk:
        broker.set_scenario("PARTIAL_FILLS", delay_s=0.05)
        orders = [await desk.buy() for _ in range(20)]
        for order in orders:
            await desk.until(order, EXECUTED)
            assert not desk.lookout.seen().frozen
        await desk.assert_exactly_once()
        compared = await desk.until_compared(lambda seen: row_of(seen).strategies == 200)
        assert row_of(compared).unattributed == 0
        assert compared.broker_cash == broker.snapshot().cash
        assert compared.net_liquidation is not None  # the most that LIVE strategies may share
        assert compared.net_liquidation > 0
        assert compared.strategies_cash == (await desk.portfolio()).cash


async def _until_frozen(desk: Desk, is_frozen: bool) -> None:
    async def so() -> bool:
        return ("SPXL" in desk.lookout.seen().frozen) is is_frozen

    await wait_until_async(so, SOON_S, f"SPXL frozen: {is_frozen}")

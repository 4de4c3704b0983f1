"""The line to Interactive Brokers, on the simulated gateway; alike on ib_insync and ib_async."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from decimal import Decimal
from itertools import count
from time import monotonic

import pytest
import uvloop

from services.gateway import FixedMarket, SimulatedGateway
from services.gateway.messages import commission_report, execution_details, open_order
from services.gateway.wire import frame
from services.mesh.ports import free_port
from services.portfolio.brokers import ib_library, ibkr_prices
from services.portfolio.brokers.ibkr_words import at_broker, symbol_from_wire
from services.portfolio.domain.evidence import (
    AtBroker,
    BrokerOrder,
    Evidence,
    LineLost,
    Notice,
    Refused,
    Reported,
)
from services.portfolio.domain.order import Side
from services.portfolio.live.ports import LineError
from tests.ledger.values import d
from tests.live.line_world import (
    ACCOUNT,
    CLIENT_ID,
    Heard,
    a_gateway,
    a_line,
    an_open_line,
    an_order,
    nobody_on,
    place,
    something_unanswered,
    the_loss,
)


@pytest.fixture
async def gateway() -> AsyncIterator[SimulatedGateway]:
    async with a_gateway() as one:
        yield one


def found(evidence: Evidence, ref: str) -> tuple[Decimal, set[str]]:
    """Shares filled and ids of an order's executions, each root by its last execution."""
    mine = {one.root: one for one in evidence.executions if one.order_ref == ref}
    return sum((one.quantity for one in mine.values()), d(0)), set(mine)


def state_of(orders: tuple[BrokerOrder, ...], ref: str) -> AtBroker | None:
    return next((one.state for one in orders if one.order_ref == ref), None)


class TestConnecting:
    async def test_it_says_which_account_it_is_on(self, gateway: SimulatedGateway) -> None:
        line = a_line(gateway)
        assert await line.connect(1) == ACCOUNT
        assert gateway.snapshot().connections == [CLIENT_ID]
        await line.disconnect()

    async def test_ids_begin_where_the_sender_says(self, gateway: SimulatedGateway) -> None:
        async with an_open_line(gateway, first_id=500) as line:
            assert [line.next_order_id(), line.next_order_id()] == [500, 501]

    async def test_ids_never_roll_back_with_the_brokers(self, gateway: SimulatedGateway) -> None:
        async with an_open_line(gateway, first_id=40) as line:
            place(line, an_order())
            gateway.roll_back_ids(36)
            await line.connect(41)
            assert line.next_order_id() == 41

    async def test_ids_follow_the_broker_when_it_is_ahead(self, gateway: SimulatedGateway) -> None:
        gateway.roll_back_ids(900)
        async with an_open_line(gateway, first_id=40) as line:
            assert line.next_order_id() == 900

    async def test_ids_stay_above_the_open_orders_of_other_clients(
        self, gateway: SimulatedGateway
    ) -> None:
        gateway.set_scenario("HELD")
        async with (
            an_open_line(gateway, 7000, client_id=8) as other,
            an_open_line(gateway, 40) as line,
        ):
            place(other, an_order())
            await other.evidence()
            await line.evidence()
            assert line.next_order_id() > 7000

    async def test_another_account_is_named_by_its_last_digits_only(
        self, gateway: SimulatedGateway
    ) -> None:
        line = a_line(gateway, account="U7654321")
        said = r"U\*+321 is not one of this login, which has DU\*+001"
        with pytest.raises(LineError, match=said):
            await line.connect(1)
        await nobody_on(gateway)

    async def test_a_client_id_in_use_is_said_at_once(self, gateway: SimulatedGateway) -> None:
        async with an_open_line(gateway):
            began = monotonic()
            with pytest.raises(LineError, match=r"client id 7.*already in use.*326"):
                await a_line(gateway, timeout_s=60).connect(1)
            assert monotonic() - began < 10

    async def test_it_can_be_tried_again(self, gateway: SimulatedGateway) -> None:
        gateway.set_scenario("CLIENT_ID_TAKEN", times=1)
        line = a_line(gateway)
        with pytest.raises(LineError, match="326"):
            await line.connect(1)
        await line.connect(1)
        assert (await line.evidence()).cash == 1_000_000
        assert not Heard(line).losses
        await line.disconnect()

    async def test_nobody_listening_is_named_with_the_address(
        self, gateway: SimulatedGateway
    ) -> None:
        line = a_line(gateway)
        line._port = free_port()
        with pytest.raises(LineError, match=rf"No gateway at 127.0.0.1:{line._port}.*IBKR_PORT"):
            await line.connect(1)

    async def test_a_silent_gateway_is_given_up(self, gateway: SimulatedGateway) -> None:
        gateway.go_silent(True)
        with pytest.raises(LineError, match=r"did not log us in within 0\.3 s"):
            await a_line(gateway, timeout_s=0.3).connect(1)

    async def test_a_connect_that_is_cancelled_leaves_nothing_behind(
        self, gateway: SimulatedGateway
    ) -> None:
        gateway.go_silent(True)
        connecting = asyncio.create_task(a_line(gateway, timeout_s=60).connect(1))
        await something_unanswered(gateway)
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting
        await nobody_on(gateway)

    async def test_a_line_let_go_is_not_a_line_lost(self, gateway: SimulatedGateway) -> None:
        line = a_line(gateway)
        await line.disconnect()
        await line.connect(1)
        await line.disconnect()
        await line.disconnect()
        await nobody_on(gateway)
        assert not Heard(line).losses
        with pytest.raises(LineError, match="no line"):
            line.next_order_id()

    async def test_words_of_an_earlier_connection_are_dropped_and_facts_stay(
        self, gateway: SimulatedGateway
    ) -> None:
        async with an_open_line(gateway) as line:
            place(line, an_order())
            await line.evidence()
            gateway.notice(1100)
            gateway.drop_connections()
            await the_loss(line)
            await line.connect(10)
            heard = Heard(line)
            await heard.all_so_far()
            assert len(heard.executions) == 1
            assert (heard.losses, heard.codes) == (0, [])

    def test_it_lives_on_uvloop(self) -> None:
        async def trade(port: int) -> Decimal:
            async with a_gateway() as there:
                there.port = port
                async with an_open_line(there) as line:
                    place(line, an_order())
                    heard = Heard(line)
                    await heard.until(lambda now: bool(now.commissions), "a commission")
                    return heard.executions[0].quantity

        async def both() -> Decimal:
            async with a_gateway() as gateway:
                return await asyncio.to_thread(uvloop.run, trade(gateway.port))

        assert asyncio.run(both()) == 10


class TestPlacing:
    async def test_the_order_arrives_whole(self, gateway: SimulatedGateway) -> None:
        async with an_open_line(gateway, first_id=12) as line:
            order = an_order("NVDL", 7)
            place(line, order)
            await line.evidence()
        (receipt,) = gateway.snapshot().receipts
        assert (receipt.client_id, receipt.order_id) == (CLIENT_ID, 12)
        ticket = receipt.ticket
        assert (ticket.symbol, ticket.side, ticket.quantity) == ("NVDL", "BUY", 7)
        assert (ticket.order_ref, ticket.order_type, ticket.tif) == (
            str(order.order_id),
            "MKT",
            "DAY",
        )
        assert (ticket.account, ticket.outside_rth) == (ACCOUNT, False)

    async def test_a_class_of_shares_is_spelt_the_brokers_way_and_back(
        self, gateway: SimulatedGateway
    ) -> None:
        async with an_open_line(gateway) as line:
            place(line, an_order("BRK.B", 3))
            evidence = await line.evidence()
            assert gateway.snapshot().receipts[0].ticket.symbol == "BRK B"
            assert evidence.executions[0].symbol == "BRK.B"
            assert evidence.positions == {"BRK.B": d(3)}
            assert await line.last_price("BRK.B") == 500

    async def test_a_fraction_of_a_share_is_not_sent(self, gateway: SimulatedGateway) -> None:
        async with an_open_line(gateway) as line:
            with pytest.raises(LineError, match=r"1\.5 SPXL.*whole shares only. It was not sent"):
                place(line, an_order(quantity="1.5"))
            await line.evidence()
        assert not gateway.snapshot().receipts

    async def test_nothing_is_sent_without_a_line(self, gateway: SimulatedGateway) -> None:
        line = a_line(gateway)
        with pytest.raises(LineError, match="nothing was sent"):
            line.place(an_order(), 1)
        await line.connect(1)
        gateway.drop_connections()
        await the_loss(line)
        with pytest.raises(LineError, match="Nothing was sent"):
            line.place(an_order(), 1)
        with pytest.raises(LineError, match="Nothing was sent"):
            line.cancel(an_order(), 1)
        assert line.room() == 0
        assert not gateway.snapshot().receipts

    async def test_no_more_is_written_in_a_second_than_there_is_room_for(
        self, gateway: SimulatedGateway
    ) -> None:
        gateway.set_scenario("HELD")
        async with an_open_line(gateway) as line:
            sent = 0
            while line.room():
                place(line, an_order(quantity=1))
                sent += 1
            with pytest.raises(LineError, match=r"45 messages were written.*Nothing was sent"):
                place(line, an_order(quantity=1))
            evidence = await line.evidence()
            assert 40 <= sent <= 45
            assert len(gateway.snapshot().receipts) == len(evidence.open_orders) == sent
            assert line.room() > 0

    async def test_what_the_gateway_has_not_taken_is_dropped_with_the_line(
        self, gateway: SimulatedGateway
    ) -> None:
        line = a_line(gateway)
        await line.connect(1)
        assert line._connection
        (session,) = gateway._sessions
        session._transport.pause_reading()
        for _ in range(30):  # more than the sockets' own buffers hold
            line._connection.client.conn.sendMsg(frame(14, 1, "x" * 1_000_000))
        place(line, an_order())
        await line.disconnect()
        session._transport.resume_reading()
        await nobody_on(gateway)
        assert not gateway.snapshot().receipts

    async def test_a_message_written_at_the_drop_is_not_kept_for_the_next_connection(
        self, gateway: SimulatedGateway
    ) -> None:
        gateway.set_scenario("ORDER_LOST", times=1)
        async with an_open_line(gateway) as line:
            ref = place(line, an_order())
            await the_loss(line)
            await line.connect(10)
            evidence = await line.evidence()
            assert found(evidence, ref) == (0, set())
            assert not evidence.open_orders
            assert not evidence.completed_orders
            assert len(gateway.snapshot().receipts) == 1


class TestHearing:
    async def test_a_fill_is_told_in_the_order_in_which_it_came(
        self, gateway: SimulatedGateway
    ) -> None:
        async with an_open_line(gateway) as line:
            ref = place(line, an_order())
            heard = Heard(line)
            await heard.until(lambda now: bool(now.commissions), "a commission")
        kinds = [type(event).__name__ for event in heard.events if not isinstance(event, Notice)]
        assert kinds == ["Reported", "Reported", "Executed", "Reported", "Reported", "Commissioned"]
        (execution,) = heard.executions
        assert (execution.order_ref, execution.symbol, execution.side) == (ref, "SPXL", Side.BUY)
        assert (execution.quantity, execution.price) == (10, d("100.01"))
        assert execution.commission is None
        assert heard.commissions == {execution.execution_id: d(1)}
        assert heard.states == [AtBroker.WORKING] * 2 + [AtBroker.FILLED] * 2
        assert {event.order.order_ref for event in heard.of(Reported)} == {ref}

    async def test_a_sale_is_a_sale(self, gateway: SimulatedGateway) -> None:
        async with an_open_line(gateway) as line:
            place(line, an_order())
            place(line, an_order(quantity=4, side=Side.SELL))
            evidence = await line.evidence()
        assert [one.side for one in evidence.executions] == [Side.BUY, Side.SELL]
        assert evidence.positions == {"SPXL": d(6)}

    async def test_each_part_of_a_fill_comes(self, gateway: SimulatedGateway) -> None:
        gateway.set_scenario("PARTIAL_FILLS")
        async with an_open_line(gateway) as line:
            place(line, an_order())
            heard = Heard(line)
            await heard.until(lambda now: len(now.commissions) == 1, "the first part")
            gateway.release()
            await heard.until(lambda now: len(now.commissions) == 2, "the second part")
            gateway.release()
            await heard.until(lambda now: len(now.commissions) == 3, "the last part")
        assert [one.quantity for one in heard.executions] == [3, 3, 4]

    @pytest.mark.parametrize(
        "scenario",
        ["FILL_BEFORE_STATUS", "NO_STATUS", "STATUS_TWICE", "STATUS_FILLED_BEFORE_FILL"],
    )
    async def test_the_fill_comes_whatever_the_statuses_do(
        self, gateway: SimulatedGateway, scenario: str
    ) -> None:
        gateway.set_scenario(scenario)
        async with an_open_line(gateway) as line:
            ref = place(line, an_order())
            heard = Heard(line)
            await heard.all_so_far()
        assert [(one.order_ref, one.quantity) for one in heard.executions] == [(ref, 10)]
        assert list(heard.commissions.values()) == [1]
        assert heard.codes == []

    async def test_a_duplicate_has_the_same_id(self, gateway: SimulatedGateway) -> None:
        gateway.set_scenario("DUPLICATE_EXECUTION")
        async with an_open_line(gateway) as line:
            place(line, an_order())
            heard = Heard(line)
            await heard.all_so_far()
        assert len(heard.executions) > 1
        assert len({one.execution_id for one in heard.executions}) == 1

    async def test_a_correction_is_an_execution_of_the_same_root(
        self, gateway: SimulatedGateway
    ) -> None:
        gateway.set_scenario("CORRECTED_EXECUTION")
        async with an_open_line(gateway) as line:
            ref = place(line, an_order())
            heard = Heard(line)
            await heard.all_so_far()
            evidence = await line.evidence()
        first, second = heard.executions
        assert (first.root, first.order_ref) == (second.root, ref)
        assert (first.execution_id[-2:], second.execution_id[-2:]) == ("01", "02")
        assert second.price == first.price + d("0.05")
        assert set(heard.commissions) == {first.execution_id, second.execution_id}
        assert second.root in found(evidence, ref)[1]

    async def test_a_late_commission_is_never_a_zero(self, gateway: SimulatedGateway) -> None:
        gateway.set_scenario("LATE_COMMISSION")
        async with an_open_line(gateway) as line:
            ref = place(line, an_order())
            heard = Heard(line)
            await heard.until(lambda now: bool(now.executions), "the execution")
            evidence = await line.evidence()
            assert [one.commission for one in evidence.executions] == [None]
            gateway.drop_connections()
            await heard.until(lambda now: bool(now.losses), "the loss")
            await line.connect(10)
            assert [one.commission for one in (await line.evidence()).executions] == [None]
            assert not heard.commissions
            gateway.release()
            await heard.until(lambda now: bool(now.commissions), "the commission")
            assert heard.commissions == {evidence.executions[0].execution_id: d(1)}
            assert [one.commission for one in (await line.evidence()).executions] == [1]
            assert found(evidence, ref)[0] == 10

    async def test_a_commission_that_comes_before_its_execution_waits_for_it(
        self, gateway: SimulatedGateway
    ) -> None:
        async with an_open_line(gateway) as line:
            ref = place(line, an_order())
            heard = Heard(line)
            await heard.until(lambda now: bool(now.commissions), "the fill")
            made = replace(gateway.snapshot().executions[0], exec_id="0000aaaa.00000009.01.01")
            gateway.tell(CLIENT_ID, commission_report(made), execution_details(ACCOUNT, made))
            await heard.until(lambda now: len(now.executions) == 2, "the execution")
        assert (heard.executions[1].order_ref, heard.executions[1].commission) == (ref, 1)
        assert len(heard.commissions) == 1

    @pytest.mark.parametrize(
        ("scenario", "code"),
        [
            ("REJECT_201", 201),
            ("REJECT_201_THEN_INACTIVE", 201),
            ("REJECT_200", 200),
            ("REJECT_460", 460),
            ("REJECT_10052", 10052),
            ("REJECT_10311", 10311),
            ("READ_ONLY_321", 321),
            ("FALSE_END_105", 105),
        ],
    )
    async def test_a_refusal_is_told_with_its_code_and_words(
        self, gateway: SimulatedGateway, scenario: str, code: int
    ) -> None:
        gateway.set_scenario(scenario)
        async with an_open_line(gateway) as line:
            ref = place(line, an_order())
            heard = Heard(line)
            await heard.all_so_far()
        (refused,) = heard.of(Refused)
        assert (refused.order_ref, refused.code) == (ref, code)
        assert len(refused.message) > 10
        assert not heard.executions

    async def test_an_id_used_before_is_a_refusal(self, gateway: SimulatedGateway) -> None:
        async with an_open_line(gateway, 20) as line:
            ref = place(line, an_order())
            again = an_order()
            line.place(again, 20)
            heard = Heard(line)
            await heard.until(lambda now: bool(now.of(Refused)), "the refusal")
            await heard.all_so_far()
        assert (heard.of(Refused)[0].order_ref, heard.codes) == (str(again.order_id), [103])
        assert {event.order.order_ref for event in heard.of(Reported)} == {ref}

    async def test_what_a_false_end_hides_is_in_the_evidence(
        self, gateway: SimulatedGateway
    ) -> None:
        gateway.set_scenario("FALSE_END_105")
        async with an_open_line(gateway) as line:
            ref = place(line, an_order())
            assert state_of((await line.evidence()).open_orders, ref) is AtBroker.WORKING
            gateway.release()
            assert found(await line.evidence(), ref)[0] == 10

    @pytest.mark.parametrize(
        ("scenario", "words"),
        [
            ("WARNING_399", "Order Message: Warning: your order will not be placed"),
            ("WARNING_404", "securities are located"),
            ("WARNING_2109", "Outside Regular Trading Hours"),
        ],
    )
    async def test_a_warning_is_no_refusal(
        self, gateway: SimulatedGateway, scenario: str, words: str
    ) -> None:
        gateway.set_scenario(scenario)
        async with an_open_line(gateway) as line:
            ref = place(line, an_order())
            heard = Heard(line)
            await heard.all_so_far()
            assert heard.codes == []
            assert set(heard.states) == {AtBroker.WORKING}
            assert words in heard.of(Reported)[-1].order.message
            gateway.release()
            await heard.until(lambda now: bool(now.commissions), "the fill")
            assert heard.executions[0].order_ref == ref

    async def test_a_false_cancel_is_told_as_it_was_and_the_fill_after_it(
        self, gateway: SimulatedGateway
    ) -> None:
        gateway.set_scenario("FALSE_CANCEL_10349", held=True)
        async with an_open_line(gateway) as line:
            ref = place(line, an_order())
            heard = Heard(line)
            await heard.until(lambda now: AtBroker.CANCELLED in now.states, "the false cancel")
            assert heard.codes == []
            assert state_of((await line.evidence()).open_orders, ref) is AtBroker.WORKING
            gateway.release()
            await heard.until(lambda now: bool(now.commissions), "the fill")
            assert found(await line.evidence(), ref)[0] == 10

    async def test_a_silent_broker_says_nothing_and_has_the_order(
        self, gateway: SimulatedGateway
    ) -> None:
        gateway.set_scenario("SILENT")
        async with an_open_line(gateway) as line:
            heard = Heard(line)
            await heard.all_so_far()
            ref = place(line, an_order())
            evidence = await line.evidence()
            assert state_of(evidence.open_orders, ref) is AtBroker.WORKING
            assert not heard.of(Refused)
            gateway.release()
            assert found(await line.evidence(), ref)[0] == 10

    @pytest.mark.parametrize(
        ("scenario", "restored"), [("CONNECTIVITY_LOST_IN_FILL", 1102), ("DATA_LOST", 1101)]
    )
    async def test_connectivity_lost_is_a_notice_and_the_fills_meanwhile_are_in_the_evidence(
        self, gateway: SimulatedGateway, scenario: str, restored: int
    ) -> None:
        gateway.set_scenario(scenario)
        async with an_open_line(gateway) as line:
            ref = place(line, an_order())
            heard = Heard(line)
            await heard.until(lambda now: now.codes == [1100], "1100")
            gateway.release()
            await heard.until(lambda now: restored in now.codes, "its end")
            assert sum(one.quantity for one in heard.executions) == 5
            assert found(await line.evidence(), ref)[0] == 10

    async def test_orders_and_fills_of_another_account_are_not_heard(
        self, gateway: SimulatedGateway
    ) -> None:
        async with an_open_line(gateway) as line:
            place(line, an_order())
            heard = Heard(line)
            await heard.all_so_far()
            told = len(heard.events)
            (order,), (made,) = gateway.snapshot().orders, gateway.snapshot().executions
            theirs = replace(order, perm_id=9, ticket=replace(order.ticket, account="DU9"))
            gateway.tell(CLIENT_ID, open_order(theirs), execution_details("DU9", made))
            await heard.all_so_far()
        assert len(heard.events) == told

    async def test_each_notice_of_the_line_is_told(self, gateway: SimulatedGateway) -> None:
        codes = [1100, 1102, 2103, 2105, 2110, 10197]
        async with an_open_line(gateway) as line:
            for code in codes:
                gateway.notice(code)
            heard = Heard(line)
            await heard.all_so_far()
        assert heard.codes == codes
        assert all(event.message for event in heard.of(Notice))


class TestCancelling:
    async def test_a_cancel_is_over_when_the_broker_says_so(
        self, gateway: SimulatedGateway
    ) -> None:
        gateway.set_scenario("HELD")
        async with an_open_line(gateway) as line:
            order = an_order()
            line.place(order, 5)
            line.cancel(order, 5)
            heard = Heard(line)
            await heard.until(lambda now: AtBroker.CANCELLED in now.states, "the cancellation")
            evidence = await line.evidence()
        assert heard.codes == []
        assert state_of(evidence.completed_orders, str(order.order_id)) is AtBroker.CANCELLED
        assert state_of(evidence.open_orders, str(order.order_id)) is None

    async def test_a_cancel_may_lose_the_race(self, gateway: SimulatedGateway) -> None:
        gateway.set_scenario("CANCEL_RACE")
        async with an_open_line(gateway) as line:
            order = an_order()
            line.place(order, 5)
            line.cancel(order, 5)
            heard = Heard(line)
            await heard.until(lambda now: bool(now.commissions), "the fill")
        assert AtBroker.CANCELLED not in heard.states
        assert heard.executions[0].quantity == 10

    async def test_a_refused_cancel_is_not_a_refused_order(self, gateway: SimulatedGateway) -> None:
        gateway.set_scenario("CANCEL_REFUSED")
        async with an_open_line(gateway) as line:
            order = an_order()
            line.place(order, 5)
            line.cancel(order, 5)
            heard = Heard(line)
            await heard.all_so_far()
        assert heard.codes == []
        assert "10148" in heard.of(Reported)[-1].order.message

    async def test_an_order_that_the_broker_does_not_know_is_a_refusal(
        self, gateway: SimulatedGateway
    ) -> None:
        async with an_open_line(gateway) as line:
            line.cancel(an_order(), 5)
            heard = Heard(line)
            await heard.until(lambda now: bool(now.of(Refused)), "the refusal")
        assert heard.codes == [10147]

    async def test_a_cancelled_order_may_have_fills(self, gateway: SimulatedGateway) -> None:
        gateway.set_scenario("CANCELLED_WITH_FILLS")
        async with an_open_line(gateway) as line:
            ref = place(line, an_order())
            heard = Heard(line)
            await heard.until(lambda now: AtBroker.CANCELLED in now.states, "the cancellation")
            evidence = await line.evidence()
        assert state_of(evidence.completed_orders, ref) is AtBroker.CANCELLED
        assert found(evidence, ref)[0] == sum(one.quantity for one in heard.executions) == 6

    async def test_an_order_of_an_earlier_connection_can_be_cancelled(
        self, gateway: SimulatedGateway
    ) -> None:
        gateway.set_scenario("HELD")
        order = an_order()
        async with an_open_line(gateway) as line:
            line.place(order, 5)
            await line.evidence()
        async with an_open_line(gateway, first_id=6) as line:
            line.cancel(order, 5)
            heard = Heard(line)
            await heard.until(lambda now: AtBroker.CANCELLED in now.states, "the cancellation")
        assert {event.order.order_ref for event in heard.of(Reported)} == {str(order.order_id)}


class TestEvidence:
    async def test_an_account_without_trades_has_its_cash(self, gateway: SimulatedGateway) -> None:
        async with an_open_line(gateway) as line:
            evidence = await line.evidence()
        assert (evidence.open_orders, evidence.completed_orders, evidence.executions) == (
            (),
            (),
            (),
        )
        assert evidence.positions == {}
        assert evidence.cash == evidence.net_liquidation == 1_000_000

    @pytest.mark.parametrize(
        "scenario",
        [
            "ANSWER_LOST",
            "DROP_AFTER_PLACE",
            "DROP_AFTER_OPEN_ORDER",
            "DROP_AFTER_SUBMITTED",
            "DROP_IN_PARTIAL",
            "DROP_AFTER_EXECUTION",
            "DROP_AFTER_COMMISSION",
        ],
    )
    async def test_a_drop_is_told_once_and_the_fills_are_found_after_it(
        self, gateway: SimulatedGateway, scenario: str
    ) -> None:
        gateway.set_scenario(scenario)
        async with an_open_line(gateway) as line:
            ref = place(line, an_order())
            heard = Heard(line)
            await heard.until(lambda now: bool(now.losses), "the loss")
            gateway.release()
            await line.connect(10)
            evidence = await line.evidence()
            heard.waiting()
            assert heard.losses == 1
            assert found(evidence, ref)[0] == 10
            commissions = [one.commission for one in evidence.executions]
            assert commissions == [one.commission for one in gateway.snapshot().executions]
            assert state_of(evidence.completed_orders, ref) is AtBroker.FILLED
            again = await line.evidence()
            assert replace(again, asked=evidence.asked) == evidence
        assert len(gateway.snapshot().receipts) == 1

    async def test_what_it_found_is_not_told_again_as_events(
        self, gateway: SimulatedGateway
    ) -> None:
        async with an_open_line(gateway) as line:
            place(line, an_order())
            await line.evidence()
        async with an_open_line(gateway, first_id=10) as line:
            heard = Heard(line)
            await heard.all_so_far()
        assert not heard.executions
        assert not heard.commissions

    async def test_fills_of_other_clients_and_of_persons_are_in_it(
        self, gateway: SimulatedGateway
    ) -> None:
        gateway.trade_by_hand("NVDL", d(3), d(51))
        async with an_open_line(gateway, client_id=8) as other, an_open_line(gateway) as line:
            ref = place(other, an_order())
            await other.evidence()
            heard = Heard(line)
            evidence = await line.evidence()
            heard.waiting()
        assert {one.order_ref for one in evidence.executions} == {"", ref}
        assert evidence.positions == {"NVDL": d(3), "SPXL": d(10)}
        assert not heard.executions

    async def test_yesterdays_executions_are_gone_and_the_position_is_not(
        self, gateway: SimulatedGateway
    ) -> None:
        async with an_open_line(gateway) as line:
            place(line, an_order())
            await line.evidence()
            gateway.forget_executions()
            evidence = await line.evidence()
        assert (evidence.executions, evidence.completed_orders) == ((), ())
        assert evidence.positions == {"SPXL": d(10)}

    async def test_two_at_once_are_asked_one_after_the_other(
        self, gateway: SimulatedGateway
    ) -> None:
        async with an_open_line(gateway) as line:
            place(line, an_order())
            await line.evidence()
            one, other = await asyncio.gather(line.evidence(), line.evidence())
        assert replace(one, asked=other.asked) == other
        assert one.asked < other.asked

    async def test_silence_is_bounded_and_ends_the_line(self, gateway: SimulatedGateway) -> None:
        line = a_line(gateway, timeout_s=0.3)
        await line.connect(1)
        gateway.go_silent(True)
        with pytest.raises(LineError, match=r"for open orders: nothing came within 0\.3 s"):
            await line.evidence()
        heard = Heard(line)
        await heard.until(lambda now: bool(now.losses), "the loss")
        with pytest.raises(LineError, match="nothing came within"):
            line.place(an_order(), 1)
        gateway.go_silent(False)
        await line.connect(1)
        assert (await line.evidence()).cash == 1_000_000
        heard.waiting()
        assert heard.losses == 1
        await line.disconnect()

    async def test_a_drop_in_the_middle_is_said_at_once(self, gateway: SimulatedGateway) -> None:
        line = a_line(gateway, timeout_s=60)
        await line.connect(1)
        gateway.go_silent(True)
        asking = asyncio.create_task(line.evidence())
        await something_unanswered(gateway)
        gateway.drop_connections()
        with pytest.raises(LineError, match="closed the connection"):
            await asking
        assert Heard(line).losses == 1
        await line.disconnect()

    async def test_letting_go_in_the_middle_ends_the_question(
        self, gateway: SimulatedGateway
    ) -> None:
        line = a_line(gateway, timeout_s=60)
        await line.connect(1)
        gateway.go_silent(True)
        asking = asyncio.create_task(line.evidence())
        await something_unanswered(gateway)
        await line.disconnect()
        with pytest.raises(LineError, match="We have closed"):
            await asking

    async def test_a_question_given_up_ends_the_line(self, gateway: SimulatedGateway) -> None:
        """The rest of its answer could be taken for the answer to the next."""
        line = a_line(gateway, timeout_s=60)
        await line.connect(1)
        gateway.go_silent(True)
        asking = asyncio.create_task(line.evidence())
        await something_unanswered(gateway)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        with pytest.raises(LineError, match="no connection"):
            await line.evidence()
        await line.disconnect()

    async def test_an_execution_that_cannot_be_read_is_not_just_missed(
        self, gateway: SimulatedGateway
    ) -> None:
        async with an_open_line(gateway) as line:
            gateway.tell(CLIENT_ID, frame(11, -1, "not", "an", "execution"))
            heard = Heard(line)
            await heard.until(lambda now: bool(now.losses), "the loss")
        assert "kind 11 could not be read" in heard.of(LineLost)[0].why

    async def test_an_option_is_not_its_share_and_another_account_not_ours(
        self, gateway: SimulatedGateway
    ) -> None:
        numbers = count(70)

        def contract(kind: str, currency: str) -> list[str | int]:
            return [next(numbers), "SPXL", kind, "", 0, "", "", "", currency, "SPXL", "SPXL"]

        async with an_open_line(gateway) as line:
            place(line, an_order())
            await line.evidence()
            (session,) = gateway._sessions
            ours = session._handlers[61]

            def with_others(asked: list[str]) -> None:
                session.send(
                    frame(61, 3, ACCOUNT, *contract("OPT", "USD"), 5, 1),
                    frame(61, 3, ACCOUNT, *contract("STK", "EUR"), 5, 1),
                    frame(61, 3, "DU9", *contract("STK", "USD"), 5, 1),
                    frame(61, 3, ACCOUNT, *contract("STK", "USD"), 2, 1),  # of another listing
                )
                ours(asked)

            session._handlers[61] = with_others
            assert (await line.evidence()).positions == {"SPXL": d(12)}

    async def test_what_it_subscribed_to_for_the_answer_it_cancels(
        self, gateway: SimulatedGateway
    ) -> None:
        async with an_open_line(gateway) as line:
            for _ in range(3):
                await line.evidence()
            (session,) = gateway._sessions
            assert len(session._summaries) <= 1, "the last may not have been cancelled yet"

    async def test_what_is_told_unasked_is_no_row_of_an_answer(
        self, gateway: SimulatedGateway
    ) -> None:
        """A fill between two questions is an event; the answers stay of one moment each."""
        gateway.set_scenario("HELD")
        async with an_open_line(gateway) as line:
            place(line, an_order())
            await line.evidence()
            (session,) = gateway._sessions
            answer = session._handlers[62]

            def after_a_fill(asked: list[str]) -> None:
                gateway.release()
                answer(asked)

            session._handlers[62] = after_a_fill
            heard = Heard(line)
            evidence = await line.evidence()
            heard.waiting()
        assert [one.state for one in evidence.open_orders] == [AtBroker.WORKING]
        assert (evidence.executions, evidence.positions) == ((), {})
        assert [one.quantity for one in heard.executions] == [10]


class TestLastPrice:
    async def test_it_is_the_last_trades_and_follows_the_market(
        self, gateway: SimulatedGateway
    ) -> None:
        async with an_open_line(gateway) as line:
            assert await line.last_price("SPXL") == 100
            room = line.room()
            gateway.set_price("SPXL", d("101.25"))
            await line.evidence()
            assert await line.last_price("SPXL") == d("101.25")
            assert room - line.room() == 6, "the stream is asked for once: six are the evidence's"

    async def test_calls_at_once_share_one_stream(self, gateway: SimulatedGateway) -> None:
        async with an_open_line(gateway) as line:
            room = line.room()
            prices = await asyncio.gather(*(line.last_price("SPXL") for _ in range(5)))
            assert (prices, room - line.room()) == ([100] * 5, 1)

    async def test_a_symbol_without_a_price_has_none(self, gateway: SimulatedGateway) -> None:
        async with an_open_line(gateway) as line:
            assert await line.last_price("NOPE") is None
            gateway.set_market_data("UNSUBSCRIBED")
            assert await line.last_price("SPXL") is None
            gateway.set_market_data("SUBSCRIBED")
            assert await line.last_price("SPXL") == 100

    async def test_a_stream_that_stands_still_has_none_and_is_asked_for_anew(
        self, gateway: SimulatedGateway
    ) -> None:
        async with an_open_line(gateway) as line:
            assert await line.last_price("SPXL") == 100
            gateway.set_market_data("COMPETING")
            heard = Heard(line)
            await heard.until(lambda now: 10197 in now.codes, "the notice")
            assert await line.last_price("SPXL") is None
            gateway.set_market_data("SUBSCRIBED")
            assert await line.last_price("SPXL") == 100

    @pytest.mark.parametrize("code", [1100, 1101, 2103])
    async def test_after_a_break_a_price_is_asked_for_anew(
        self, gateway: SimulatedGateway, code: int
    ) -> None:
        async with an_open_line(gateway) as line:
            assert await line.last_price("SPXL") == 100
            gateway.notice(code)
            await Heard(line).until(lambda now: code in now.codes, "the notice")
            gateway.market.set_price("SPXL", d(99))  # and no stream says so
            assert await line.last_price("SPXL") == 99
            await line.evidence()
            (session,) = gateway._sessions
            assert list(session._streams.values()) == ["SPXL"]

    async def test_a_closed_market_has_the_last_trade(self, gateway: SimulatedGateway) -> None:
        gateway.set_market_closed(True)
        async with an_open_line(gateway) as line:
            assert await line.last_price("SPXL") == 100

    @pytest.mark.parametrize(
        ("ticks", "expected"),
        [
            ({4: "100.5", 1: 99, 2: 101, 9: 98}, d("100.5")),
            ({4: "nan", 1: "99.01", 2: "99.04", 9: 98}, d("99.025")),
            ({4: 0, 1: 99, 2: -1, 9: 98}, d(98)),
            ({4: -1, 1: -1, 2: -1}, None),
        ],
    )
    async def test_the_next_best_price_is_taken(
        self,
        gateway: SimulatedGateway,
        monkeypatch: pytest.MonkeyPatch,
        ticks: dict[int, object],
        expected: Decimal | None,
    ) -> None:
        monkeypatch.setattr(ibkr_prices, "FIRST_PRICE_WITHIN_S", 0.5)
        async with an_open_line(gateway) as line:
            gateway.go_silent(True)
            asking = asyncio.create_task(line.last_price("SPXL"))
            await something_unanswered(gateway)
            (session,) = gateway._sessions
            number = session._unanswered.pop()[2]
            gateway.go_silent(False)
            for kind, usd in ticks.items():
                gateway.tell(CLIENT_ID, frame(1, 6, number, kind, str(usd), 100, 0))
            assert await asking == expected

    async def test_a_lost_line_ends_the_waiting(self, gateway: SimulatedGateway) -> None:
        async with an_open_line(gateway) as line:
            gateway.go_silent(True)
            asking = asyncio.create_task(line.last_price("SPXL"))
            await something_unanswered(gateway)
            gateway.drop_connections()
            assert await asking is None
            with pytest.raises(LineError):
                await line.last_price("SPXL")
            gateway.go_silent(False)
            await line.connect(10)
            assert await line.last_price("SPXL") == 100

    async def test_no_more_streams_are_kept_than_the_broker_serves(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ibkr_prices, "MOST_SYMBOLS", 3)
        market = FixedMarket(dict.fromkeys("ABCDE", 10))
        async with SimulatedGateway(market=market) as gateway, an_open_line(gateway) as line:
            for symbol in "ABCADE":
                assert await line.last_price(symbol) == 10
            await line.evidence()
            (session,) = gateway._sessions
            assert sorted(session._streams.values()) == ["A", "D", "E"]


def test_a_status_never_heard_of_ends_nothing() -> None:
    assert at_broker("SomethingNew") is AtBroker.WORKING
    assert symbol_from_wire("SPXL") == "SPXL"


async def test_without_the_library_it_says_what_to_install(
    gateway: SimulatedGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ib_library, "NAMES", ("a_library_that_is_not_installed",))
    with pytest.raises(LineError, match=r"pip install 'efficientfrontier-portfolio\[ibkr\]'"):
        await a_line(gateway).connect(1)

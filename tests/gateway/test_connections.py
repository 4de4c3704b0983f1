"""Connections: client ids, order ids, silence, refusals, notices, and who is told what."""

import asyncio
import struct
from decimal import Decimal
from typing import Any

import pytest

from services.gateway import Status
from services.gateway.records import Outcome
from services.gateway.wire import HELLO, FrameReader, WireError, frame
from tests.gateway.client import Client, client_of, library, stock, until
from tests.support.gateway import gateway


async def test_a_client_connects_and_is_told_the_account_and_its_first_order_id() -> None:
    async with gateway() as broker, client_of(broker, 7) as client:
        assert client.ib.client.serverVersion() == 176
        assert client.ib.managedAccounts() == ["DU1000001"]
        assert broker.snapshot().connections == [7]


async def test_a_client_id_in_use_is_refused_and_free_again_when_its_holder_has_gone() -> None:
    async with gateway() as broker:
        async with client_of(broker, 7):
            second = Client()
            with pytest.raises((TimeoutError, ConnectionError)):
                await second.connect(broker.port, 7, timeout_s=0.3)
            assert second.seen[:1] == ["error 326"]
            assert broker.snapshot().connections == [7]
        async with client_of(broker, 7):
            pass


async def test_client_id_taken_refuses_the_next_connection_only() -> None:
    async with gateway() as broker:
        broker.set_scenario("CLIENT_ID_TAKEN", times=1)
        client = Client()
        with pytest.raises((TimeoutError, ConnectionError)):
            await client.connect(broker.port, timeout_s=0.3)
        async with client_of(broker):
            pass


async def test_ids_roll_back_and_a_used_one_is_refused() -> None:
    async with gateway() as broker:
        async with client_of(broker) as client:
            for number in range(6):
                client.place(ref=f"ref-{number}")
            await client.settled()
            used = [order.order_id for order in broker.snapshot().orders]
        broker.set_scenario("ID_ROLLBACK", times=1)
        client = Client()
        await client.ib.client.connectAsync("127.0.0.1", broker.port, 1, 5)
        assert client.ib.client.getReqId() == used[-1] + 1 - 4
        client.ib.wrapper.clientId = 1
        trade = client.place(ref="new", orderId=used[-2])
        await client.settled()
        assert client.seen[-1] == "error 103"
        assert trade.orderStatus.status == "Cancelled"
        assert len(broker.snapshot().orders) == 6
        assert broker.snapshot().receipts[-1].outcome is Outcome.REFUSED
        client.ib.disconnect()
        broker.roll_back_ids(2)
        await until(lambda: not broker.snapshot().connections, "it has gone")
        await client.ib.client.connectAsync("127.0.0.1", broker.port, 1, 5)
        assert client.ib.client.getReqId() == 2
        client.ib.disconnect()


async def test_the_same_order_again_makes_no_second_order_but_is_recorded() -> None:
    async with gateway() as broker, client_of(broker) as client:
        broker.set_scenario("HELD")
        trade = client.place()
        await client.settled()
        client.ib.client.placeOrder(trade.order.orderId, trade.contract, trade.order)
        await client.settled()
        snapshot = broker.snapshot()
        (order,) = snapshot.orders
        assert snapshot.times_received(order) == 2
        assert [one.outcome for one in snapshot.receipts] == [Outcome.TAKEN, Outcome.REPEATED]
        broker.release()
        client.ib.client.placeOrder(trade.order.orderId, trade.contract, trade.order)
        await client.settled()
        assert client.seen[-1] == "error 104"
        assert broker.snapshot().positions == {"SPXL": 10}


async def test_one_order_ref_under_two_ids_is_two_orders_as_at_a_real_broker() -> None:
    async with gateway() as broker, client_of(broker) as client:
        client.place(ref="twice")
        client.place(ref="twice")
        await client.settled()
        snapshot = broker.snapshot()
        assert [snapshot.times_received(order) for order in snapshot.orders] == [2, 2]
        assert snapshot.positions == {"SPXL": 20}


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"account": "DU9999999"}, 321),
        ({"totalQuantity": 1.5}, 10243),
        ({"totalQuantity": 0}, 434),
        ({"orderType": "LMT", "lmtPrice": 99.0}, 387),
        ({"whatIf": True}, 321),
        ({"transmit": False}, 321),
        ({"algoStrategy": "Adaptive"}, 321),
    ],
)
async def test_an_order_that_no_gateway_passes_on_is_refused(
    fields: dict[str, Any], code: int
) -> None:
    async with gateway() as broker, client_of(broker) as client:
        client.place(**fields)
        await client.settled()
        assert client.seen == [f"error {code}"]
        assert broker.snapshot().orders == ()
        assert [one.outcome for one in broker.snapshot().receipts] == [Outcome.REFUSED]


async def test_an_order_in_an_unknown_symbol_is_refused() -> None:
    async with gateway() as broker, client_of(broker) as client:
        client.place(symbol="ZZZZ")
        await client.settled()
        assert client.seen == ["error 200"]


async def test_only_the_client_that_placed_an_order_is_told_of_it() -> None:
    async with gateway() as broker, client_of(broker, 1) as one, client_of(broker, 2) as other:
        one.place()
        await one.settled()
        await other.settled()
        assert one.seen
        assert other.seen == []
        _, completed, executions = await other.evidence()
        assert [trade.order.orderRef for trade in completed] == ["ref-1"]
        assert [fill.execution.clientId for fill in executions] == [1]


async def test_completed_orders_come_without_the_clients_ids_and_without_fills() -> None:
    async with gateway() as broker, client_of(broker) as client:
        trade = client.place()
        await client.settled()
        (done,) = await client.ib.reqCompletedOrdersAsync(False)
        assert (done.order.orderId, done.order.clientId, done.orderStatus.filled) == (0, 0, 0.0)
        assert (done.order.orderRef, done.order.permId) == ("ref-1", trade.order.permId)
        assert done.orderStatus.status == "Filled"


async def test_midnight_leaves_only_the_position() -> None:
    async with gateway() as broker, client_of(broker) as client:
        client.place()
        await client.settled()
        broker.forget_executions()
        assert await client.evidence() == ([], [], [])
        (held,) = await client.ib.reqPositionsAsync()
        assert held.position == 10


async def test_executions_are_filtered_as_asked() -> None:
    async with gateway() as broker, client_of(broker) as client:
        client.place(ref="a")
        client.place(ref="b", symbol="NVDL")
        await client.settled()
        only = library.ExecutionFilter(symbol="NVDL")
        assert [f.execution.orderRef for f in await client.ib.reqExecutionsAsync(only)] == ["b"]
        sold = library.ExecutionFilter(side="SELL")
        assert await client.ib.reqExecutionsAsync(sold) == []


async def test_a_silent_gateway_answers_later_what_it_was_asked() -> None:
    async with gateway() as broker, client_of(broker) as client:
        broker.go_silent(True)
        trade = client.place()
        asked = asyncio.ensure_future(client.ib.reqCurrentTimeAsync())
        newcomer = Client()
        with pytest.raises((TimeoutError, ConnectionError)):
            await newcomer.connect(broker.port, 2, timeout_s=0.2)
        assert not asked.done()
        assert trade.orderStatus.status == "PendingSubmit"
        broker.go_silent(False)
        async with asyncio.timeout(5):
            await asked
        assert trade.isDone()


async def test_an_order_sent_to_a_silent_gateway_is_lost_with_its_connection() -> None:
    async with gateway() as broker, client_of(broker) as client:
        broker.go_silent(True)
        client.place()
        newcomer = Client()
        with pytest.raises((TimeoutError, ConnectionError)):
            await newcomer.connect(broker.port, 2, timeout_s=0.2)  # by now the order has arrived
        client.ib.disconnect()
        await until(lambda: broker.snapshot().receipts, "the order is recorded")
        assert broker.snapshot().receipts[0].outcome is Outcome.LOST
        assert broker.snapshot().orders == ()
        broker.go_silent(False)


async def test_an_order_behind_one_that_breaks_the_connection_is_recorded_as_lost() -> None:
    async with gateway() as broker, client_of(broker) as client:
        broker.set_scenario("DROP_AFTER_PLACE", times=1)
        client.place(ref="first")
        client.place(ref="second")
        await client.dropped()
        outcomes = {one.ticket.order_ref: one.outcome for one in broker.snapshot().receipts}
        # The second is lost in any case; whether its bytes had arrived is up to the network.
        assert outcomes in (
            {"first": Outcome.TAKEN, "second": Outcome.LOST},
            {"first": Outcome.TAKEN},
        )


async def test_connections_are_refused_dropped_and_let_in_again() -> None:
    async with gateway() as broker, client_of(broker) as client:
        await broker.refuse_connections(True)
        broker.drop_connections()
        await client.dropped()
        with pytest.raises(ConnectionRefusedError):
            await client.connect(broker.port)
        await broker.refuse_connections(False)
        await client.connect(broker.port)
        assert broker.snapshot().connections == [1]


async def test_a_notice_reaches_every_client() -> None:
    async with gateway() as broker, client_of(broker, 1) as one, client_of(broker, 2) as other:
        broker.notice(1100)
        broker.notice(1102)
        broker.notice(2103, "a farm is gone")
        for client in (one, other):
            await client.settled()
            assert client.seen == ["error 1100", "error 1102", "error 2103"]
            assert client.ib.isConnected()


async def test_a_trade_by_hand_is_nobodys_order() -> None:
    async with gateway() as broker, client_of(broker) as client:
        await client.ib.reqPositionsAsync()
        broker.trade_by_hand("NVDL", Decimal(-3), Decimal(50))
        await client.settled()
        assert [(one.contract.symbol, one.position) for one in client.ib.positions()] == [
            ("NVDL", -3)
        ]
        assert client.seen == []
        (fill,) = await client.ib.reqExecutionsAsync()
        assert (fill.execution.orderRef, fill.execution.clientId, fill.execution.orderId) == (
            "",
            0,
            0,
        )


async def test_fills_and_corrections_by_hand_are_told_to_the_client() -> None:
    async with gateway() as broker, client_of(broker) as client:
        broker.set_scenario("HELD")
        trade = client.place()
        await client.settled()
        broker.fill("ref-1", Decimal(4), Decimal("99.5"))
        (made,) = broker.snapshot().executions
        broker.correct(made.exec_id, Decimal(4), Decimal("99.25"))
        await client.settled()
        assert [fill.execution.execId[-3:] for fill in trade.fills] == [".01", ".02"]
        assert broker.snapshot().positions == {"SPXL": 4}
        broker.release()
        await client.settled()
        (order,) = broker.snapshot().orders
        assert (order.status, order.filled) == (Status.FILLED, 10)
        assert order.value == 4 * Decimal("99.25") + 6 * Decimal("100.01")


async def test_all_orders_are_cancelled_at_once() -> None:
    async with gateway() as broker, client_of(broker) as client:
        broker.set_scenario("HELD")
        trades = [client.place(ref=f"ref-{number}") for number in range(3)]
        client.ib.reqGlobalCancel()
        await client.settled()
        assert {trade.orderStatus.status for trade in trades} == {"Cancelled"}


async def test_orders_wait_for_a_closed_market_to_open() -> None:
    async with gateway() as broker, client_of(broker) as client:
        broker.set_market_closed(True)
        trade = client.place()
        await client.settled()
        assert client.seen[-1] == "error 399"
        broker.set_market_closed(False)
        await client.settled()
        assert trade.filled() == 10


async def test_a_contract_is_found_by_its_number_alone() -> None:
    async with gateway() as broker, client_of(broker) as client:
        (details,) = await client.ib.reqContractDetailsAsync(stock("SPXL"))
        by_number = library.Contract(conId=details.contract.conId)
        (found,) = await client.ib.reqContractDetailsAsync(by_number)
        assert (found.contract.symbol, found.contract.primaryExchange) == ("SPXL", "ARCA")
        assert await client.ib.reqContractDetailsAsync(stock("ZZZZ")) == []


def test_frames_are_read_however_the_bytes_are_cut() -> None:
    versions = b"v157..176"
    sent = HELLO + struct.pack(">I", len(versions)) + versions + frame(71, 2, 7, "") + frame(61, 1)
    reader = FrameReader()
    read = [fields for byte in sent for fields in reader.feed(bytes([byte]))]
    assert read == [["v157..176"], ["71", "2", "7", ""], ["61", "1"]]
    with pytest.raises(WireError, match="a frame of"):
        list(reader.feed(b"\xff\xff\xff\xff"))


async def test_a_port_that_is_taken_is_said() -> None:
    async with gateway() as broker:
        with pytest.raises(OSError, match="in use"):
            async with gateway(port=broker.port):
                pass


async def test_what_is_no_tws_client_is_closed() -> None:
    async with gateway() as broker:
        reader, writer = await asyncio.open_connection("127.0.0.1", broker.port)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()


async def test_a_message_that_cannot_be_read_is_answered_and_the_connection_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with gateway() as broker, client_of(broker) as client:
        for fields in ((9999,), (3, 1, 2), ("word",), (1, 11)):
            client.ib.client.send(*fields)
        await client.settled()
        assert client.seen == ["error 321", "error 320", "error 320", "error 320"]
        assert "cannot be read" in caplog.text

"""Deadlines, retries, errors: both clients against a real gRPC server that fails as told."""

import inspect
import threading
import time
from datetime import date

import grpc
import pytest

from efficientfrontier.v1.stream_pb2 import StreamEnd
from services.mesh.ports import free_port
from SureshotSDK import (
    AsyncPortfolioClient,
    NotFoundError,
    PortfolioClient,
    PortfolioError,
    PortfolioInterface,
    RefusedError,
    UnavailableError,
)
from SureshotSDK.errors import error_of
from tests.sdk.scripted_router import MODULES, ScriptedRouter

NAME = "Client_SPXL"
PUBLIC = {
    name: method
    for name, method in inspect.getmembers(PortfolioInterface, inspect.isfunction)
    if not name.startswith("_")
}


@pytest.fixture(autouse=True)
def _strategy(router: ScriptedRouter) -> None:
    router.memory.upsert_portfolio(NAME, cash=1000)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (grpc.StatusCode.UNAVAILABLE, ""),
        (grpc.StatusCode.UNAVAILABLE, "DATABASE_UNAVAILABLE"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "ROUTER_BUSY"),
    ],
)
def test_a_mutation_is_retried_with_one_request_id(
    router: ScriptedRouter, code: grpc.StatusCode, reason: str
) -> None:
    router.fail(code, times=2, reason=reason)
    with PortfolioClient(router.address) as client:
        order = client.buy_all(NAME, "SPXL", 100)
    ids = [request.request_id for request in router.requests]
    assert ids == [order.request_id] * 3
    assert order.request_id


def test_an_order_whose_answer_was_lost_is_not_placed_twice(router: ScriptedRouter) -> None:
    router.fail(grpc.StatusCode.UNAVAILABLE, after_doing=True)
    with PortfolioClient(router.address) as client:
        order = client.create_order(NAME, "SPXL", "BUY", 1, 100)
    assert [o.order_id for o in router.memory.list_orders()] == [order.order_id]


def test_an_attempt_without_an_answer_ends_by_its_deadline_and_is_retried(
    router: ScriptedRouter,
) -> None:
    router.fail(grpc.StatusCode.DEADLINE_EXCEEDED)
    with PortfolioClient(router.address, deadline_s=0.3) as client:
        assert client.buy_all(NAME, "SPXL", 100).quantity == 10
    assert len({request.request_id for request in router.requests}) == 1
    assert len(router.requests) == 2


def test_retries_end_with_their_budget(router: ScriptedRouter) -> None:
    router.fail(grpc.StatusCode.UNAVAILABLE, times=1000, reason="DATABASE_UNAVAILABLE")
    started = time.monotonic()
    with (
        PortfolioClient(router.address, retry_for_s=0.5) as client,
        pytest.raises(UnavailableError) as gone,
    ):
        client.invested(NAME)
    assert gone.value.reason == "DATABASE_UNAVAILABLE"
    assert time.monotonic() - started < 10
    assert 2 <= len(router.requests) < 30


def test_two_calls_have_two_request_ids(router: ScriptedRouter) -> None:
    with PortfolioClient(router.address) as client:
        client.create_order(NAME, "SPXL", "BUY", 1, 100)
        client.create_order(NAME, "SPXL", "BUY", 1, 100)
    assert len({request.request_id for request in router.requests}) == 2


def test_a_refusal_is_not_retried_and_carries_the_routers_words(router: ScriptedRouter) -> None:
    with (
        PortfolioClient(router.address) as client,
        pytest.raises(RefusedError) as refused,
    ):
        client.buy_all(NAME, "SPXL", 1505)
    error = refused.value
    assert error.code is grpc.StatusCode.FAILED_PRECONDITION
    assert error.reason == "INSUFFICIENT_CASH"
    assert error.metadata == {"needed": "1505.0", "free": "1000.0"}
    assert error.message == "Buying 1 SPXL needs 1505.0 USD; 1000.0 USD is free."
    assert str(error) == f"{error.message} [INSUFFICIENT_CASH]"
    assert len(router.requests) == 1


def test_no_router_is_said_with_the_address_and_what_to_do() -> None:
    address = f"127.0.0.1:{free_port()}"
    with (
        PortfolioClient(address, retry_for_s=0) as client,
        pytest.raises(UnavailableError, match=address) as gone,
    ):
        client.list_portfolios()
    assert gone.value.reason == "ROUTER_UNAVAILABLE"
    assert "PORTFOLIO_ADDRESS" in gone.value.message


def test_a_client_finds_a_router_that_comes_late(router: ScriptedRouter) -> None:
    late = ScriptedRouter()
    late.port = free_port()
    with PortfolioClient(late.address, retry_for_s=60) as client:
        begin = threading.Timer(0.5, late.__enter__)
        begin.start()
        assert client.list_portfolios() == []
        begin.join()
    late.__exit__()


class Failed:
    """What grpc raises, as far as it is read."""

    def __init__(self, code: grpc.StatusCode, details: bytes | None) -> None:
        self._code = code
        self._trailers = () if details is None else (("grpc-status-details-bin", details),)

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return "what happened"

    def trailing_metadata(self) -> tuple[tuple[str, bytes], ...]:
        return self._trailers


@pytest.mark.parametrize("details", [None, b"", b"\xff\xff no status"])
def test_an_error_without_readable_details_keeps_its_code_and_message(
    details: bytes | None,
) -> None:
    error = error_of(Failed(grpc.StatusCode.NOT_FOUND, details), "here")
    assert isinstance(error, NotFoundError)
    assert (error.message, error.reason, error.metadata) == ("what happened", "", {})


def test_an_unforeseen_code_is_a_plain_portfolio_error() -> None:
    assert type(error_of(Failed(grpc.StatusCode.INTERNAL, None), "here")) is PortfolioError


def test_a_watch_ends_quietly_after_its_time(router: ScriptedRouter) -> None:
    with PortfolioClient(router.address) as client:
        states = list(client.watch_portfolios(strategy_name=NAME, for_s=0.5))
    assert [state.strategy_name for state in states] == [NAME]


def test_a_watch_that_the_router_ends_raises_its_reason(router: ScriptedRouter) -> None:
    router.end_streams_with = StreamEnd(code=14, message="The router is stopping.")
    with (
        PortfolioClient(router.address) as client,
        pytest.raises(UnavailableError, match="stopping"),
    ):
        list(client.watch_portfolios())


def test_a_watch_notices_that_the_router_is_gone() -> None:
    router = ScriptedRouter()
    with router, PortfolioClient(router.address) as client:
        router.memory.upsert_portfolio(NAME, cash=1)
        watch = client.watch_portfolios()
        assert next(watch).strategy_name == NAME
        router._server.stop(0).wait()
        with pytest.raises(UnavailableError):
            next(watch)


def test_every_method_of_the_contract_has_a_method_in_python() -> None:
    in_contract = {
        method.name
        for module in MODULES
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    spelt = {name.replace("_", "") for name in PUBLIC} | {
        "getinvested",
        "haltstrategy",
        "resumestrategy",
    }
    assert {name for name in in_contract if name.lower() not in spelt} == set()


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_the_asyncio_client_takes_the_same_arguments(name: str) -> None:
    theirs = inspect.signature(getattr(AsyncPortfolioClient, name)).parameters
    assert theirs == inspect.signature(PUBLIC[name]).parameters


async def test_the_asyncio_client_does_all_that_the_other_does(router: ScriptedRouter) -> None:
    async with AsyncPortfolioClient(router.address) as client:
        await client.upsert_portfolio("Aio", cash=1000)
        order = await client.buy_all("Aio", "SPXL", 300)
        await client.create_order("Aio", "SPXL", "SELL", 1, 310)
        await client.sell_all("Aio", "SPXL", 310)
        assert (await client.get_order(order.order_id)).quantity == 3
        listed = [o.quantity async for o in client.list_orders(strategy_name="Aio", page_size=1)]
        assert listed == [2, 1, 3]
        assert (await client.update_order_status(order.order_id, "EXECUTED")).quantity == 3
        position = await client.set_position("Aio", "PTIR", 2, 10)
        assert await client.invested("Aio")
        assert [p.symbol async for p in client.list_positions(strategy_name="Aio")] == ["PTIR"]
        await client.report_prices("Aio", {"PTIR": 12}, session=date(2024, 5, 6))
        assert (await client.get_portfolio("Aio")).equity == 1054
        assert (await client.get_portfolio("Aio")).session == "2024-05-06"
        await client.delete_position(position.position_id)
        assert (await client.halt("Aio")).state != (await client.resume("Aio")).state
        assert [p.strategy_name for p in await client.list_portfolios()] == ["Aio", NAME]
        watched = client.watch_orders(strategy_name="Aio", snapshot_size=1, for_s=0.5)
        assert [o.quantity async for o in watched] == [2]
        states = [p.cash async for p in client.watch_portfolios(strategy_name="Aio", for_s=0.5)]
        assert states == [1030]
        assert (await client.audit()).balanced


async def test_the_asyncio_client_retries_with_one_request_id(router: ScriptedRouter) -> None:
    router.fail(grpc.StatusCode.UNAVAILABLE, times=2)
    async with AsyncPortfolioClient(router.address) as client:
        order = await client.buy_all(NAME, "SPXL", 100)
        assert [request.request_id for request in router.requests] == [order.request_id] * 3
        with pytest.raises(RefusedError):
            await client.buy_all(NAME, "SPXL", 100)


async def test_the_asyncio_client_gives_up_after_its_budget(router: ScriptedRouter) -> None:
    router.fail(grpc.StatusCode.UNAVAILABLE, times=1000)
    async with AsyncPortfolioClient(router.address, retry_for_s=0.2) as client:
        with pytest.raises(UnavailableError):
            await client.invested(NAME)

"""RiskService through a real gRPC server on the real database, with a guardian at work."""

import math
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc import aio

from efficientfrontier.v1 import order_service_pb2 as orders_pb
from efficientfrontier.v1 import portfolio_service_pb2 as portfolio_pb
from efficientfrontier.v1 import risk_service_pb2 as pb
from efficientfrontier.v1.order_service_pb2_grpc import OrderServiceStub
from efficientfrontier.v1.portfolio_service_pb2_grpc import PortfolioServiceStub
from efficientfrontier.v1.risk_service_pb2_grpc import RiskServiceStub
from services.portfolio.rpc.errors import DETAILS_KEY
from tests.support.router import Router
from tests.support.waiting import wait_until_async

NAME = "IncredibleLeverage_SPXL"
SEEDED = 5


class Desk:
    """Stubs of one router."""

    def __init__(self, channel: aio.Channel) -> None:
        self.risk: Any = RiskServiceStub(channel)
        self.orders: Any = OrderServiceStub(channel)
        self.portfolios: Any = PortfolioServiceStub(channel)

    async def limit(self, name: str, **limits: Any) -> pb.StrategyLimits:
        """Sets limits."""
        request = pb.SetLimitsRequest(strategy_name=name, limits=pb.Limits(**limits))
        answer: pb.StrategyLimits = await self.risk.SetLimits(request)
        return answer

    async def buy_all(self, price: float, name: str = NAME) -> Any:
        """Buys for all the cash."""
        request = orders_pb.BuyAllRequest(strategy_name=name, symbol="SPXL", price=price)
        return await self.orders.BuyAll(request)

    async def see(self, price: float, name: str = NAME) -> None:
        """Reports a price."""
        seen = portfolio_pb.Price(symbol="SPXL", price=price)
        request = portfolio_pb.ReportPricesRequest(strategy_name=name, prices=[seen])
        await self.portfolios.ReportPrices(request)

    async def portfolio(self, name: str = NAME) -> Any:
        """A strategy."""
        request = portfolio_pb.GetPortfolioRequest(strategy_name=name)
        return await self.portfolios.GetPortfolio(request)

    async def events(self, **filters: Any) -> list[pb.RiskEvent]:
        """Events, newest first."""
        answer = await self.risk.ListRiskEvents(pb.ListRiskEventsRequest(**filters))
        return list(answer.events)


@pytest.fixture
async def desk(router: Callable[..., Router], database_url: str) -> AsyncIterator[Desk]:
    """A router with the five strategies, each with 20,000 USD; audited in the end."""
    running = router(database_url)
    async with aio.insecure_channel(running.address) as channel:
        one = Desk(channel)
        yield one
        audit = await one.portfolios.Audit(portfolio_pb.AuditRequest())
        assert audit.balanced, audit


def refusal(error: aio.AioRpcError) -> tuple[grpc.StatusCode, str, dict[str, str]]:
    """The code, the reason and the figures."""
    metadata = dict(error.trailing_metadata() or ())
    status = status_pb2.Status.FromString(metadata[DETAILS_KEY])
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    return error.code(), info.reason, dict(info.metadata)


async def test_limits_are_kept_as_they_were_set_and_refuse_with_their_figures(desk: Desk) -> None:
    every: dict[str, Any] = {
        "max_drawdown": 0.2,
        "max_daily_loss": 0.05,
        "max_order_value": 19_999.99,
        "max_orders_per_minute": 7,
        "max_price_age_s": 60.5,
        "max_price_jump": 0.1,
        "lease_s": 3600.0,
        "on_silence": pb.Limits.FLATTEN,
    }
    answer = await desk.limit(NAME, **every)
    assert answer == pb.StrategyLimits(strategy_name=NAME, limits=pb.Limits(**every))
    found = (await desk.risk.ListLimits(pb.ListLimitsRequest())).limits
    names = [each.strategy_name for each in found]
    assert names == sorted(names)
    assert len(found) == 1 + SEEDED
    assert {each.strategy_name: each.limits for each in found}[NAME] == pb.Limits(**every)
    assert found[0].limits == pb.Limits(on_silence=pb.Limits.HOLD)
    await desk.see(100)
    with pytest.raises(aio.AioRpcError) as refused:
        await desk.buy_all(100)
    assert refusal(refused.value) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "LIMIT_EXCEEDED",
        {
            "strategy_name": NAME,
            "limit": "max_order_value",
            "allowed": "19999.99",
            "value": "20000.00",
        },
    )
    await desk.buy_all(101)
    (event,) = await desk.events()
    assert (event.kind, event.strategy_name) == (pb.RiskEvent.LIMITS, NAME)
    assert "max_order_value none -> 19999.99" in event.reason


@pytest.mark.parametrize(
    "limits",
    [
        {"max_drawdown": math.nan},
        {"max_drawdown": 0},
        {"max_drawdown": 1.01},
        {"max_daily_loss": -0.1},
        {"max_order_value": math.inf},
        {"max_order_value": 1e13},
        {"max_order_value": 0.000000001},
        {"max_orders_per_minute": 0},
        {"max_price_age_s": -1},
        {"max_price_jump": math.nan},
        {"max_price_jump": 0.12345678912},
        {"lease_s": 0},
        {"on_silence": 9},
    ],
)
async def test_limits_that_cannot_be_are_refused_and_change_nothing(
    desk: Desk, limits: dict[str, Any]
) -> None:
    (name,) = limits
    with pytest.raises(aio.AioRpcError) as refused:
        await desk.limit(NAME, **limits)
    code, reason, figures = refusal(refused.value)
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert figures["field"] == f"limits.{name}"
    assert await desk.events() == []


async def test_what_does_not_exist_is_not_found(desk: Desk) -> None:
    for name in ("Nobody", "RESERVE"):
        with pytest.raises(aio.AioRpcError) as refused:
            await desk.limit(name, max_drawdown=0.1)
        code, reason, _ = refusal(refused.value)
        assert (code, reason) == (grpc.StatusCode.NOT_FOUND, "STRATEGY_NOT_FOUND")
    with pytest.raises(aio.AioRpcError) as refused:
        await desk.events(page_token="x")
    assert refusal(refused.value)[1] == "INVALID_PAGE_TOKEN"


async def test_the_kill_switch_halts_sells_and_resumes(desk: Desk) -> None:
    await desk.buy_all(100)
    request = pb.HaltPortfolioRequest(reason="crash", flatten=True, request_id="r1")
    state = await desk.risk.HaltPortfolio(request)
    assert (state.halted, state.reason, state.strategies) == (True, "crash", SEEDED)
    held = await desk.portfolio()
    assert (held.invested, held.cash, held.halt_reason) == (False, 20_000, "crash")
    assert held.state == portfolio_pb.Portfolio.HALTED
    with pytest.raises(aio.AioRpcError) as refused:
        await desk.buy_all(100)
    assert refusal(refused.value)[1] == "STRATEGY_HALTED"
    assert await desk.risk.HaltPortfolio(request) == state
    with pytest.raises(aio.AioRpcError) as reused:
        await desk.risk.HaltPortfolio(pb.HaltPortfolioRequest(reason="other", request_id="r1"))
    assert refusal(reused.value)[1] == "REQUEST_ID_REUSED"
    state = await desk.risk.ResumePortfolio(pb.ResumePortfolioRequest())
    assert (state.halted, state.reason) == (False, "")
    assert (await desk.portfolio()).state == portfolio_pb.Portfolio.ACTIVE
    await desk.buy_all(100)
    told = [pb.RiskEvent.Kind.Name(event.kind) for event in await desk.events()]
    assert told == ["RESUME", "FLATTEN", "HALT"]


async def test_a_strategy_is_halted_and_sold_out(desk: Desk) -> None:
    await desk.buy_all(100)
    await desk.see(90)
    halted = await desk.portfolios.HaltStrategy(
        portfolio_pb.HaltStrategyRequest(strategy_name=NAME, reason="enough", flatten=True)
    )
    assert (halted.state, halted.invested) == (portfolio_pb.Portfolio.HALTED, False)
    assert (halted.cash, halted.halt_reason) == (18_000, "enough")


async def test_a_drawdown_halts_on_its_own(desk: Desk) -> None:
    await desk.limit(NAME, max_drawdown=0.2)
    await desk.buy_all(100)
    await desk.see(79)

    async def halted() -> bool:
        return bool((await desk.portfolio()).state == portfolio_pb.Portfolio.HALTED)

    await wait_until_async(halted, 20, "the strategy is halted")
    assert "max_drawdown 0.2 is exceeded: growth 0.79" in (await desk.portfolio()).halt_reason
    assert (await desk.events())[0].actor == "router"


async def test_silence_is_shown_and_sold(desk: Desk) -> None:
    await desk.limit(NAME, lease_s=0.5, on_silence=pb.Limits.FLATTEN)
    await desk.buy_all(100)
    await desk.see(100)

    async def sold() -> bool:
        return not (await desk.portfolio()).invested

    await wait_until_async(sold, 20, "what the silent strategy holds is sold")
    assert (await desk.portfolio()).silent
    await desk.limit(NAME, lease_s=3600)
    await desk.see(100)

    async def heard() -> bool:
        return (await desk.events())[0].kind == pb.RiskEvent.HEARD

    await wait_until_async(heard, 20, "it was heard")
    assert not (await desk.portfolio()).silent


async def test_events_are_listed_in_pages(desk: Desk) -> None:
    for i in range(1, 8):
        await desk.limit(NAME if i % 2 else "", max_orders_per_minute=i)
    seen: list[str] = []
    token = ""
    while True:
        answer = await desk.risk.ListRiskEvents(
            pb.ListRiskEventsRequest(page_size=3, page_token=token)
        )
        seen += [event.reason for event in answer.events]
        assert len(answer.events) <= 3
        token = answer.next_page_token
        if not token:
            break
    assert [reason[-1] for reason in seen] == list("7654321")
    assert len(await desk.events(strategy_name=NAME)) == 4

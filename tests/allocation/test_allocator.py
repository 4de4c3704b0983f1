"""The allocation by its timetable, and over gRPC by a real router with its real optimiser."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable
from datetime import date, timedelta
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc import aio

from efficientfrontier.v1 import allocation_service_pb2 as pb
from efficientfrontier.v1 import order_service_pb2 as orders_pb
from efficientfrontier.v1 import portfolio_service_pb2 as portfolio_pb
from efficientfrontier.v1.allocation_service_pb2_grpc import AllocationServiceStub
from efficientfrontier.v1.book_pb2 import Book
from efficientfrontier.v1.order_service_pb2_grpc import OrderServiceStub
from efficientfrontier.v1.portfolio_service_pb2_grpc import PortfolioServiceStub
from services.portfolio.allocation.request import Request, Solution
from services.portfolio.allocation.timetable import Timetable
from services.portfolio.commands import SetState
from services.portfolio.domain.book import State
from services.portfolio.domain.capital import AllocationPolicy, PlanState, Schedule
from services.portfolio.domain.order import Mode
from services.portfolio.history.commands import CloseSession
from services.portfolio.ports import UnavailableError
from services.portfolio.rpc.allocation_servicer import policy_from
from services.portfolio.rpc.errors import DETAILS_KEY
from tests.allocation.desk import Desk
from tests.ledger.values import d
from tests.support.database import fresh_database
from tests.support.router import Router
from tests.support.waiting import wait_until_async

POLICY = pb.AllocationPolicy
STRATEGIES = [f"IncredibleLeverage_{symbol}" for symbol in ("AVL", "HOOD", "NVDL", "PTIR", "SPXL")]
JANUARY = date(2013, 1, 1)
UNKNOWN: Any = 9  # to every enum


class TestTimetable:
    """On both stores, by commands; see `desk`."""

    @pytest.fixture
    def timetable(self, desk: Desk) -> Timetable:
        """The desk's timetable, which looks when it is told to."""
        return Timetable(desk.allocator, desk.store.allocation, Mode.PAPER)

    async def begin(self, desk: Desk, session: str, *names: str) -> None:
        """Strategies begin a session, which closes the one before."""
        for name in names or ("A",):
            await desk.writer.submit(CloseSession(name, date.fromisoformat(session), given=True))

    async def carried_out(self, desk: Desk) -> int:
        """How many plans were."""
        plans = await desk.allocator.plans(None, 99)
        return sum(plan.state is PlanState.CARRIED_OUT for plan in plans)

    async def test_it_rebalances_once_at_the_first_close_of_a_month(
        self, desk: Desk, timetable: Timetable
    ) -> None:
        await desk.open(A="900", B="100")
        await desk.allocator.set_policy(AllocationPolicy(schedule=Schedule.MONTHLY), "")
        seen = []
        for session in ("2013-01-30", "2013-01-31", "2013-02-01", "2013-02-04", "2013-02-28"):
            await self.begin(desk, session)
            seen.append(await timetable.look())
        assert seen == ["", "", "", "2013-02", ""]
        assert await desk.cash("A", "B") == [500, 500]
        assert await timetable.look() == ""
        await self.begin(desk, "2013-05-01")  # which closes the last of February
        assert await timetable.look() == ""
        await self.begin(desk, "2013-05-02")
        assert await timetable.look() == "2013-05"
        assert await self.carried_out(desk) == 2

    async def test_two_replicas_rebalance_once(self, desk: Desk) -> None:
        await desk.open(A="900", B="100")
        await desk.allocator.set_policy(AllocationPolicy(schedule=Schedule.WEEKLY), "")
        for session in ("2013-01-04", "2013-01-07", "2013-01-08"):
            await self.begin(desk, session, "A", "B")
        looks = [
            Timetable(desk.allocator, desk.store.allocation, Mode.PAPER).look() for _ in range(3)
        ]
        assert await asyncio.gather(*looks) == ["2013-W02"] * 3
        assert await self.carried_out(desk) == 1

    async def test_a_policy_begins_in_the_period_after_the_one_in_which_it_was_set(
        self, desk: Desk, timetable: Timetable
    ) -> None:
        await desk.open(A="900", B="100")
        for session in ("2013-01-31", "2013-02-01", "2013-02-04"):
            await self.begin(desk, session)
        await desk.allocator.set_policy(AllocationPolicy(schedule=Schedule.MONTHLY), "")
        await self.begin(desk, "2013-02-05")
        assert await timetable.look() == ""
        await self.begin(desk, "2013-03-01")
        await self.begin(desk, "2013-03-04")
        assert await timetable.look() == "2013-03"

    async def test_on_request_it_does_nothing(self, desk: Desk, timetable: Timetable) -> None:
        await desk.open(A="900", B="100")
        for session in ("2013-01-31", "2013-02-01", "2013-02-04"):
            await self.begin(desk, session)
        assert await timetable.look() == ""
        assert await desk.cash("A", "B") == [900, 100]

    async def test_it_waits_while_everybody_is_halted(
        self, desk: Desk, timetable: Timetable
    ) -> None:
        await desk.open(A="900", B="100")
        await desk.allocator.set_policy(AllocationPolicy(schedule=Schedule.MONTHLY), "")
        for session in ("2013-01-31", "2013-02-01", "2013-02-04"):
            await self.begin(desk, session)
        for name in ("A", "B"):
            await desk.writer.submit(SetState(name, State.HALTED))
        assert await timetable.look() == ""
        assert await desk.cash("A", "B") == [900, 100]
        await desk.writer.submit(SetState("B", State.ACTIVE))
        assert await timetable.look() == "2013-02"
        assert await desk.cash("A", "B") == [0, 1000]

    async def test_what_could_not_be_computed_is_tried_again(
        self, desk: Desk, timetable: Timetable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def busy(_request: Request) -> Solution:
            raise UnavailableError("ALLOCATION_BUSY", "Another is being computed.")

        await desk.open(A="900", B="100")
        await desk.allocator.set_policy(AllocationPolicy(schedule=Schedule.MONTHLY), "")
        for session in ("2013-01-31", "2013-02-01", "2013-02-04"):
            await self.begin(desk, session)
        with monkeypatch.context() as patched:
            patched.setattr(desk.solver, "solve", busy)
            with pytest.raises(UnavailableError):
                await timetable.look()
        assert await desk.cash("A", "B") == [900, 100]
        assert await timetable.look() == "2013-02"
        assert await desk.cash("A", "B") == [500, 500]


async def test_setting_the_policy_again_with_the_same_request_id_changes_nothing(
    desk: Desk,
) -> None:
    await desk.allocator.set_policy(AllocationPolicy(cash_floor=d("0.1")), "once")
    await desk.allocator.set_policy(AllocationPolicy(), "then")
    await desk.allocator.set_policy(AllocationPolicy(cash_floor=d("0.1")), "once")
    assert (await desk.allocator.allocation()).policy == AllocationPolicy()


class Stubs:
    """The services of one router."""

    def __init__(self, channel: aio.Channel) -> None:
        self.allocation: Any = AllocationServiceStub(channel)
        self.portfolio: Any = PortfolioServiceStub(channel)
        self.orders: Any = OrderServiceStub(channel)

    async def trade(self, method: str, name: str, price: float) -> None:
        """BuyAll or SellAll of SPXL."""
        request = getattr(orders_pb, f"{method}Request")
        await getattr(self.orders, method)(request(strategy_name=name, symbol="SPXL", price=price))

    async def report(self, name: str, session: date, price: float) -> None:
        """A strategy reports a price."""
        await self.portfolio.ReportPrices(
            portfolio_pb.ReportPricesRequest(
                strategy_name=name,
                prices=[portfolio_pb.Price(symbol="SPXL", price=price)],
                session=session.isoformat(),
            )
        )

    async def allocated(self) -> pb.Allocation:
        """How the capital is shared."""
        answer: pb.Allocation = await self.allocation.GetAllocation(pb.GetAllocationRequest())
        return answer

    async def plan(self, **policy: Any) -> pb.Plan:
        """A dry run by this policy."""
        request = pb.PlanAllocationRequest(policy=POLICY(**policy))
        answer: pb.Plan = await self.allocation.PlanAllocation(request)
        return answer

    async def rebalance(self, **request: Any) -> pb.Plan:
        """Carries out a plan."""
        answer: pb.Plan = await self.allocation.Rebalance(pb.RebalanceRequest(**request))
        return answer


@pytest.fixture
async def stubs(router: Callable[..., Router], database_url: str) -> AsyncIterator[Stubs]:
    """A router with the five strategies, each with 20,000 USD; audited in the end."""
    async with aio.insecure_channel(router(database_url).address) as channel:
        one = Stubs(channel)
        yield one
        audit = await one.portfolio.Audit(portfolio_pb.AuditRequest())
        assert audit.balanced, audit


def refusal(error: aio.AioRpcError) -> tuple[grpc.StatusCode, str]:
    """The code and the reason."""
    metadata = dict(error.trailing_metadata() or ())
    status = status_pb2.Status.FromString(metadata[DETAILS_KEY])
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    return error.code(), info.reason


async def test_a_fresh_system_shares_equally_on_request(stubs: Stubs) -> None:
    allocation = await stubs.allocated()
    assert [each.strategy_name for each in allocation.holdings] == STRATEGIES
    assert {(each.equity, each.weight, each.due) for each in allocation.holdings} == {
        (20_000, 0.2, 0)
    }
    assert (allocation.capital, allocation.reserve) == (100_000, 0)
    assert allocation.policy == POLICY(
        method=POLICY.EQUAL,
        fallback=POLICY.EQUAL,
        schedule=POLICY.ON_REQUEST,
        lookback_days=1260,
        min_days=60,
    )
    assert not allocation.HasField("last_plan")
    plan = await stubs.rebalance(request_id="now")
    assert all(row.moves_now == row.moves_later == 0 for row in plan.rows)
    assert await stubs.rebalance(request_id="now") == plan
    assert (await stubs.allocated()).last_plan == plan


async def test_a_plan_by_fixed_weights_is_kept_shown_and_carried_out(stubs: Stubs) -> None:
    bounds = [
        POLICY.Bound(strategy_name=name, fixed_weight=weight)
        for name, weight in zip(STRATEGIES, (0.4, 0.3, 0.2, 0.1, 0.0), strict=True)
    ]
    await stubs.trade("BuyAll", STRATEGIES[4], 3.0)
    plan = await stubs.plan(method=POLICY.FIXED, bounds=bounds, cash_floor=0.1)
    figures = [(row.target_equity, row.moves_now, row.moves_later) for row in plan.rows]
    assert plan.rows[5].strategy_name == "RESERVE"
    # 20,000 buys 6,666 shares at 3.00; 2.00 stay.
    assert figures[3] == (9000, -11_000, 0)
    assert figures[4] == (0, -2, -19_998)
    assert figures[5][0] == 10_000
    assert math.isclose(sum(row.moves_now for row in plan.rows), 0, abs_tol=1e-9)
    assert (plan.state, plan.mode, plan.capital) == (pb.Plan.PLANNED, Book.PAPER, 100_000)
    carried = await stubs.rebalance(plan_id=plan.plan_id)
    assert carried.state == pb.Plan.CARRIED_OUT
    assert carried.HasField("carry_out_time")
    dues = {each.strategy_name: each.due for each in (await stubs.allocated()).holdings}
    assert dues[STRATEGIES[4]] == -19_998
    await stubs.trade("SellAll", STRATEGIES[4], 3.0)

    async def settled() -> bool:
        allocation = await stubs.allocated()
        return not any(each.due for each in allocation.holdings)

    await wait_until_async(settled, 20, "the treasurer settles")
    allocation = await stubs.allocated()
    assert [each.equity for each in allocation.holdings] == [36_000, 27_000, 18_000, 9000, 0]
    assert allocation.reserve == 10_000
    with pytest.raises(aio.AioRpcError) as refused:
        await stubs.rebalance(plan_id=plan.plan_id)
    assert refusal(refused.value) == (grpc.StatusCode.FAILED_PRECONDITION, "PLAN_OUTDATED")


async def test_plans_come_by_page_newest_first(stubs: Stubs) -> None:
    made = [(await stubs.plan(cash_floor=0.01 * number)).plan_id for number in range(3)]
    request = pb.ListPlansRequest(page_size=2)
    first = await stubs.allocation.ListPlans(request)
    assert [plan.plan_id for plan in first.plans] == made[:0:-1]
    request.page_token = first.next_page_token
    second = await stubs.allocation.ListPlans(request)
    assert [plan.plan_id for plan in second.plans] == made[:1]
    assert second.next_page_token == ""


@pytest.mark.parametrize(
    ("method", "request_of"),
    [
        ("SetAllocation", pb.SetAllocationRequest()),
        ("SetAllocation", pb.SetAllocationRequest(policy=POLICY(cash_floor=math.nan))),
        ("SetAllocation", pb.SetAllocationRequest(policy=POLICY(cash_floor=1.01))),
        ("SetAllocation", pb.SetAllocationRequest(policy=POLICY(cash_floor=1e-9))),
        ("SetAllocation", pb.SetAllocationRequest(policy=POLICY(max_turnover=0.0))),
        ("SetAllocation", pb.SetAllocationRequest(policy=POLICY(method=UNKNOWN))),
        ("SetAllocation", pb.SetAllocationRequest(policy=POLICY(fallback=POLICY.RISK_PARITY))),
        ("SetAllocation", pb.SetAllocationRequest(policy=POLICY(lookback_days=19))),
        ("SetAllocation", pb.SetAllocationRequest(policy=POLICY(min_days=4))),
        ("SetAllocation", pb.SetAllocationRequest(policy=POLICY(method=POLICY.FIXED))),
        (
            "PlanAllocation",
            pb.PlanAllocationRequest(policy=POLICY(bounds=[POLICY.Bound(strategy_name="A")] * 2)),
        ),
        (
            "PlanAllocation",
            pb.PlanAllocationRequest(
                policy=POLICY(
                    bounds=[POLICY.Bound(strategy_name="A", min_weight=0.5, max_weight=0.4)]
                )
            ),
        ),
        ("Rebalance", pb.RebalanceRequest(plan_id="-" * 36)),
        ("Rebalance", pb.RebalanceRequest(plan_id="x")),
        ("GetAllocation", pb.GetAllocationRequest(mode=UNKNOWN)),
        ("ListPlans", pb.ListPlansRequest(page_size=-1)),
    ],
    ids=lambda value: str(value).replace("\n", " ")[:60],
)
async def test_what_makes_no_sense_is_refused(
    shared_stubs: Stubs, method: str, request_of: Any
) -> None:
    with pytest.raises(aio.AioRpcError) as refused:
        await getattr(shared_stubs.allocation, method)(request_of)
    assert refusal(refused.value) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")


def test_a_policy_with_as_many_bounds_as_it_may_have_is_read_at_once() -> None:
    bounds = [pb.AllocationPolicy.Bound(strategy_name=f"S{number}") for number in range(10_000)]
    began = time.process_time()
    assert len(policy_from(pb.AllocationPolicy(bounds=bounds)).bounds) == len(bounds)
    assert time.process_time() - began < 0.6  # the router's loop waits for it; squared, it took 1.1


async def test_an_unknown_plan_is_404(shared_stubs: Stubs) -> None:
    with pytest.raises(aio.AioRpcError) as refused:
        await shared_stubs.rebalance(plan_id="01890000-0000-7000-8000-000000000000")
    assert refusal(refused.value) == (grpc.StatusCode.NOT_FOUND, "PLAN_NOT_FOUND")


async def test_a_new_month_of_the_sessions_rebalances_by_the_strategies_own_curves(
    stubs: Stubs,
) -> None:
    policy = POLICY(
        method=POLICY.MINIMUM_VARIANCE, schedule=POLICY.MONTHLY, min_days=20, cash_floor=0.05
    )
    request = pb.SetAllocationRequest(policy=policy, request_id="minimum-variance")
    await stubs.allocation.SetAllocation(request)
    for number in range(34):  # to the 3rd of February, which closes the 2nd
        session = JANUARY + timedelta(days=number)
        for place, name in enumerate(STRATEGIES):
            price = 100 * (1 + 0.01 * (place + 1) * math.sin(number * (place + 2)))
            await stubs.report(name, session, round(price, 4))
            if number == 0:
                await stubs.trade("BuyAll", name, round(price, 4))

    async def rebalanced() -> bool:
        return (await stubs.allocated()).HasField("last_plan")

    await wait_until_async(rebalanced, 120, "the month's rebalance")
    plan = (await stubs.allocated()).last_plan
    assert (plan.method, plan.fallback_reason) == (POLICY.MINIMUM_VARIANCE, "")
    weights = [row.target_weight for row in plan.rows[:5]]
    assert math.isclose(sum(weights), 0.95, abs_tol=1e-5)
    assert max(weights) > 0.25  # and not an equal share
    assert plan.proposed.volatility < plan.current.volatility
    assert all(row.HasField("own") for row in plan.rows[:5])
    assert len(plan.frontier) > 2
    for name in STRATEGIES:
        await stubs.trade("SellAll", name, 100.0)

    async def settled() -> bool:
        return all(each.due >= 0 for each in (await stubs.allocated()).holdings)

    await wait_until_async(settled, 20, "all that was owed is paid")
    assert (await stubs.allocated()).reserve >= 0.05 * plan.capital - 0.01


@pytest.fixture(scope="module")
def shared_router(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One router for all calls that change nothing."""
    with fresh_database(postgres_url) as url:
        one = Router(url, tmp_path_factory.mktemp("router") / "router.log")
        one.start()
        yield one
        one.stop()


@pytest.fixture
async def shared_stubs(shared_router: Router) -> AsyncIterator[Stubs]:
    """Stubs on the module's router."""
    async with aio.insecure_channel(shared_router.address) as channel:
        yield Stubs(channel)

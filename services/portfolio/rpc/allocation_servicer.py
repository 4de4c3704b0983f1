"""AllocationService: unpack, call one use case, pack."""

from collections import Counter
from uuid import UUID

from efficientfrontier.v1 import allocation_service_pb2 as pb
from efficientfrontier.v1.allocation_service_pb2_grpc import AllocationServiceServicer
from services.portfolio.allocation.allocator import Allocation
from services.portfolio.domain.capital import (
    ONE,
    AllocationPolicy,
    Bound,
    Method,
    Plan,
    PlanRow,
    RiskReturn,
    Schedule,
)
from services.portfolio.router import Router
from services.portfolio.rpc.context import Context
from services.portfolio.rpc.errors import InvalidFieldError
from services.portfolio.rpc.pages import place_of, token_of
from services.portfolio.rpc.wire import MODES, decimal_of, optional_decimal, timestamp, uuid_of

DEFAULT_PLANS, MOST_PLANS = 20, 100  # a plan of 1,000 strategies has 1,000 rows
PLANS = "plans"  # what page tokens of this list are for
UNSET = AllocationPolicy()
MODE_OF = {number: mode for mode, number in MODES.items()}


class AllocationServicer(AllocationServiceServicer):
    """The allocation over gRPC."""

    def __init__(self, router: Router) -> None:
        self._allocator = router.allocator

    async def GetAllocation(
        self, request: pb.GetAllocationRequest, context: Context
    ) -> pb.Allocation:
        """Shows how the capital is shared."""
        return allocation_message(await self._allocator.allocation(MODE_OF.get(request.mode)))

    async def SetAllocation(
        self, request: pb.SetAllocationRequest, context: Context
    ) -> pb.Allocation:
        """Sets the policy."""
        policy = policy_from(request.policy)
        return allocation_message(await self._allocator.set_policy(policy, request.request_id))

    async def PlanAllocation(self, request: pb.PlanAllocationRequest, context: Context) -> pb.Plan:
        """Makes a plan, and moves nothing."""
        policy = policy_from(request.policy) if request.HasField("policy") else None
        return plan_message(await self._allocator.plan(policy, MODE_OF.get(request.mode)))

    async def Rebalance(self, request: pb.RebalanceRequest, context: Context) -> pb.Plan:
        """Carries out a plan."""
        plan_id = plan_id_of(request.plan_id) if request.plan_id else None
        mode = MODE_OF.get(request.mode)
        return plan_message(await self._allocator.rebalance(plan_id, mode, request.request_id))

    async def ListPlans(
        self, request: pb.ListPlansRequest, context: Context
    ) -> pb.ListPlansResponse:
        """Lists plans, newest first."""
        before = place_of(request.page_token, PLANS, uuid_of)
        size = min(request.page_size or DEFAULT_PLANS, MOST_PLANS)
        found = await self._allocator.plans(before, size + 1)
        token = token_of([str(found[size - 1].plan_id)], PLANS) if len(found) > size else ""
        return pb.ListPlansResponse(plans=map(plan_message, found[:size]), next_page_token=token)


def plan_id_of(text: str) -> UUID:
    """The id of a plan.

    Raises:
        InvalidFieldError: It only looks like one.
    """
    try:
        return UUID(text)
    except ValueError:
        raise InvalidFieldError(("plan_id", "must be a UUID")) from None


def policy_from(message: pb.AllocationPolicy) -> AllocationPolicy:
    """A policy in the domain's types.

    Raises:
        InvalidFieldError: A strategy has two bounds, or bounds that leave nothing between them, or
            FIXED has nobody to give anything to.
    """
    bounds = tuple(_bound(bound, f"policy.bounds[{i}]") for i, bound in enumerate(message.bounds))
    named = Counter(bound.strategy_name for bound in bounds)
    if twice := sorted(name for name, times in named.items() if times > 1):
        raise InvalidFieldError(("policy.bounds", f"names {', '.join(twice)} more than once"))
    method = Method(pb.AllocationPolicy.Method.Name(message.method or pb.AllocationPolicy.EQUAL))
    if method is Method.FIXED and not any(bound.fixed_weight for bound in bounds):
        raise InvalidFieldError(("policy.bounds", "give FIXED no strategy with a fixed_weight"))
    return AllocationPolicy(
        method,
        Method(pb.AllocationPolicy.Method.Name(message.fallback or pb.AllocationPolicy.EQUAL)),
        Schedule(
            pb.AllocationPolicy.Schedule.Name(message.schedule or pb.AllocationPolicy.ON_REQUEST)
        ),
        bounds,
        decimal_of(message.cash_floor, "policy.cash_floor"),
        optional_decimal(
            message.max_turnover, "policy.max_turnover", present=message.HasField("max_turnover")
        ),
        message.lookback_days or UNSET.lookback_days,
        message.min_days or UNSET.min_days,
    )


def allocation_message(allocation: Allocation) -> pb.Allocation:
    """How the capital is shared, as the contract has it."""
    last = allocation.last_plan
    return pb.Allocation(
        policy=policy_message(allocation.policy),
        mode=MODES[allocation.mode],
        capital=float(allocation.capital),
        reserve=float(allocation.reserve),
        holdings=[
            pb.Allocation.Holding(
                strategy_name=each.strategy_name,
                equity=float(each.equity),
                weight=float(each.weight),
                due=float(each.due),
            )
            for each in allocation.holdings
        ],
        last_plan=None if last is None else plan_message(last),
    )


def policy_message(policy: AllocationPolicy) -> pb.AllocationPolicy:
    """A policy as the contract has it."""
    return pb.AllocationPolicy(
        method=pb.AllocationPolicy.Method.Value(policy.method),
        fallback=pb.AllocationPolicy.Method.Value(policy.fallback),
        schedule=pb.AllocationPolicy.Schedule.Value(policy.schedule),
        bounds=[
            pb.AllocationPolicy.Bound(
                strategy_name=bound.strategy_name,
                min_weight=float(bound.min_weight),
                max_weight=float(bound.max_weight),
                fixed_weight=float(bound.fixed_weight),
            )
            for bound in policy.bounds
        ],
        cash_floor=float(policy.cash_floor),
        max_turnover=None if policy.max_turnover is None else float(policy.max_turnover),
        lookback_days=policy.lookback_days,
        min_days=policy.min_days,
    )


def plan_message(plan: Plan) -> pb.Plan:
    """A plan as the contract has it."""
    carried_out = plan.carry_out_time
    return pb.Plan(
        plan_id=str(plan.plan_id),
        state=pb.Plan.State.Value(plan.state),
        mode=MODES[plan.mode],
        create_time=timestamp(plan.create_time),
        policy=policy_message(plan.policy),
        method=pb.AllocationPolicy.Method.Value(plan.method),
        fallback_reason=plan.fallback_reason,
        capital=float(plan.capital),
        rows=map(_row, plan.rows),
        current=_known(plan.current),
        proposed=_known(plan.proposed),
        frontier=[_point(point) for point in plan.frontier],
        carry_out_time=None if carried_out is None else timestamp(carried_out),
    )


def _bound(message: pb.AllocationPolicy.Bound, field: str) -> Bound:
    most = optional_decimal(
        message.max_weight, f"{field}.max_weight", present=message.HasField("max_weight")
    )
    bound = Bound(
        message.strategy_name,
        decimal_of(message.min_weight, f"{field}.min_weight"),
        ONE if most is None else most,
        decimal_of(message.fixed_weight, f"{field}.fixed_weight"),
    )
    if bound.min_weight > bound.max_weight:
        raise InvalidFieldError(
            (f"{field}.min_weight", f"is {bound.min_weight}, above max_weight {bound.max_weight}")
        )
    return bound


def _row(row: PlanRow) -> pb.Plan.Row:
    return pb.Plan.Row(
        strategy_name=row.strategy_name,
        equity=float(row.equity),
        target_equity=float(row.target_equity),
        weight=float(row.weight),
        target_weight=float(row.target_weight),
        moves_now=float(row.moves_now),
        moves_later=float(row.moves_later),
        why=row.told,
        own=_known(row.own),
    )


def _point(point: RiskReturn) -> pb.RiskReturn:
    return pb.RiskReturn(volatility=point.volatility, expected_return=point.expected_return)


def _known(point: RiskReturn | None) -> pb.RiskReturn | None:
    """A point; None where there is too little history."""
    return None if point is None else _point(point)

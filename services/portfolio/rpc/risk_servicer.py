"""RiskService: unpack, call one use case, pack."""

from typing import cast

from efficientfrontier.v1 import risk_service_pb2 as pb
from efficientfrontier.v1.risk_service_pb2_grpc import RiskServiceServicer
from services.portfolio.commands import Command
from services.portfolio.domain.risk import Limits, OnSilence, RiskEvent, StrategyLimits
from services.portfolio.risk.commands import HaltPortfolio, ResumePortfolio, SetLimits
from services.portfolio.router import Router
from services.portfolio.rpc.context import Context
from services.portfolio.rpc.pages import place_of, size_of, token_of
from services.portfolio.rpc.wire import decimal_of, timestamp, uuid_of
from services.portfolio.views import WholeView

# The limits that are doubles on the wire, by their names in both worlds.
DECIMALS = (
    "max_drawdown",
    "max_daily_loss",
    "max_order_value",
    "max_price_age_s",
    "max_price_jump",
    "lease_s",
)


class RiskServicer(RiskServiceServicer):
    """Risk control over gRPC."""

    def __init__(self, router: Router) -> None:
        self._writer = router.writer
        self._reads = router.risk

    async def ListLimits(
        self, request: pb.ListLimitsRequest, context: Context
    ) -> pb.ListLimitsResponse:
        """Lists the limits of the whole and of every strategy."""
        return pb.ListLimitsResponse(limits=map(limits_message, await self._reads.limits()))

    async def SetLimits(self, request: pb.SetLimitsRequest, context: Context) -> pb.StrategyLimits:
        """Sets all limits of a strategy, or of the whole."""
        limits = limits_from(request.limits)
        command = SetLimits(request.strategy_name, limits, request.request_id)
        return limits_message(cast("StrategyLimits", await self._writer.submit(command)))

    async def HaltPortfolio(
        self, request: pb.HaltPortfolioRequest, context: Context
    ) -> pb.PortfolioState:
        """Stops every strategy from placing orders."""
        return await self._change(
            HaltPortfolio(request.reason, request.flatten, request.request_id)
        )

    async def ResumePortfolio(
        self, request: pb.ResumePortfolioRequest, context: Context
    ) -> pb.PortfolioState:
        """Lets strategies place orders again."""
        return await self._change(ResumePortfolio(request.request_id))

    async def ListRiskEvents(
        self, request: pb.ListRiskEventsRequest, context: Context
    ) -> pb.ListRiskEventsResponse:
        """Lists what risk control did, newest first."""
        name = request.strategy_name or None
        before = place_of(request.page_token, name, uuid_of)
        size = size_of(request.page_size)
        found = await self._reads.events(name, before, size + 1)
        token = token_of([str(found[size - 1].event_id)], name) if len(found) > size else ""
        return pb.ListRiskEventsResponse(
            events=map(event_message, found[:size]), next_page_token=token
        )

    async def _change(self, command: Command) -> pb.PortfolioState:
        return state_message(cast("WholeView", await self._writer.submit(command)))


def limits_from(message: pb.Limits) -> Limits:
    """Limits in the domain's types.

    Raises:
        InvalidFieldError: A figure has more digits than are kept.
    """
    given = {field.name: value for field, value in message.ListFields()}
    figures = {
        name: decimal_of(given[name], f"limits.{name}") for name in DECIMALS if name in given
    }
    flattens = message.on_silence == pb.Limits.FLATTEN
    return Limits(
        **figures,
        max_orders_per_minute=given.get("max_orders_per_minute"),
        on_silence=OnSilence.FLATTEN if flattens else OnSilence.HOLD,
    )


def limits_message(found: StrategyLimits) -> pb.StrategyLimits:
    """Whose limits, and which, as the contract has them."""
    limits = found.limits
    figures = {name: getattr(limits, name) for name in DECIMALS}
    return pb.StrategyLimits(
        strategy_name=found.strategy_name,
        limits=pb.Limits(
            **{name: float(figure) for name, figure in figures.items() if figure is not None},
            max_orders_per_minute=limits.max_orders_per_minute,
            on_silence=pb.Limits.OnSilence.Value(limits.on_silence),
        ),
    )


def state_message(view: WholeView) -> pb.PortfolioState:
    """The whole as the contract has it."""
    return pb.PortfolioState(
        halted=view.halted,
        reason=view.reason,
        strategies=view.strategies,
        update_time=None if view.update_time is None else timestamp(view.update_time),
    )


def event_message(event: RiskEvent) -> pb.RiskEvent:
    """An event as the contract has it."""
    return pb.RiskEvent(
        event_id=str(event.event_id),
        strategy_name=event.strategy_name,
        kind=pb.RiskEvent.Kind.Value(event.kind),
        reason=event.reason,
        actor=event.actor,
        time=timestamp(event.time),
    )

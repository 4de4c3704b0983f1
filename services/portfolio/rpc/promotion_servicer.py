"""PromotionService: unpack, call one use case, pack."""

from efficientfrontier.v1 import promotion_service_pb2 as pb
from efficientfrontier.v1.portfolio_service_pb2 import Portfolio
from efficientfrontier.v1.promotion_service_pb2_grpc import PromotionServiceServicer
from services.portfolio.domain.promotion import Decision
from services.portfolio.router import Router
from services.portfolio.rpc.context import Context
from services.portfolio.rpc.pages import place_of, size_of, token_of
from services.portfolio.rpc.wire import MODES, timestamp, uuid_of


class PromotionServicer(PromotionServiceServicer):
    """Who trades LIVE, over gRPC."""

    def __init__(self, router: Router) -> None:
        self._reviewer = router.reviewer

    async def ListDecisions(
        self, request: pb.ListDecisionsRequest, context: Context
    ) -> pb.ListDecisionsResponse:
        """Lists decisions, newest first."""
        name = request.strategy_name or None
        before = place_of(request.page_token, name, uuid_of)
        size = size_of(request.page_size)
        found = await self._reviewer.reads.decisions(name, before, size + 1)
        token = token_of([str(found[size - 1].decision_id)], name) if len(found) > size else ""
        decisions = map(decision_message, found[:size])
        return pb.ListDecisionsResponse(decisions=decisions, next_page_token=token)

    async def ReviewStrategy(
        self, request: pb.ReviewStrategyRequest, context: Context
    ) -> pb.Decision:
        """Applies the rule to one strategy now."""
        return decision_message(await self._reviewer.review(request.strategy_name))


def decision_message(decision: Decision) -> pb.Decision:
    """A decision as the contract has it."""
    return pb.Decision(
        decision_id=str(decision.decision_id),
        strategy_name=decision.strategy_name,
        time=timestamp(decision.time),
        rule=decision.rule,
        from_mode=MODES[decision.from_mode],
        to_mode=MODES[decision.to_mode],
        outcome=pb.Decision.Outcome.Value(decision.outcome),
        evidence=[
            pb.Decision.Evidence(
                figure=each.figure, value=each.value, wanted=each.wanted, holds=each.holds
            )
            for each in decision.evidence
        ],
        reason=decision.reason,
        requested_mode=Portfolio.RequestedMode.Value(decision.requested_mode),
    )

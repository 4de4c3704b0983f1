"""PositionService: unpack, call one use case, pack."""

from typing import cast

from efficientfrontier.v1 import position_service_pb2 as pb
from efficientfrontier.v1.position_service_pb2_grpc import PositionServiceServicer
from services.portfolio.commands import DeletePosition, SetPosition
from services.portfolio.domain.money import ZERO
from services.portfolio.domain.order import Mode
from services.portfolio.domain.reconciliation import UNATTRIBUTED
from services.portfolio.live.commands import AssignShares
from services.portfolio.ports import PositionFilter, PositionKey
from services.portfolio.router import Router
from services.portfolio.rpc.context import Context
from services.portfolio.rpc.errors import InvalidFieldError
from services.portfolio.rpc.pages import place_of, size_of, token_of
from services.portfolio.rpc.wire import MODES, decimal_of, position_message, uuid_of
from services.portfolio.views import PositionView


class PositionServicer(PositionServiceServicer):
    """Positions over gRPC."""

    def __init__(self, router: Router) -> None:
        self._router = router

    async def SetPosition(self, request: pb.SetPositionRequest, context: Context) -> pb.Position:
        """Creates a position or sets it."""
        command = SetPosition(
            request.strategy_name,
            request.symbol,
            decimal_of(request.quantity, "quantity"),
            decimal_of(request.average_cost, "average_cost"),
            request.reason,
            request.request_id,
        )
        return position_message(cast("PositionView", await self._router.writer.submit(command)))

    async def ListPositions(
        self, request: pb.ListPositionsRequest, context: Context
    ) -> pb.ListPositionsResponse:
        """Lists open positions."""
        which = PositionFilter(request.strategy_name or None, request.symbol or None)
        after = place_of(request.page_token, which, _key)
        size = size_of(request.page_size)
        found = await self._router.reads.positions(which, after, size + 1)
        token = ""
        if len(found) > size:
            last = found[size - 1]
            token = token_of([last.strategy_name, last.symbol, last.mode], which)
        return pb.ListPositionsResponse(
            positions=map(position_message, found[:size]), next_page_token=token
        )

    async def DeletePosition(
        self, request: pb.DeletePositionRequest, context: Context
    ) -> pb.DeletePositionResponse:
        """Removes a position."""
        command = DeletePosition(uuid_of(request.position_id), request.reason, request.request_id)
        await self._router.writer.submit(command)
        return pb.DeletePositionResponse()

    async def AssignPosition(
        self, request: pb.AssignPositionRequest, context: Context
    ) -> pb.Position:
        """Says whose UNATTRIBUTED shares are."""
        answer = await self._router.writer.submit(_assignment(request))
        if isinstance(answer, PositionView):
            return position_message(answer)
        return pb.Position(
            strategy_name=request.strategy_name, symbol=request.symbol, mode=MODES[Mode.LIVE]
        )


def _assignment(request: pb.AssignPositionRequest) -> AssignShares:
    """What is asked for. Only a strategy needs the quantity, and only added shares the cost."""
    quantity = average_cost = ZERO
    if request.strategy_name != UNATTRIBUTED:
        quantity = decimal_of(request.quantity, "quantity")
        if not quantity:
            raise InvalidFieldError(("quantity", "must not be 0"))
    if quantity > 0:
        average_cost = decimal_of(request.average_cost, "average_cost")
        if not average_cost:
            raise InvalidFieldError(("average_cost", "must be greater than 0 for added shares"))
    return AssignShares(
        request.strategy_name,
        request.symbol,
        quantity,
        average_cost,
        request.reason,
        request.request_id,
    )


def _key(strategy_name: str, symbol: str, mode: str) -> PositionKey:
    return str(strategy_name), str(symbol), Mode(mode)

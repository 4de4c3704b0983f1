"""EquityService: unpack, call one use case, pack."""

from datetime import date

from efficientfrontier.v1 import equity_service_pb2 as pb
from efficientfrontier.v1.book_pb2 import Book
from efficientfrontier.v1.equity_service_pb2_grpc import EquityServiceServicer
from services.portfolio.domain.order import Mode
from services.portfolio.history.history import Report
from services.portfolio.history.ports import Close, Reality
from services.portfolio.router import Router
from services.portfolio.rpc.context import Context
from services.portfolio.rpc.pages import place_of, size_of, token_of
from services.portfolio.rpc.wire import MODES, timestamp

MODE_OF = {number: mode for mode, number in MODES.items()}


class EquityServicer(EquityServiceServicer):
    """The equity history over gRPC."""

    def __init__(self, router: Router) -> None:
        self._history = router.history

    async def ListEquity(
        self, request: pb.ListEquityRequest, context: Context
    ) -> pb.ListEquityResponse:
        """Lists closes, newest first."""
        which = ("equity", request.strategy_name, request.mode)
        before = place_of(request.page_token, which, date.fromisoformat)
        size = size_of(request.page_size)
        mode = MODE_OF.get(request.mode)
        closes = await self._history.closes(request.strategy_name, mode, before, size + 1)
        token = ""
        if len(closes) > size:
            token = token_of([closes[size - 1].session.isoformat()], which)
        return pb.ListEquityResponse(
            points=map(point_message, closes[:size]), next_page_token=token
        )

    async def GetPerformance(
        self, request: pb.GetPerformanceRequest, context: Context
    ) -> pb.Performance:
        """Says how a strategy, or the whole, has done."""
        mode = MODE_OF.get(request.mode)
        report = await self._history.report(request.strategy_name, mode)
        return performance_message(request.strategy_name, report)


def point_message(close: Close) -> pb.EquityPoint:
    """A close as the contract has it."""
    return pb.EquityPoint(
        session=close.session.isoformat(),
        equity=float(close.equity),
        cash=float(close.cash),
        positions_value=float(close.positions_value),
        flow=float(close.flow),
        daily_return=close.daily_return,
        growth=close.growth,
        drawdown=close.drawdown,
    )


def performance_message(strategy_name: str, report: Report) -> pb.Performance:
    """Figures as the contract has them; one that is not defined is absent."""
    figures = report.performance
    return pb.Performance(
        strategy_name=strategy_name,
        mode=_mode(report.mode),
        first_session=_text(figures.first_session),
        last_session=_text(figures.last_session),
        days=figures.days,
        total_return=figures.total_return,
        annual_return=figures.annual_return,
        volatility=figures.volatility,
        sharpe_ratio=figures.sharpe_ratio,
        sortino_ratio=figures.sortino_ratio,
        max_drawdown=figures.max_drawdown,
        calmar_ratio=figures.calmar_ratio,
        drawdown=figures.drawdown,
        exposure=figures.exposure,
        turnover=figures.turnover,
        win_rate=figures.win_rate,
        orders=figures.orders,
        commission=figures.commission,
        slippage=figures.slippage,
        cost_of_reality=None if report.reality is None else _reality(report.reality),
    )


def _reality(reality: Reality) -> pb.CostOfReality:
    return pb.CostOfReality(
        since_time=timestamp(reality.since),
        days=reality.days,
        live_return=reality.live_return,
        paper_return=reality.paper_return,
        cost=reality.paper_return - reality.live_return,
    )


def _mode(mode: Mode | None) -> Book.Mode.ValueType:
    return Book.MODE_UNSPECIFIED if mode is None else MODES[mode]


def _text(session: date | None) -> str:
    return "" if session is None else session.isoformat()

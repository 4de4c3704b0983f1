"""PortfolioService: unpack, call one use case, pack."""

from collections.abc import AsyncIterator
from typing import cast

from efficientfrontier.v1 import portfolio_service_pb2 as pb
from efficientfrontier.v1.portfolio_service_pb2_grpc import PortfolioServiceServicer
from services.portfolio import commands
from services.portfolio.commands import Command
from services.portfolio.domain.book import RequestedMode, State
from services.portfolio.domain.errors import StrategyNotFoundError
from services.portfolio.ports import PriceMark
from services.portfolio.risk.commands import HaltStrategy
from services.portfolio.router import Router
from services.portfolio.rpc.context import Context
from services.portfolio.rpc.wire import (
    MODES,
    decimal_of,
    invested_message,
    optional_decimal,
    portfolio_message,
    session_of,
    stream_end,
)
from services.portfolio.views import PortfolioView
from services.portfolio.watching import watch_portfolios


class PortfolioServicer(PortfolioServiceServicer):
    """The portfolio over gRPC."""

    def __init__(self, router: Router) -> None:
        self._router = router

    async def UpsertPortfolio(
        self, request: pb.UpsertPortfolioRequest, context: Context
    ) -> pb.Portfolio:
        """Creates a strategy, or changes the fields that are present."""
        requested = None
        if request.HasField("requested_mode"):
            requested = RequestedMode(pb.Portfolio.RequestedMode.Name(request.requested_mode))
        return await self._change(
            commands.UpsertPortfolio(
                request.strategy_name,
                optional_decimal(request.cash, "cash", present=request.HasField("cash")),
                requested,
                request.reason,
                request.request_id,
            )
        )

    async def ListPortfolios(
        self, request: pb.ListPortfoliosRequest, context: Context
    ) -> pb.ListPortfoliosResponse:
        """Lists every strategy."""
        portfolios = await self._router.reads.portfolios()
        now = self._router.clock()
        return pb.ListPortfoliosResponse(
            portfolios=[portfolio_message(portfolio, now) for portfolio in portfolios]
        )

    async def GetPortfolio(self, request: pb.GetPortfolioRequest, context: Context) -> pb.Portfolio:
        """Reads one strategy."""
        found = await self._router.reads.portfolios([request.strategy_name])
        if not found:
            raise StrategyNotFoundError(request.strategy_name)
        return portfolio_message(found[0], self._router.clock())

    async def GetInvested(self, request: pb.GetInvestedRequest, context: Context) -> pb.Invested:
        """Says whether a strategy holds anything."""
        return invested_message(await self._router.invested(request.strategy_name))

    async def HaltStrategy(self, request: pb.HaltStrategyRequest, context: Context) -> pb.Portfolio:
        """Stops a strategy from placing orders."""
        return await self._change(
            HaltStrategy(request.strategy_name, request.reason, request.flatten, request.request_id)
        )

    async def ResumeStrategy(
        self, request: pb.ResumeStrategyRequest, context: Context
    ) -> pb.Portfolio:
        """Lets a halted strategy place orders again."""
        return await self._change(
            commands.SetState(request.strategy_name, State.ACTIVE, request_id=request.request_id)
        )

    async def ReportPrices(
        self, request: pb.ReportPricesRequest, context: Context
    ) -> pb.ReportPricesResponse:
        """Keeps the prices a strategy has just seen."""
        now = self._router.clock()
        session = session_of(request.session, now)
        marks = [
            PriceMark(
                request.strategy_name,
                p.symbol,
                decimal_of(p.price, f"prices[{i}].price"),
                now,
                session,
            )
            for i, p in enumerate(request.prices)
        ]
        await self._router.mark(marks)
        return pb.ReportPricesResponse()

    async def WatchPortfolios(
        self, request: pb.WatchPortfoliosRequest, context: Context
    ) -> AsyncIterator[pb.WatchPortfoliosResponse]:
        """Streams strategies as they change."""
        name = request.strategy_name or None
        async for event in watch_portfolios(self._router.reads, self._router.feed, name):
            if isinstance(event, PortfolioView):
                now = self._router.clock()
                yield pb.WatchPortfoliosResponse(portfolio=portfolio_message(event, now))
            else:
                yield pb.WatchPortfoliosResponse(end=stream_end(event))

    async def Audit(self, request: pb.AuditRequest, context: Context) -> pb.AuditResponse:
        """Recomputes every book from the recorded facts."""
        books, differences = await self._router.reads.audit()
        return pb.AuditResponse(
            balanced=not differences,
            books=books,
            differences=[
                pb.AuditResponse.Difference(
                    strategy_name=found.strategy_name,
                    mode=MODES[found.mode],
                    figure=found.figure,
                    recorded=f"{found.recorded:f}",
                    recomputed=f"{found.recomputed:f}",
                )
                for found in differences
            ],
        )

    async def _change(self, command: Command) -> pb.Portfolio:
        changed = cast("PortfolioView", await self._router.writer.submit(command))
        return portfolio_message(changed, self._router.clock())

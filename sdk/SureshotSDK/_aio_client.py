"""The portfolio client for asyncio: the methods of PortfolioInterface, to be awaited."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from datetime import date
from pathlib import Path
from typing import Self, cast

import grpc
import grpc.aio

from efficientfrontier.v1.order_service_pb2 import Order
from efficientfrontier.v1.portfolio_service_pb2 import AuditResponse, Portfolio
from efficientfrontier.v1.position_service_pb2 import Position
from SureshotSDK import _calls, _tracing
from SureshotSDK._calls import Answer, Call, ModeWord, Number, SideWord, StatusWord
from SureshotSDK._credentials import Credentials, Line, Lines
from SureshotSDK._interface import WATCH_FOR_S
from SureshotSDK._retry import CHANNEL_OPTIONS, RetryPolicy, router_address
from SureshotSDK.errors import FailedCall, PortfolioError, error_of


class AsyncPortfolioClient:
    """PortfolioClient for asyncio: same arguments, same answers, same errors.

    async with AsyncPortfolioClient() as portfolio:
        order = await portfolio.buy_all("IncredibleLeverage_SPXL", "SPXL", 150.5)

    Make it inside the running event loop. What each method does and raises stands at the method of
    the same name in PortfolioInterface.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        identity_dir: Path | str | None = None,
        token_file: Path | str | None = None,
        deadline_s: float = 5.0,
        retry_for_s: float = 10.0,
    ) -> None:
        self.address = router_address(address)
        self._retry = RetryPolicy(deadline_s, retry_for_s)
        self._credentials = Credentials(identity_dir, token_file)
        self._lines = Lines(self._credentials, self._connect)

    async def close(self) -> None:
        """Ends the connection. Calls that are under way fail."""
        for channel in self._lines.close():
            await channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def buy_all(
        self, strategy_name: str, symbol: str, price: Number, *, request_id: str | None = None
    ) -> Order:
        """Buys as many whole shares as the strategy's free cash allows at `price`."""
        return await self._unary(_calls.buy_all(strategy_name, symbol, price, request_id))

    async def sell_all(
        self, strategy_name: str, symbol: str, price: Number, *, request_id: str | None = None
    ) -> Order:
        """Sells all that the strategy holds of `symbol` at `price`."""
        return await self._unary(_calls.sell_all(strategy_name, symbol, price, request_id))

    async def create_order(
        self,
        strategy_name: str,
        symbol: str,
        side: SideWord,
        quantity: Number,
        price: Number,
        *,
        request_id: str | None = None,
    ) -> Order:
        """Places an order for `quantity` shares."""
        return await self._unary(
            _calls.create_order(strategy_name, symbol, side, quantity, price, request_id)
        )

    async def get_order(self, order_id: str) -> Order:
        """Reads one order."""
        return await self._unary(_calls.get_order(order_id))

    async def list_orders(
        self,
        *,
        strategy_name: str = "",
        symbol: str = "",
        status: StatusWord | None = None,
        page_size: int = 0,
    ) -> AsyncIterator[Order]:
        """Yields orders, newest first, fetching pages as they are needed."""
        token = ""
        while True:
            page = await self._unary(
                _calls.list_orders(strategy_name, symbol, status, page_size, token)
            )
            for order in page.orders:
                yield order
            token = page.next_page_token
            if not token:
                return

    async def update_order_status(
        self,
        order_id: str,
        status: StatusWord,
        *,
        filled_quantity: Number | None = None,
        average_fill_price: Number | None = None,
        commission: Number | None = None,
        reason: str = "",
        request_id: str | None = None,
    ) -> Order:
        """Changes the status of an open order by hand."""
        return await self._unary(
            _calls.update_order_status(
                order_id,
                status,
                filled_quantity,
                average_fill_price,
                commission,
                reason,
                request_id,
            )
        )

    async def watch_orders(
        self,
        *,
        strategy_name: str = "",
        symbol: str = "",
        snapshot_size: int = 0,
        for_s: float = WATCH_FOR_S,
    ) -> AsyncIterator[Order]:
        """Yields orders as they are created and change, for `for_s` seconds."""
        call = _calls.watch_orders(strategy_name, symbol, snapshot_size)
        async for event in self._stream(call, for_s):
            yield _calls.order_in(event)

    async def set_position(
        self,
        strategy_name: str,
        symbol: str,
        quantity: Number,
        average_cost: Number,
        *,
        reason: str = "",
        request_id: str | None = None,
    ) -> Position:
        """Creates a position or sets it by hand; cash stays as it is."""
        return await self._unary(
            _calls.set_position(strategy_name, symbol, quantity, average_cost, reason, request_id)
        )

    async def assign_position(
        self,
        strategy_name: str,
        symbol: str,
        quantity: Number = 0,
        average_cost: Number = 0,
        *,
        reason: str = "",
        request_id: str | None = None,
    ) -> Position:
        """Says whose UNATTRIBUTED shares are: a strategy's, or with "UNATTRIBUTED" nobody's.

        Below 0, `quantity` takes shares from a strategy; LIVE alone has any to assign.
        Raises: NotFoundError, RefusedError.
        """
        return await self._unary(
            _calls.assign_position(
                strategy_name, symbol, quantity, average_cost, reason, request_id
            )
        )

    async def list_positions(
        self, *, strategy_name: str = "", symbol: str = "", page_size: int = 0
    ) -> AsyncIterator[Position]:
        """Yields open positions by strategy, then symbol, fetching pages as they are needed."""
        token = ""
        while True:
            page = await self._unary(_calls.list_positions(strategy_name, symbol, page_size, token))
            for position in page.positions:
                yield position
            token = page.next_page_token
            if not token:
                return

    async def delete_position(
        self, position_id: str, *, reason: str = "", request_id: str | None = None
    ) -> None:
        """Removes a position by hand; no cash is paid for it."""
        await self._unary(_calls.delete_position(position_id, reason, request_id))

    async def upsert_portfolio(
        self,
        strategy_name: str,
        *,
        cash: Number | None = None,
        requested_mode: ModeWord | None = None,
        reason: str = "",
        request_id: str | None = None,
    ) -> Portfolio:
        """Creates a strategy, or changes what is given. Cash is set, not added."""
        return await self._unary(
            _calls.upsert_portfolio(strategy_name, cash, requested_mode, reason, request_id)
        )

    async def list_portfolios(self) -> list[Portfolio]:
        """Every strategy, by name."""
        return list((await self._unary(_calls.list_portfolios())).portfolios)

    async def get_portfolio(self, strategy_name: str) -> Portfolio:
        """One strategy's cash, equity, mode and state."""
        return await self._unary(_calls.get_portfolio(strategy_name))

    async def invested(self, strategy_name: str) -> bool:
        """Whether the strategy holds any shares."""
        return (await self._unary(_calls.get_invested(strategy_name))).invested

    async def halt(
        self, strategy_name: str, *, reason: str = "", request_id: str | None = None
    ) -> Portfolio:
        """Stops a strategy from placing orders."""
        return await self._unary(_calls.halt(strategy_name, reason, request_id))

    async def resume(self, strategy_name: str, *, request_id: str | None = None) -> Portfolio:
        """Lets a halted strategy place orders again."""
        return await self._unary(_calls.resume(strategy_name, request_id))

    async def report_prices(
        self, strategy_name: str, prices: Mapping[str, Number], *, session: date | None = None
    ) -> None:
        """Tells the router prices by symbol, 1 to 100 of them, and the session they are of."""
        await self._unary(_calls.report_prices(strategy_name, prices, session))

    async def watch_portfolios(
        self, *, strategy_name: str = "", for_s: float = WATCH_FOR_S
    ) -> AsyncIterator[Portfolio]:
        """Yields every strategy as it is now, then each as it changes, for `for_s` seconds."""
        call = _calls.watch_portfolios(strategy_name)
        async for event in self._stream(call, for_s):
            yield _calls.portfolio_in(event)

    async def audit(self) -> AuditResponse:
        """Recomputes every book from the recorded facts and reports each difference."""
        return await self._unary(_calls.audit())

    def _connect(self, credentials: grpc.ChannelCredentials | None) -> grpc.aio.Channel:
        if credentials is None:
            return grpc.aio.insecure_channel(self.address, CHANNEL_OPTIONS)
        return grpc.aio.secure_channel(self.address, credentials, CHANNEL_OPTIONS)

    async def _unary(self, call: Call[Answer]) -> Answer:
        with _tracing.call(call.method, self.address) as headers:
            return await self._attempt(call, headers)

    async def _attempt(self, call: Call[Answer], headers: _tracing.Headers) -> Answer:
        clock = asyncio.get_running_loop().time
        started = clock()
        attempt = 0
        while True:
            line = self._lines.take(after_failure=attempt > 0)
            try:
                answer = await line.unary(call)(
                    call.request,
                    timeout=self._retry.deadline_s,
                    metadata=(*(self._credentials.metadata or ()), *headers),
                )
                return cast("Answer", answer)
            except grpc.RpcError as failed:
                error = self._error_of(failed)
                elapsed_s = clock() - started
                pause_s = self._retry.pause_s(error, attempt, elapsed_s)
                if pause_s is None:
                    raise error from failed
            finally:
                await self._give_back(line)
            _tracing.tried(error)
            await asyncio.sleep(pause_s)
            attempt += 1

    async def _stream(self, call: Call[Answer], for_s: float) -> AsyncIterator[Answer]:
        line = self._lines.take()
        events = line.stream(call)(call.request, timeout=for_s, metadata=self._credentials.metadata)
        try:
            async for event in events:
                yield event
        except grpc.RpcError as failed:
            error = self._error_of(failed)
            if error.code is not grpc.StatusCode.DEADLINE_EXCEEDED:  # else `for_s` is over
                raise error from failed
        finally:
            events.cancel()
            await self._give_back(line)

    async def _give_back(self, line: Line[grpc.aio.Channel]) -> None:
        for channel in self._lines.give_back(line):
            await channel.close()

    def _error_of(self, failed: grpc.RpcError) -> PortfolioError:
        return error_of(cast("FailedCall", failed), self.address, self._credentials.trouble)

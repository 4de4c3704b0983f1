"""The portfolio client for ordinary code: one gRPC channel to the router."""

import time
from collections.abc import Iterator
from typing import Any, Self, cast

import grpc

from SureshotSDK._calls import Answer, Call
from SureshotSDK._interface import PortfolioInterface
from SureshotSDK._retry import CHANNEL_OPTIONS, RetryPolicy, router_address
from SureshotSDK.errors import FailedCall, error_of


class PortfolioClient(PortfolioInterface):
    """The router's methods over gRPC, with deadlines, request ids and safe retries.

    with PortfolioClient() as portfolio:
        order = portfolio.buy_all("IncredibleLeverage_SPXL", "SPXL", 150.5)

    `address` is host:port, by default PORTFOLIO_ADDRESS, else localhost:8000. One attempt takes at
    most `deadline_s` seconds; none begins later than `retry_for_s` seconds after the first. It
    connects with its first call, may be shared by threads, and must not be carried over a fork.
    """

    def __init__(
        self, address: str | None = None, *, deadline_s: float = 5.0, retry_for_s: float = 10.0
    ) -> None:
        self.address = router_address(address)
        self._retry = RetryPolicy(deadline_s, retry_for_s)
        self._channel = grpc.insecure_channel(self.address, CHANNEL_OPTIONS)
        self._methods: dict[str, Any] = {}  # grpc's callables are worth keeping: they cost 20 us

    def close(self) -> None:
        """Ends the connection. Calls that are under way fail."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _unary(self, call: Call[Answer]) -> Answer:
        method = self._methods.get(call.method)
        if method is None:
            method = self._methods[call.method] = self._channel.unary_unary(
                call.method, type(call.request).SerializeToString, call.answer.FromString
            )
        started = time.monotonic()
        attempt = 0
        while True:
            try:
                return cast("Answer", method(call.request, timeout=self._retry.deadline_s))
            except grpc.RpcError as failed:
                error = error_of(cast("FailedCall", failed), self.address)
                elapsed_s = time.monotonic() - started
                pause_s = self._retry.pause_s(error, attempt, elapsed_s)
                if pause_s is None:
                    raise error from failed
            time.sleep(pause_s)
            attempt += 1

    def _stream(self, call: Call[Answer], for_s: float) -> Iterator[Answer]:
        method = self._channel.unary_stream(
            call.method, type(call.request).SerializeToString, call.answer.FromString
        )
        events = method(call.request, timeout=for_s)
        try:
            yield from events
        except grpc.RpcError as failed:
            error = error_of(cast("FailedCall", failed), self.address)
            if error.code is not grpc.StatusCode.DEADLINE_EXCEEDED:  # else `for_s` is over
                raise error from failed
        finally:
            events.cancel()

"""The portfolio client for ordinary code: one gRPC channel to the router."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self, cast

import grpc

from SureshotSDK import _tracing
from SureshotSDK._calls import Answer, Call
from SureshotSDK._credentials import Credentials, Line, Lines
from SureshotSDK._interface import PortfolioInterface
from SureshotSDK._retry import CHANNEL_OPTIONS, RetryPolicy, router_address
from SureshotSDK.errors import FailedCall, PortfolioError, error_of


class PortfolioClient(PortfolioInterface):
    """The router's methods over gRPC, with deadlines, request ids and safe retries.

    with PortfolioClient() as portfolio:
        order = portfolio.buy_all("IncredibleLeverage_SPXL", "SPXL", 150.5)

    `address` is host:port, by default PORTFOLIO_ADDRESS, else localhost:8000. One attempt takes at
    most `deadline_s` seconds; none begins later than `retry_for_s` seconds after the first. It
    connects with its first call, may be shared by threads, and must not be carried over a fork.

    Where the router asks who calls: `identity_dir` is a folder with tls.crt, tls.key and ca.crt (by
    default IDENTITY_DIR), `token_file` holds a token (TOKEN_FILE); both are read again when they
    change. Raises: ValueError, when they cannot be used.
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

    def close(self) -> None:
        """Ends the connection. Calls that are under way fail."""
        for channel in self._lines.close():
            channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _connect(self, credentials: grpc.ChannelCredentials | None) -> grpc.Channel:
        if credentials is None:
            return grpc.insecure_channel(self.address, CHANNEL_OPTIONS)
        return grpc.secure_channel(self.address, credentials, CHANNEL_OPTIONS)

    def _unary(self, call: Call[Answer]) -> Answer:
        with _tracing.call(call.method, self.address) as headers:
            return self._attempt(call, headers)

    def _attempt(self, call: Call[Answer], headers: _tracing.Headers) -> Answer:
        started = time.monotonic()
        attempt = 0
        while True:
            line = self._lines.take(after_failure=attempt > 0)
            try:
                answer = line.unary(call)(
                    call.request,
                    timeout=self._retry.deadline_s,
                    metadata=(*(self._credentials.metadata or ()), *headers),
                )
                return cast("Answer", answer)
            except grpc.RpcError as failed:
                error = self._error_of(failed)
                elapsed_s = time.monotonic() - started
                pause_s = self._retry.pause_s(error, attempt, elapsed_s)
                if pause_s is None:
                    raise error from failed
            finally:
                self._give_back(line)
            _tracing.tried(error)
            time.sleep(pause_s)
            attempt += 1

    def _stream(self, call: Call[Answer], for_s: float) -> Iterator[Answer]:
        line = self._lines.take()
        events = line.stream(call)(call.request, timeout=for_s, metadata=self._credentials.metadata)
        try:
            yield from events
        except grpc.RpcError as failed:
            error = self._error_of(failed)
            if error.code is not grpc.StatusCode.DEADLINE_EXCEEDED:  # else `for_s` is over
                raise error from failed
        finally:
            events.cancel()
            self._give_back(line)

    def _give_back(self, line: Line[grpc.Channel]) -> None:
        for channel in self._lines.give_back(line):
            channel.close()

    def _error_of(self, failed: grpc.RpcError) -> PortfolioError:
        return error_of(cast("FailedCall", failed), self.address, self._credentials.trouble)

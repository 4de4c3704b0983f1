"""What a call to the router can raise.

Every error is a PortfolioError and carries the router's own words: `code` (grpc.StatusCode),
`reason` (a word of error_reason.proto), `message` and `metadata` (the figures). The subclasses say
what a caller can do about it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2


class PortfolioError(Exception):
    """A call failed. Subclasses name the cases that callers tell apart; the rest are this class."""

    def __init__(
        self,
        message: str,
        *,
        code: grpc.StatusCode,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.metadata = dict(metadata or {})

    def __str__(self) -> str:
        return f"{self.message} [{self.reason or self.code.name}]"


class InvalidRequestError(PortfolioError):
    """The request itself is wrong, and would be at any time (INVALID_ARGUMENT)."""


class NotFoundError(PortfolioError):
    """There is no such strategy, order or position (NOT_FOUND)."""


class RequestIdReusedError(PortfolioError):
    """The request_id was used before with another method or body (ALREADY_EXISTS)."""


class RefusedError(PortfolioError):
    """The ledger's state forbids it now; `metadata` holds the figures (FAILED_PRECONDITION)."""


class UnauthenticatedError(PortfolioError):
    """The router wants to know who calls, or does not believe it (UNAUTHENTICATED).

    See IDENTITY_DIR and TOKEN_FILE; a certificate or token may have expired.
    """


class NotAllowedError(PortfolioError):
    """The caller is known, and may not do this (PERMISSION_DENIED).

    A reader may only read, a strategy trade as itself alone.
    """


class UnavailableError(PortfolioError):
    """The router, its database or its broker did not answer, or it is too busy.

    The call may be repeated with the same request_id: nothing is done twice.
    """


class FailedCall(Protocol):
    """What grpc's errors offer, sync and asyncio alike."""

    def code(self) -> grpc.StatusCode:
        """The status."""

    def details(self) -> str | None:
        """The message."""

    def trailing_metadata(self) -> Sequence[tuple[str, str | bytes]] | None:
        """The trailers, among them the status details."""


def error_of(
    failed: FailedCall, address: str, trouble: Callable[[str, str], str | None] | None = None
) -> PortfolioError:
    """The typed error for a failed RPC to `address`.

    `trouble(address, message)` says what of TLS may be wrong when no connection can be made.
    """
    code, message = failed.code(), failed.details() or ""
    found = _error_info(failed.trailing_metadata() or ())
    if found is not None:
        return typed_error(code, found.reason, message, dict(found.metadata))
    # Without ErrorInfo the router was not reached: grpc itself, or a proxy on the way, answered.
    if code is grpc.StatusCode.UNAVAILABLE:
        if trouble and (wrong := trouble(address, message)):
            text = f"No secure connection to {address}: {wrong}. ({message})"
            return typed_error(code, "NO_SECURE_CONNECTION", text)
        advice = "Start it with `make up`, or set PORTFOLIO_ADDRESS to where it runs."
        text = f"No portfolio router answers at {address} ({message}). {advice}"
        return typed_error(code, "ROUTER_UNAVAILABLE", text)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return typed_error(code, "TIMED_OUT", f"No answer from {address} in time.")
    return typed_error(code, "", message or code.name)


def typed_error(
    code: grpc.StatusCode, reason: str, message: str, metadata: Mapping[str, str] | None = None
) -> PortfolioError:
    """A PortfolioError of the class that belongs to the code and reason."""
    kind = _CLASSES.get(code, PortfolioError)
    # RESOURCE_EXHAUSTED is otherwise final: the message is too large.
    if reason in {"ROUTER_BUSY", "RATE_LIMITED"}:
        kind = UnavailableError
    return kind(message, code=code, reason=reason, metadata=metadata)


_CLASSES: dict[grpc.StatusCode, type[PortfolioError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequestError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.ALREADY_EXISTS: RequestIdReusedError,
    grpc.StatusCode.FAILED_PRECONDITION: RefusedError,
    grpc.StatusCode.UNAUTHENTICATED: UnauthenticatedError,
    grpc.StatusCode.PERMISSION_DENIED: NotAllowedError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: UnavailableError,
}


def _error_info(
    trailers: Sequence[tuple[str, str | bytes]],
) -> error_details_pb2.ErrorInfo | None:
    for key, value in trailers:
        if key != "grpc-status-details-bin" or not isinstance(value, bytes):
            continue
        try:
            status = status_pb2.Status.FromString(value)
        except DecodeError:  # not ours: some proxy's; the code and message still stand
            return None
        for detail in status.details:
            info = error_details_pb2.ErrorInfo()
            if detail.Is(info.DESCRIPTOR) and detail.Unpack(info):
                return info
    return None

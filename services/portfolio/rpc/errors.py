"""Errors as callers see them: a status code, one ErrorInfo, and for a bad field a BadRequest."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import grpc
from google.rpc import error_details_pb2, status_pb2

from efficientfrontier.v1.error_reason_pb2 import ErrorReason
from services.portfolio.domain.errors import (
    ConflictError,
    ForbiddenError,
    LedgerError,
    NotAllowedError,
    NotFoundError,
)
from services.portfolio.ports import UnavailableError

DOMAIN = "efficientfrontier"
DETAILS_KEY = "grpc-status-details-bin"

LEDGER_CODES: tuple[tuple[type[LedgerError], grpc.StatusCode], ...] = (
    (NotAllowedError, grpc.StatusCode.PERMISSION_DENIED),
    (NotFoundError, grpc.StatusCode.NOT_FOUND),
    (ConflictError, grpc.StatusCode.ALREADY_EXISTS),
    (ForbiddenError, grpc.StatusCode.FAILED_PRECONDITION),
)


class RequestError(Exception):
    """The request itself is wrong, whatever the ledger holds."""

    reason = "MALFORMED_REQUEST"
    message = "The bytes are not the message that this method takes."

    def violations(self) -> list[tuple[str, str]]:
        """Each wrong field with what is wrong; empty when it is no single field."""
        return []


class InvalidFieldError(RequestError):
    """Fields that break their rules."""

    reason = "INVALID_FIELD"

    def __init__(self, *violations: tuple[str, str]) -> None:
        self._violations = list(violations)
        self.message = "; ".join(f"{name}: {what}" for name, what in violations) + "."
        super().__init__(self.message)

    def violations(self) -> list[tuple[str, str]]:
        """Each wrong field with what is wrong."""
        return self._violations


class InvalidPageTokenError(RequestError):
    """The page_token is not one of this list, with these filters."""

    reason = "INVALID_PAGE_TOKEN"
    message = (
        "page_token: is not a next_page_token of this list with these filters. "
        "Begin again without it."
    )

    def violations(self) -> list[tuple[str, str]]:
        """The token."""
        return [("page_token", "is not a next_page_token of this list with these filters")]


class CallerError(Exception):
    """The call is refused for who makes it, or how often. Nothing else of it was looked at."""

    reason = "CREDENTIALS_INVALID"
    code = grpc.StatusCode.UNAUTHENTICATED

    def __init__(self, message: str, **figures: str) -> None:
        super().__init__(message)
        self.message = message
        self.figures: Mapping[str, str] = figures


class CredentialsMissingError(CallerError):
    """The call does not say who makes it."""

    reason = "CREDENTIALS_MISSING"


class CredentialsInvalidError(CallerError):
    """What the call says of its caller does not hold."""


class RateLimitedError(CallerError):
    """The caller makes more calls than it may."""

    reason = "RATE_LIMITED"
    code = grpc.StatusCode.RESOURCE_EXHAUSTED

    def __init__(self, actor: str, calls_a_second: int, wait_s: float) -> None:
        super().__init__(
            f"{actor} makes more than the {calls_a_second} calls a second that each caller may. "
            f"Nothing was written; the next call is taken in {wait_s:g} s.",
            actor=actor,
            calls_a_second=str(calls_a_second),
            retry_after_s=f"{wait_s:g}",
        )


@dataclass(frozen=True, slots=True)
class CallError:
    """What a failed call answers."""

    code: grpc.StatusCode
    reason: str
    message: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    violations: tuple[tuple[str, str], ...] = ()

    def trailing_metadata(self) -> tuple[tuple[str, bytes], ...]:
        """The google.rpc.Status of this error, as gRPC carries it."""
        status = status_pb2.Status(code=self.code.value[0], message=self.message)
        status.details.add().Pack(
            error_details_pb2.ErrorInfo(
                reason=ErrorReason.Name(ErrorReason.Value(self.reason)),  # only documented words
                domain=DOMAIN,
                metadata=self.metadata,
            )
        )
        if self.violations:
            fields = [
                error_details_pb2.BadRequest.FieldViolation(field=name, description=what)
                for name, what in self.violations
            ]
            status.details.add().Pack(error_details_pb2.BadRequest(field_violations=fields))
        return ((DETAILS_KEY, status.SerializeToString()),)


def call_error(error: Exception, request_id: str) -> CallError:
    """What a caller is told of an error. What is not meant for callers is masked.

    `request_id` is the id of the call in the logs.
    """
    if isinstance(error, CallerError):
        return CallError(error.code, error.reason, error.message, error.figures)
    if isinstance(error, RequestError):
        violations = tuple(error.violations())
        fields = {"field": violations[0][0]} if violations else {}
        return CallError(
            grpc.StatusCode.INVALID_ARGUMENT, error.reason, error.message, fields, violations
        )
    if isinstance(error, UnavailableError):
        busy = error.reason == "ROUTER_BUSY"
        code = grpc.StatusCode.RESOURCE_EXHAUSTED if busy else grpc.StatusCode.UNAVAILABLE
        return CallError(code, error.reason, error.message)
    if isinstance(error, LedgerError):
        for kind, code in LEDGER_CODES:
            if isinstance(error, kind):
                return CallError(code, error.reason, error.message, error.figures)
    return CallError(
        grpc.StatusCode.INTERNAL,
        "INTERNAL_ERROR",
        "The router met a fault of its own; it is in its log under request "
        f"{request_id or '(none)'}. Repeat the call with the same request_id.",
        {"request": request_id},
    )

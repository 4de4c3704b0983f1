"""When a failed call is tried again, and how one reaches the router: shared by both clients."""

import os
import random
from dataclasses import dataclass

from SureshotSDK.errors import PortfolioError, UnavailableError

DEFAULT_ADDRESS = "localhost:8000"
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 2.0

# Without these a channel that once failed to connect waits up to 2 minutes before it tries again,
# and a router that vanished without a word is noticed only by the deadline.
CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 10_000),
)


@dataclass(frozen=True)
class RetryPolicy:
    """How long one attempt may take, and until when a new one may begin."""

    deadline_s: float
    retry_for_s: float

    def pause_s(self, error: PortfolioError, attempt: int, elapsed_s: float) -> float | None:
        """Seconds to wait before the next attempt; None: give up and raise `error`.

        Every call may be repeated, since reads change nothing and mutations carry a request_id;
        only an UnavailableError is worth it. The pause doubles with each `attempt` (0, 1, ...) and
        is spread by chance, so that many strategies do not return in one instant. It is no shorter
        than the router asks for.
        """
        if not isinstance(error, UnavailableError):
            return None
        longest = min(_FIRST_PAUSE_S * 2 ** min(attempt, 16), _LONGEST_PAUSE_S)
        pause = longest * random.uniform(0.5, 1.0)  # noqa: S311 - it guards no secret
        pause = max(pause, _asked_s(error))
        return pause if elapsed_s + pause <= self.retry_for_s else None


def _asked_s(error: PortfolioError) -> float:
    """Seconds that the router asks to wait (RATE_LIMITED)."""
    try:
        return float(error.metadata.get("retry_after_s", 0))
    except ValueError:
        return 0


def router_address(address: str | None) -> str:
    """The argument, else PORTFOLIO_ADDRESS, else localhost:8000."""
    return address or os.environ.get("PORTFOLIO_ADDRESS") or DEFAULT_ADDRESS

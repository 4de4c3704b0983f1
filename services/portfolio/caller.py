"""Who calls, and in which trace: known to all that runs within a call, and to nothing else.

The guard around each call sets them; the writer puts them beside what the call changes, and logs
repeat them. What the router does by itself runs outside of any call.
"""

from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """What a caller may do; the rules stand in access.proto."""

    STRATEGY = "strategy"
    OPERATOR = "operator"
    READER = "reader"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls. Without a role: anybody (AUTH=none), or the router itself."""

    name: str
    role: Role | None = None

    @property
    def actor(self) -> str:
        """As facts name it: strategy/IncredibleLeverage_SPXL, anonymous, router."""
        return f"{self.role}/{self.name}" if self.role else self.name


ROUTER = Caller("router")
ANONYMOUS = Caller("anonymous")
CALLER: ContextVar[Caller] = ContextVar("caller", default=ROUTER)
TRACE_ID: ContextVar[str] = ContextVar("trace_id", default="")  # 32 hex digits, or empty

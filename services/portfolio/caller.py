"""Who calls, and in which trace: known to all that runs within a call, and to nothing else.

The guard around each call sets them; the writer puts them beside what the call changes, and logs
repeat them. What the router does by itself runs outside of any call.
"""

from collections.abc import Sequence
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

    @property
    def rights(self) -> str:
        """What it may do, as a sentence for whoever was refused."""
        if self.role is Role.READER:
            return "A reader may read everything, and change nothing."
        if self.role is Role.STRATEGY:
            return f"It may read everything and trade as {self.name}; the rest is for operators."
        return "It may do everything."

    def may_trade_as(self, strategy_name: str) -> bool:
        """Whether it may do what only that strategy, and operators, may."""
        if self.role is Role.STRATEGY:
            return self.name == strategy_name
        return self.role is not Role.READER


ROUTER = Caller("router")
ANONYMOUS = Caller("anonymous")
CALLER: ContextVar[Caller] = ContextVar("caller", default=ROUTER)
METHOD: ContextVar[str] = ContextVar("method", default="")  # that was called, such as BuyAll
TRACE_ID: ContextVar[str] = ContextVar("trace_id", default="")  # 32 hex digits, or empty
# Of all the callers whose commands are in the writer's batch; for its logs.
TRACES: ContextVar[Sequence[str]] = ContextVar("traces", default=())

"""Capital: how it is to be shared among the strategies, and plans that say who gets how much."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from functools import cached_property
from uuid import UUID

from services.portfolio.domain.money import ZERO, plain
from services.portfolio.domain.order import Mode

RESERVE = "RESERVE"  # the owner of the cash that no strategy has; trades nothing
ONE = Decimal(1)


class Method(StrEnum):
    """The rule by which weights are found."""

    FIXED = "FIXED"
    EQUAL = "EQUAL"
    INVERSE_VOLATILITY = "INVERSE_VOLATILITY"
    RISK_PARITY = "RISK_PARITY"
    MINIMUM_VARIANCE = "MINIMUM_VARIANCE"
    MAXIMUM_SHARPE = "MAXIMUM_SHARPE"


class Schedule(StrEnum):
    """When the policy is carried out on its own."""

    ON_REQUEST = "ON_REQUEST"
    WEEKLY = "WEEKLY"
    MONTHLY = "MONTHLY"
    QUARTERLY = "QUARTERLY"


@dataclass(frozen=True, slots=True)
class Bound:
    """What one strategy may get, as shares of the capital."""

    strategy_name: str
    min_weight: Decimal = ZERO
    max_weight: Decimal = ONE
    fixed_weight: Decimal = ZERO


@dataclass(frozen=True)  # without slots: it keeps its bounds by name
class AllocationPolicy:
    """How capital is to be shared."""

    method: Method = Method.EQUAL
    fallback: Method = Method.EQUAL
    schedule: Schedule = Schedule.ON_REQUEST
    bounds: tuple[Bound, ...] = ()
    cash_floor: Decimal = ZERO
    max_turnover: Decimal | None = None
    lookback_days: int = 1260
    min_days: int = 60
    since: date | None = None  # the newest session when it was set; its schedule begins after that

    def bound(self, strategy_name: str) -> Bound:
        """What a strategy may get."""
        return self._named.get(strategy_name) or Bound(strategy_name)

    @cached_property
    def _named(self) -> Mapping[str, Bound]:
        return {bound.strategy_name: bound for bound in self.bounds}


@dataclass(frozen=True, slots=True)
class RiskReturn:
    """A point of annual risk and return."""

    volatility: float
    expected_return: float


@dataclass(frozen=True, slots=True)
class PlanRow:
    """One strategy's part in a plan, or the reserve's. In USD and shares of the capital."""

    strategy_name: str
    equity: Decimal
    target_equity: Decimal
    weight: Decimal
    target_weight: Decimal
    moves_now: Decimal  # into its book (above 0) or out of it
    moves_later: Decimal
    why: str  # it gets what it gets
    own: RiskReturn | None = None

    @property
    def told(self) -> str:
        """Why it gets what it gets, and what of it moves later: a sentence or two."""
        if self.strategy_name == RESERVE or not self.moves_later:
            return self.why
        if self.moves_later < 0:
            return f"{self.why} It gives {plain(-self.moves_later)} USD more when it is flat."
        return f"{self.why} {plain(self.moves_later)} USD of it come when others are flat."


class PlanState(StrEnum):
    """What became of a plan."""

    PLANNED = "PLANNED"
    CARRIED_OUT = "CARRIED_OUT"


@dataclass(frozen=True, slots=True)
class Plan:
    """Who gets how much, and why."""

    plan_id: UUID
    state: PlanState
    mode: Mode
    create_time: datetime
    policy: AllocationPolicy
    method: Method  # that the weights are by
    fallback_reason: str
    capital: Decimal
    rows: tuple[PlanRow, ...]
    current: RiskReturn | None = None
    proposed: RiskReturn | None = None
    frontier: tuple[RiskReturn, ...] = ()
    carry_out_time: datetime | None = None

    @property
    def total(self) -> Decimal:
        """What the strategies and the reserve had when it was made, in USD; capped or not."""
        return sum((row.equity for row in self.rows), ZERO)

    def names(self) -> Collection[str]:
        """Whom it is about; the reserve included."""
        return [row.strategy_name for row in self.rows]


def period_of(session: date, schedule: Schedule) -> str:
    """The week, month or quarter of a session; such texts sort as the periods do.

    >>> [period_of(date(2013, 2, 1), each) for each in Schedule]
    ['', '2013-W05', '2013-02', '2013-Q1']
    """
    match schedule:
        case Schedule.WEEKLY:
            year, week, _ = session.isocalendar()
            return f"{year}-W{week:02}"
        case Schedule.MONTHLY:
            return f"{session:%Y-%m}"
        case Schedule.QUARTERLY:
            return f"{session.year}-Q{(session.month + 2) // 3}"
        case Schedule.ON_REQUEST:
            return ""


def period_begun(policy: AllocationPolicy, first: date, newest: date) -> str:
    """The period whose rebalance is due now that the session `newest` has closed; or empty.

    `first` is the oldest session that was closed: without one in an earlier period, the newest
    period is not a new one. Nor is the one in which the policy was set.
    """
    period = period_of(newest, policy.schedule)
    before = period_of(policy.since or first, policy.schedule)
    return period if max(before, period_of(first, policy.schedule)) < period else ""

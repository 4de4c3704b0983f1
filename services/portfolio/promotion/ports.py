"""What reviews need to know of strategies. In memory and on PostgreSQL."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Protocol
from uuid import UUID

from services.portfolio.analysis.statistics import Day
from services.portfolio.domain.book import RequestedMode, Strategy, mode_to_be
from services.portfolio.domain.order import Mode
from services.portfolio.domain.promotion import Decision

MOST_CLOSES = 5040  # that a review looks at: 20 years
MOST_TRADES = 1000  # that it counts; no rule needs to know of more


@dataclass(frozen=True, slots=True)
class Footing:
    """Which mode a strategy has, and what decides which it is to have."""

    strategy_name: str
    requested_mode: RequestedMode
    mode: Mode
    promoted: bool
    session: date | None
    is_flat: bool  # its book in force
    has_live_book: bool  # it is LIVE, or was

    def mode_to_be(self, trading_mode: Mode, *, at_once: bool) -> Mode:
        """The mode that it is to have; `at_once`: AUTO counts as promoted."""
        promoted = self.promoted or at_once
        return mode_to_be(self.requested_mode, trading_mode, promoted=promoted)


@dataclass(frozen=True, slots=True)
class Record:
    """What a strategy has done in its mode in force: since it went LIVE, or since it came back."""

    strategy: Strategy
    last: Decision | None  # of all decisions on it
    days: Sequence[Day]  # the newest MOST_CLOSES, oldest first; growth since the first began
    trades: int  # orders that were filled, in whole or in part; at most MOST_TRADES
    price_time: datetime | None  # when it last reported a price


class PromotionReads(Protocol):
    """Reads what is committed. Raises UnavailableError when the database is away."""

    async def footings(self, names: Collection[str] | None = None) -> list[Footing]:
        """Strategies by name; all of them unless named. Without the reserve."""

    async def record(self, strategy_name: str) -> Record | None:
        """What a strategy has done; None when there is none of this name."""

    async def decisions(
        self, strategy_name: str | None, before: UUID | None, limit: int
    ) -> list[Decision]:
        """The newest decisions older than `before`, newest first; of all unless named."""

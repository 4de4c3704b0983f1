"""What risk control reads, besides the ledger itself."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Protocol
from uuid import UUID

from services.portfolio.domain.order import Mode
from services.portfolio.domain.risk import Heights, Limits, Part, RiskEvent, StrategyLimits, Whole
from services.portfolio.domain.valuation import Valuation, growth_of
from services.portfolio.ports import BookKey


@dataclass(frozen=True, slots=True)
class Standing:
    """How a strategy stands, in its mode in force, at market."""

    strategy_name: str
    mode: Mode
    limits: Limits
    halted: bool  # itself, or with everything
    silent: bool  # as it was noted
    flattening: bool
    seen_time: datetime | None  # when it last reported a price
    equity: Decimal
    last: Valuation | None  # of its book

    @property
    def key(self) -> BookKey:
        """Its book."""
        return self.strategy_name, self.mode

    @property
    def number(self) -> int:
        """Of its book's last valuation; 0 before the first."""
        return self.last.number if self.last else 0

    @property
    def growth(self) -> Decimal:
        """What 1 USD of the beginning is worth now."""
        return growth_of(self.last, self.equity)


@dataclass(frozen=True, slots=True)
class WholeHeights:
    """What the growth of the whole is judged by."""

    heights: Heights
    parts: Mapping[BookKey, Part]  # of every strategy's book in force that was ever valued


class RiskReads(Protocol):
    """Reads what is committed. Raises UnavailableError when the database is away."""

    async def standings(self) -> tuple[Whole, Sequence[Standing]]:
        """The whole, and the strategies that are to be looked at, by name.

        They are those with a limit that halts, a lease, or an end of silence or a sale to wait for;
        all of them when the whole has a limit that halts.
        """

    async def heights(self, books: Collection[BookKey]) -> Mapping[BookKey, tuple[int, Heights]]:
        """The heights of these books, as of which valuation; those never valued are left out.

        They begin with the strategy's last resume.
        """

    async def heights_of_whole(self) -> WholeHeights:
        """The heights of the whole, of all books in force; they begin with its last resume."""

    async def limits(self) -> Sequence[StrategyLimits]:
        """The limits of the whole, then of every strategy by name."""

    async def events(
        self, strategy_name: str | None, before: UUID | None, limit: int
    ) -> Sequence[RiskEvent]:
        """The newest events older than `before`, newest first; of one strategy, or all."""

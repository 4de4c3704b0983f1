"""The ledger beside the broker: what the strategies own, what is in the account, and the rest.

Per symbol, strategies + UNATTRIBUTED = broker. UNATTRIBUTED shares that nobody has acknowledged
are a break: new orders in that symbol are frozen until an operator says whose they are.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from services.portfolio.domain.money import ZERO

UNATTRIBUTED = "UNATTRIBUTED"  # stands where a strategy's name would


@dataclass(frozen=True, slots=True)
class SymbolRow:
    """One symbol of the account. All figures in shares; below 0 means owed."""

    symbol: str
    broker: Decimal
    strategies: Decimal  # the sum over all LIVE books
    acknowledged: Decimal  # of what is UNATTRIBUTED, what an operator has said is not a strategy's

    @property
    def unattributed(self) -> Decimal:
        """Shares in the account that no strategy owns."""
        return self.broker - self.strategies

    @property
    def frozen(self) -> bool:
        """Whether nobody has said whose the difference is."""
        return self.unattributed != self.acknowledged


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """The last comparison. `time` is None before the first."""

    time: datetime | None
    rows: tuple[SymbolRow, ...]  # by symbol; those where anything is not 0
    broker_cash: Decimal | None  # USD
    strategies_cash: Decimal  # the sum over all LIVE books, USD
    net_liquidation: Decimal | None = None  # what the whole account is worth, USD

    @property
    def unallocated_cash(self) -> Decimal | None:
        """Cash in the account that no strategy has; below 0: the strategies have too much."""
        return None if self.broker_cash is None else self.broker_cash - self.strategies_cash


def compare(
    broker: Mapping[str, Decimal],
    strategies: Mapping[str, Decimal],
    acknowledged: Mapping[str, Decimal],
) -> tuple[SymbolRow, ...]:
    """A row for each symbol where any of the three is not 0, by symbol."""
    rows = (
        SymbolRow(
            symbol,
            broker.get(symbol, ZERO),
            strategies.get(symbol, ZERO),
            acknowledged.get(symbol, ZERO),
        )
        for symbol in sorted({*broker, *strategies, *acknowledged})
    )
    return tuple(row for row in rows if row.broker or row.strategies or row.acknowledged)


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """A fact: an operator said of UNATTRIBUTED shares that no strategy owns them."""

    symbol: str
    quantity: Decimal  # of all that is UNATTRIBUTED in the symbol; replaces what was said before
    actor: str
    reason: str
    time: datetime

"""The comparison of positions over time: a difference counts when two looks have seen the same.

A fill changes the broker's positions a moment before, or after, it is booked here; freezing a
symbol at every fill would help nobody.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta

from services.portfolio.domain.reconciliation import SymbolRow


class Comparison:
    """What is published of the positions, look by look."""

    def __init__(self, sure_after: timedelta) -> None:
        self._sure_after = sure_after
        self._rows: dict[str, SymbolRow] = {}
        self._suspects: dict[str, tuple[SymbolRow, datetime]] = {}  # seen, and since when

    @property
    def rows(self) -> tuple[SymbolRow, ...]:
        """What is published, by symbol."""
        return tuple(self._rows[symbol] for symbol in sorted(self._rows))

    @property
    def unsure(self) -> bool:
        """Whether a difference was seen that no second look has confirmed."""
        return bool(self._suspects)

    @property
    def frozen(self) -> Mapping[str, SymbolRow]:
        """The symbols that take no new orders."""
        return {symbol: row for symbol, row in self._rows.items() if row.frozen}

    def take(self, found: tuple[SymbolRow, ...], asked: datetime) -> None:
        """Takes in one look's rows. A new difference leaves its symbol as it was published."""
        suspects: dict[str, tuple[SymbolRow, datetime]] = {}
        rows: dict[str, SymbolRow] = {}
        for row in found:
            published = self._rows.get(row.symbol)
            if not row.frozen or row == published:
                rows[row.symbol] = row
                continue
            first, since = self._suspects.get(row.symbol, (row, asked))
            since = since if first == row else asked
            if asked - since >= self._sure_after:
                rows[row.symbol] = row
                continue
            suspects[row.symbol] = row, since
            if published is not None:
                rows[row.symbol] = published
        self._rows, self._suspects = rows, suspects

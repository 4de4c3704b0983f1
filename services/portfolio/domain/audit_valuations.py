"""The audit of valuations: cash, flow and growth recomputed from the facts they were made by.

What positions were worth then follows from prices that are kept no longer, so it is taken as it is.
"""

from dataclasses import dataclass
from decimal import Decimal

from services.portfolio.domain.audit import Difference
from services.portfolio.domain.book import CashEntry, CashKind
from services.portfolio.domain.money import ZERO
from services.portfolio.domain.order import Mode
from services.portfolio.domain.valuation import Valuation, ValuationKind, growth_of

FLOWS = (CashKind.DEPOSIT, CashKind.ADJUSTMENT, CashKind.TRANSFER)


@dataclass(slots=True)
class _Flow:
    """A flow that a valuation announced: the next version of its book is to bring it."""

    number: int
    book_version: int
    recorded: Decimal
    found: Decimal = ZERO
    is_of_shares: bool = False  # worth what their price then said


class ValuationAudit:
    """Takes the facts of one book: in the order of their versions, valuations last of each."""

    def __init__(self, strategy_name: str, mode: Mode) -> None:
        self._strategy_name = strategy_name
        self._mode = mode
        self._cash = ZERO
        self._last: Valuation | None = None
        self._flow: _Flow | None = None
        self._differences: list[Difference] = []

    def take_cash(self, entry: CashEntry) -> None:
        """Adds a cash entry."""
        self._cash += entry.amount
        # Books that are older than valuations have flows that none was made before.
        if entry.kind not in FLOWS or self._last is None:
            return
        if self._flow is not None and self._flow.book_version == entry.book_version:
            self._flow.found += entry.amount
        else:
            self._compare(f"flow at version {entry.book_version}", ZERO, entry.amount)

    def take_shares(self, book_version: int) -> None:
        """Notes that shares came or left."""
        if self._flow is not None and self._flow.book_version == book_version:
            self._flow.is_of_shares = True

    def take_valuation(self, valuation: Valuation) -> None:
        """Recomputes a valuation."""
        self._end_flow()
        name = f"valuation {valuation.number}"
        self._compare(f"{name} cash", valuation.cash, self._cash)
        growth = growth_of(self._last, valuation.equity)
        self._compare(f"{name} growth", valuation.growth, growth)
        if valuation.kind is ValuationKind.FLOW:
            self._flow = _Flow(valuation.number, valuation.book_version + 1, valuation.flow)
        self._last = valuation

    def differences(self) -> list[Difference]:
        """Every difference, once all facts were taken."""
        self._end_flow()
        return self._differences

    def _end_flow(self) -> None:
        flow, self._flow = self._flow, None
        if flow is not None and not flow.is_of_shares:
            self._compare(f"valuation {flow.number} flow", flow.recorded, flow.found)

    def _compare(self, figure: str, recorded: Decimal, recomputed: Decimal) -> None:
        if recorded != recomputed:
            self._differences.append(
                Difference(self._strategy_name, self._mode, figure, recorded, recomputed)
            )

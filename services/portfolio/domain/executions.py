"""What is booked of an order under one execution, and what the broker's next word adds to it.

An execution and its corrections have one root; the part after the last dot counts the corrections.
Words may come twice, late, and in any order: the highest revision of an execution is the truth,
and so is the commission of the highest revision that has one.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from services.portfolio.domain.evidence import BrokerExecution
from services.portfolio.domain.money import ZERO, value_of
from services.portfolio.domain.order import Execution, Fill, FillKind

COMMISSION = ":commission"  # parts an execution's id from what makes its commission's id
NONE_YET = -1


@dataclass(frozen=True, slots=True)
class Booked:
    """What all facts under one root come to. Revisions are NONE_YET before the first."""

    quantity: Decimal = ZERO
    value: Decimal = ZERO
    commission: Decimal = ZERO
    revision: int = NONE_YET  # whose quantity and value these are
    commissioned: int = NONE_YET  # whose commission this is
    reports: int = 0  # of commission

    @property
    def is_new(self) -> bool:
        """Whether no shares are booked yet, not even such as were corrected to none."""
        return self.revision == NONE_YET

    def has_seen(self, execution_id: str) -> bool:
        """Whether this execution is booked, or a later revision of it."""
        return _revision_of(execution_id) <= self.revision

    def change_to(self, execution: BrokerExecution) -> Execution | None:
        """The shares and the value that `execution` adds; None when a later word is booked."""
        if self.has_seen(execution.execution_id):
            return None
        value = value_of(execution.quantity, execution.price)
        quantity = execution.quantity - self.quantity
        return Execution(execution.execution_id, quantity, value - self.value, ZERO)

    def commission_change_to(self, execution_id: str, commission: Decimal) -> Execution | None:
        """The commission that a report adds, under an id of its own; None when it adds nothing.

        A first report is a fact even when it adds nothing: later ones are judged by it.
        """
        revision = _revision_of(execution_id)
        if revision < self.commissioned:
            return None
        if revision == self.commissioned and commission == self.commission:
            return None
        number = f"-{self.reports + 1}" if self.reports else ""
        report_id = f"{execution_id}{COMMISSION}{number}"
        return Execution(report_id, ZERO, ZERO, commission - self.commission)


def booked_under(root: str, fills: Iterable[Fill]) -> Booked:
    """What is booked under a root, of all the fills of an order."""
    mine = [fill for fill in fills if root_of(fill.execution_id) == root]
    reports = [fill for fill in mine if fill.kind is FillKind.COMMISSION]
    return Booked(
        sum((fill.quantity for fill in mine), ZERO),
        sum((fill.value for fill in mine), ZERO),
        sum((fill.commission for fill in mine), ZERO),
        _highest(fill for fill in mine if fill.kind is not FillKind.COMMISSION),
        _highest(reports),
        len(reports),
    )


def root_of(execution_id: str) -> str:
    """What an execution, its corrections and its commissions have in common."""
    return _plain(execution_id).rpartition(".")[0] or _plain(execution_id)


def _highest(fills: Iterable[Fill]) -> int:
    return max((_revision_of(fill.execution_id) for fill in fills), default=NONE_YET)


def _revision_of(execution_id: str) -> int:
    """How often the broker had corrected it; 0 when the id does not tell."""
    suffix = _plain(execution_id).rpartition(".")[2]
    return int(suffix) if suffix.isdecimal() else 0


def _plain(execution_id: str) -> str:
    return execution_id.partition(COMMISSION)[0]

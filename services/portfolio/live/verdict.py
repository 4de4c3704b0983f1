"""What the broker's evidence says of one order that may be at the broker. Pure.

Only a look at open orders, completed orders and executions counts, and it ends an order only when
a second look, some seconds later, finds the same: "Cancelled" may be false, an execution may be on
its way, and a gateway that has just come back may not have heard of everything yet.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from zoneinfo import ZoneInfo

from services.portfolio.domain.evidence import AtBroker, BrokerOrder, Evidence
from services.portfolio.domain.order import Order, Status
from services.portfolio.live.ports import Intent

NEW_YORK = ZoneInfo("America/New_York")  # the broker's day


class Finding(StrEnum):
    """What one look found of an order."""

    OPEN = "OPEN"  # the broker works on it
    FILLED = "FILLED"  # the broker says filled, and not all executions are here yet
    CANCELLED = "CANCELLED"
    REFUSED = "REFUSED"
    NOWHERE = "NOWHERE"  # in none of the lists, all of which reach back to when it was sent
    UNKNOWABLE = "UNKNOWABLE"  # in none of the lists, and executions of its day are forgotten


@dataclass(frozen=True, slots=True)
class Hearsay:
    """What was heard of an order since it was sent, without asking. Nothing of it is a proof."""

    refusal: str = ""  # the broker's words
    cancelled: bool = False
    answered: bool = False  # the broker has spoken of it at all


@dataclass(frozen=True, slots=True)
class Doubt:
    """A finding that would end an order, and since when looks have agreed on it."""

    finding: Finding
    since: datetime


@dataclass(frozen=True, slots=True)
class Verdict:
    """What follows from a look: a new status with its reason, or a doubt to look into again."""

    status: Status | None = None  # None: as it is
    reason: str = ""
    doubt: Doubt | None = None


STAYS = Verdict()
NEVER_HAD_IT = (
    "The broker never had it: it is in none of its open orders, completed orders and executions. "
    "It was not sent again."
)


def find(intent: Intent, evidence: Evidence, hearsay: Hearsay) -> tuple[Finding, str]:
    """What a look found of an order, and the broker's words about it."""
    ref = str(intent.order.order_id)
    if any(order.order_ref == ref for order in evidence.open_orders):
        return Finding.OPEN, ""
    completed = next((o for o in evidence.completed_orders if o.order_ref == ref), None)
    if completed is not None:
        return _completed(completed, intent, hearsay)
    # What was heard is no proof either, once the lists no longer reach back to when it was sent.
    if intent.sent_time is None or _day(intent.sent_time) != _day(evidence.asked):
        return Finding.UNKNOWABLE, ""
    if hearsay.refusal:
        return Finding.REFUSED, hearsay.refusal
    if hearsay.cancelled:
        return Finding.CANCELLED, ""
    return Finding.NOWHERE, ""


def judge(
    intent: Intent,
    evidence: Evidence,
    hearsay: Hearsay,
    doubt: Doubt | None,
    sure_after: timedelta,
) -> Verdict:
    """What follows for an open order whose known executions are booked.

    `doubt` is what the look before made of it. `sure_after` is how long looks must agree.
    """
    finding, words = find(intent, evidence, hearsay)
    order = intent.order
    if finding is Finding.OPEN:
        return STAYS
    if doubt is None or doubt.finding is not finding:
        doubt = Doubt(finding, evidence.asked)
    sure = evidence.asked - doubt.since >= sure_after
    if finding in (Finding.CANCELLED, Finding.REFUSED):
        return _ended(finding, words, intent) if sure else Verdict(doubt=doubt)
    # An order that the broker spoke of, or filled in part, did not get lost on its way there.
    if finding is Finding.NOWHERE and sure and not hearsay.answered and not order.filled_quantity:
        return Verdict(Status.REJECTED, NEVER_HAD_IT)
    return Verdict(_unknown(order), _why_unknown(finding), doubt)


def _completed(completed: BrokerOrder, intent: Intent, hearsay: Hearsay) -> tuple[Finding, str]:
    if completed.state is AtBroker.FILLED:
        return Finding.FILLED, completed.message
    refused = hearsay.refusal or (completed.state is AtBroker.INACTIVE)
    if refused and not intent.cancel_requested:
        return Finding.REFUSED, hearsay.refusal or completed.message
    return Finding.CANCELLED, completed.message


def _ended(finding: Finding, words: str, intent: Intent) -> Verdict:
    if finding is Finding.REFUSED:
        return Verdict(Status.REJECTED, f"The broker refused it: {words or 'it gave no reason'}")
    by = "Cancelled, as asked." if intent.cancel_requested else "The broker cancelled it."
    return Verdict(Status.CANCELLED, f"{by} {words}".strip())


def _unknown(order: Order) -> Status | None:
    return Status.UNKNOWN if order.status is Status.PENDING else None


def _why_unknown(finding: Finding) -> str:
    match finding:
        case Finding.FILLED:
            return "The broker says it is filled; its executions have not all come yet."
        case Finding.UNKNOWABLE:
            return (
                "It was sent on an earlier day, whose executions the broker no longer tells. "
                "Compare GET /reconciliation, then report it with PUT /orders/{order_id}/status."
            )
        case _:
            return (
                "It was sent, and the broker has not said that it has it. It is being looked for."
            )


def _day(time: datetime) -> object:
    return time.astimezone(NEW_YORK).date()

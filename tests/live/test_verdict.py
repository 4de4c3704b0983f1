"""What evidence ends an order, what only raises a doubt, and what is never concluded."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from services.portfolio.domain.evidence import AtBroker, BrokerOrder, Evidence
from services.portfolio.domain.order import Mode, Order, Status
from services.portfolio.live.ports import Intent
from services.portfolio.live.verdict import STAYS, Doubt, Finding, Hearsay, Verdict, judge
from tests.ports.makers import order

NOON = datetime(2026, 3, 4, 17, 0, tzinfo=UTC)  # in New York
SURE = timedelta(seconds=5)
NOTHING_HEARD = Hearsay()


def pending(**changes: object) -> Order:
    return replace(order("A"), mode=Mode.LIVE, status=Status.PENDING, **changes)  # type: ignore[arg-type]


def sent(*, cancel_requested: bool = False, at: datetime = NOON, **changes: object) -> Intent:
    return Intent(pending(**changes), 1, 7, at, cancel_requested)


def evidence(
    *,
    open_: AtBroker | None = None,
    completed: AtBroker | None = None,
    of: Intent,
    asked: datetime = NOON,
    message: str = "",
) -> Evidence:
    ref = str(of.order.order_id)
    return Evidence(
        asked,
        (BrokerOrder(ref, open_),) if open_ else (),
        (BrokerOrder(ref, completed, message=message),) if completed else (),
        (),
        {},
        None,
        None,
    )


def judged_twice(intent: Intent, heard: Hearsay, completed: AtBroker | None = None) -> Verdict:
    """The verdict of a second look, SURE after the first, that found the same."""
    first = judge(intent, evidence(of=intent, completed=completed), heard, None, SURE)
    assert first.status in (None, Status.UNKNOWN), "one look never ends an order"
    assert first.doubt is not None
    early = evidence(of=intent, completed=completed, asked=NOON + SURE - timedelta(seconds=1))
    assert judge(intent, early, heard, first.doubt, SURE).status in (None, Status.UNKNOWN)
    late = evidence(of=intent, completed=completed, asked=NOON + SURE)
    return judge(intent, late, heard, first.doubt, SURE)


@pytest.mark.parametrize("heard", [Hearsay(), Hearsay("refused (201)", True, True)])
def test_an_open_order_stays_whatever_was_heard(heard: Hearsay) -> None:
    intent = sent()
    found = evidence(of=intent, open_=AtBroker.WORKING, completed=AtBroker.CANCELLED)
    doubt = Doubt(Finding.CANCELLED, NOON - timedelta(hours=1))
    assert judge(intent, found, heard, doubt, SURE) == STAYS


def test_an_order_in_none_of_the_lists_is_unknown_and_then_never_was_there() -> None:
    intent = sent()
    first = judge(intent, evidence(of=intent), NOTHING_HEARD, None, SURE)
    assert first.status is Status.UNKNOWN
    last = judged_twice(intent, NOTHING_HEARD)
    assert last.status is Status.REJECTED
    assert "never had it" in last.reason
    assert "not sent again" in last.reason


@pytest.mark.parametrize(
    ("heard", "filled"),
    [(Hearsay(answered=True), 0), (NOTHING_HEARD, 4)],
    ids=["spoken of", "part"],
)
def test_an_order_that_was_there_never_becomes_one_that_was_not(
    heard: Hearsay, filled: int
) -> None:
    intent = sent(filled_quantity=Decimal(filled))
    assert judged_twice(intent, heard).status is Status.UNKNOWN


@pytest.mark.parametrize(
    "heard",
    [NOTHING_HEARD, Hearsay(cancelled=True, answered=True), Hearsay("No (201)", answered=True)],
    ids=["nothing", "cancelled", "refused"],
)
def test_an_order_of_yesterday_cannot_be_told_from_a_lost_one(heard: Hearsay) -> None:
    intent = sent(at=NOON - timedelta(hours=13))  # 23:00 in New York, the day before
    last = judged_twice(intent, heard)
    assert last.status is Status.UNKNOWN
    assert "PUT /orders/{order_id}/status" in last.reason


def test_the_broker_s_day_is_new_york_s() -> None:
    intent = sent(at=NOON - timedelta(hours=11, minutes=59))  # 00:01 in New York, the same day
    assert judged_twice(intent, NOTHING_HEARD).status is Status.REJECTED


def test_a_cancellation_counts_when_two_looks_agree() -> None:
    last = judged_twice(sent(), NOTHING_HEARD, AtBroker.CANCELLED)
    assert last == Verdict(Status.CANCELLED, "The broker cancelled it.")
    last = judged_twice(sent(cancel_requested=True), NOTHING_HEARD, AtBroker.CANCELLED)
    assert last == Verdict(Status.CANCELLED, "Cancelled, as asked.")


def test_a_cancellation_that_was_only_heard_of_counts_when_two_looks_find_nothing() -> None:
    heard = Hearsay(cancelled=True, answered=True)
    assert judged_twice(sent(), heard).status is Status.CANCELLED


def test_a_refusal_ends_an_order_as_rejected_in_the_broker_s_words() -> None:
    heard = Hearsay("No trading permission (code 201)", answered=True)
    for completed in (None, AtBroker.CANCELLED, AtBroker.INACTIVE):
        last = judged_twice(sent(), heard, completed)
        assert last.status is Status.REJECTED
        assert "No trading permission (code 201)" in last.reason


def test_another_finding_begins_a_doubt_anew() -> None:
    intent = sent()
    old = Doubt(Finding.NOWHERE, NOON - timedelta(hours=1))
    found = evidence(of=intent, completed=AtBroker.CANCELLED)
    assert judge(intent, found, NOTHING_HEARD, old, SURE).doubt == Doubt(Finding.CANCELLED, NOON)


def test_filled_without_executions_waits_for_them() -> None:
    last = judged_twice(sent(), NOTHING_HEARD, AtBroker.FILLED)
    assert last.status is Status.UNKNOWN
    assert last.doubt is not None


def test_an_order_that_is_unknown_already_is_not_said_to_be_so_again() -> None:
    intent = sent()
    intent = replace(intent, order=replace(intent.order, status=Status.UNKNOWN))
    first = judge(intent, evidence(of=intent), NOTHING_HEARD, None, SURE)
    assert first.status is None
    assert first.doubt is not None

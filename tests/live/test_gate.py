"""The gate of LIVE: every reason to refuse, with its figures; and the exchange's real calendar."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from services.portfolio.domain.errors import (
    ForbiddenError,
    OutsideSessionError,
    SymbolFrozenError,
    WholeSharesOnlyError,
)
from services.portfolio.domain.reconciliation import SymbolRow
from services.portfolio.domain.weather import BrokerState, Weather
from services.portfolio.live.gate import LiveBroker, Session
from services.portfolio.live.ports import Seen
from services.portfolio.ports import UnavailableError
from tests.ledger.values import NOW, d

# exchange-calendars asks pandas for something that pandas 3.1 has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

FROZEN = SymbolRow("AVL", d(12), d(10), d("0.5"))


def broker(
    state: BrokerState = BrokerState.CONNECTED, session: Session | None = None, detail: str = ""
) -> LiveBroker:
    seen = Seen(Weather(state, NOW, detail), {"AVL": FROZEN})
    return LiveBroker(lambda: seen, d("0.02"), session)


def at(text: str) -> datetime:
    """A moment in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize("state", [s for s in BrokerState if s is not BrokerState.CONNECTED])
def test_orders_are_taken_while_connected_and_never_else(state: BrokerState) -> None:
    broker().admit("SPXL", d(1), NOW)
    with pytest.raises(UnavailableError) as refused:
        broker(state, detail="The token ended.").admit("SPXL", d(1), NOW)
    assert refused.value.reason == "BROKER_UNAVAILABLE"
    for said in (state, "2024-05-06 14:30:00 UTC", "The token ended.", "same request_id"):
        assert said in refused.value.message


def test_the_weather_of_the_moment_counts() -> None:
    states = [BrokerState.DOWN, BrokerState.CONNECTED]
    one = LiveBroker(lambda: Seen(Weather(states.pop(), NOW), {}), d(0))
    one.admit("SPXL", d(1), NOW)
    with pytest.raises(UnavailableError):
        one.admit("SPXL", d(1), NOW)


def test_a_frozen_symbol_is_refused_with_both_sides_and_what_to_do() -> None:
    with pytest.raises(SymbolFrozenError) as refused:
        broker().admit("AVL", d(1), NOW)
    assert refused.value.reason == "SYMBOL_FROZEN"
    assert refused.value.figures == {
        "symbol": "AVL",
        "broker": "12",
        "strategies": "10",
        "unattributed": "2",
        "acknowledged": "0.5",
    }
    assert "POST /positions:assign" in refused.value.message


@pytest.mark.parametrize(("quantity", "whole"), [("10.5", "10"), ("0.00000001", "0")])
def test_part_of_a_share_is_refused(quantity: str, whole: str) -> None:
    with pytest.raises(WholeSharesOnlyError) as refused:
        broker().admit("SPXL", d(quantity), NOW)
    assert refused.value.reason == "WHOLE_SHARES_ONLY"
    assert refused.value.figures == {"symbol": "SPXL", "quantity": quantity, "whole": whole}
    broker().admit("SPXL", d("10.00000000"), NOW)


def test_the_first_reason_is_the_one_that_is_given() -> None:
    reasons: list[str] = []
    for state, symbol, quantity in (
        (BrokerState.DOWN, "AVL", "0.5"),
        (BrokerState.CONNECTED, "AVL", "0.5"),
        (BrokerState.CONNECTED, "SPXL", "0.5"),
        (BrokerState.CONNECTED, "SPXL", "1"),
    ):
        try:
            broker(state, Session([NOW + timedelta(1)], [NOW + timedelta(2)])).admit(
                symbol, d(quantity), NOW
            )
        except (UnavailableError, ForbiddenError) as error:
            reasons.append(error.reason)
    assert reasons == [
        "BROKER_UNAVAILABLE",
        "SYMBOL_FROZEN",
        "WHOLE_SHARES_ONLY",
        "OUTSIDE_SESSION",
    ]


@pytest.fixture(scope="module")
def session() -> Session:
    """The exchange's sessions from November 2024 on."""
    return asyncio.run(Session.load(at("2024-11-25T12:00")))


@pytest.mark.parametrize(
    ("moment", "opens"),
    [
        ("2024-11-25T14:29:59.999999", "2024-11-25T14:30"),  # winter: 9:30 in New York
        ("2024-11-25T14:30", None),
        ("2024-11-25T20:59:59.999999", None),
        ("2024-11-25T21:00", "2024-11-26T14:30"),
        ("2024-11-28T16:00", "2024-11-29T14:30"),  # Thanksgiving
        ("2024-11-29T17:59", None),
        ("2024-11-29T18:00", "2024-12-02T14:30"),  # the day after closes early
        ("2024-12-24T18:00", "2024-12-26T14:30"),  # and so does Christmas Eve
        ("2025-01-09T16:00", "2025-01-10T14:30"),  # a day of mourning
        ("2025-03-07T21:30", "2025-03-10T13:30"),  # clocks change over the week-end
        ("2025-07-04T16:00", "2025-07-07T13:30"),
    ],
)
def test_the_session_knows_holidays_early_closes_and_summer_time(
    session: Session, moment: str, opens: str | None
) -> None:
    assert session.next_open(at(moment)) == (at(opens) if opens else None)


def test_outside_the_session_an_order_is_refused_and_told_when_it_opens(session: Session) -> None:
    with pytest.raises(OutsideSessionError) as refused:
        broker(session=session).admit("SPXL", d(1), at("2024-11-28T16:00"))
    assert refused.value.reason == "OUTSIDE_SESSION"
    assert refused.value.figures == {"symbol": "SPXL", "opens": "2024-11-29T14:30:00Z"}
    assert "OUTSIDE_SESSION=allow" in refused.value.message
    broker(session=session).admit("SPXL", d(1), at("2024-11-29T15:00"))
    broker().admit("SPXL", d(1), at("2024-11-28T16:00"))  # allowed


def test_sessions_are_known_for_years_and_their_end_is_said(session: Session) -> None:
    assert session.next_open(at("2027-06-01T15:00")) is None
    with pytest.raises(UnavailableError, match="Restart the routers"):
        session.next_open(at("2030-01-01T15:00"))

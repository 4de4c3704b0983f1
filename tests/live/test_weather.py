"""The weather: what a reader may believe, and why the broker is away."""

from datetime import UTC, datetime, timedelta

import pytest

from services.portfolio.domain.weather import BrokerState, Weather, away, in_nightly_reset

NOON = datetime(2026, 3, 4, 17, 0, tzinfo=UTC)


def new_york(text: str) -> datetime:
    """A time in New York in winter, in UTC."""
    return datetime.fromisoformat(f"{text}-05:00").astimezone(UTC)


@pytest.mark.parametrize(
    ("at", "resets"),
    [
        ("2026-03-04T00:14", False),
        ("2026-03-04T00:15", True),
        ("2026-03-04T01:44", True),
        ("2026-03-04T01:45", False),
        ("2026-03-06T22:59", False),  # Friday
        ("2026-03-06T23:00", True),
        ("2026-03-07T02:59", True),
        ("2026-03-07T03:00", False),
        ("2026-03-01T00:20", True),  # Sunday
    ],
)
def test_the_nightly_reset_is_told_from_a_fault(at: str, resets: bool) -> None:
    assert in_nightly_reset(new_york(at)) is resets
    state, detail = away(new_york(at), None, "refused")
    assert (state is BrokerState.MAINTENANCE) is resets
    assert "refused" in detail


def test_after_sunday_one_o_clock_a_person_must_log_in() -> None:
    saturday = new_york("2026-02-28T12:00")
    sunday = new_york("2026-03-01T09:00")
    assert away(sunday, saturday, "refused")[0] is BrokerState.LOGIN_NEEDED
    assert away(sunday, sunday - timedelta(hours=1), "refused")[0] is BrokerState.DOWN
    assert away(sunday, None, "refused")[0] is BrokerState.DOWN  # it was never connected


def test_a_sender_that_has_fallen_silent_makes_the_line_down() -> None:
    told = Weather(BrokerState.CONNECTED, NOON, heartbeat=NOON)
    assert told.seen_at(NOON + timedelta(seconds=6)) == told
    silent = told.seen_at(NOON + timedelta(seconds=7))
    assert silent.state is BrokerState.DOWN
    assert silent.since == NOON
    assert "17:00:00" in silent.detail


def test_what_is_off_stays_off() -> None:
    off = Weather(BrokerState.OFF, NOON)
    assert off.seen_at(NOON + timedelta(days=1)) == off


@pytest.mark.parametrize(("account", "paper"), [("DU1000001", True), ("U1000001", False)])
def test_ib_s_paper_accounts_are_told_from_real_ones(account: str, paper: bool) -> None:
    assert Weather(BrokerState.CONNECTED, NOON, account=account).is_paper_account is paper

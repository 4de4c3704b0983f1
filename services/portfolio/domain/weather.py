"""The weather between us and the broker: one state, and what each of its signals makes of it."""

from dataclasses import dataclass, replace
from datetime import datetime, time, timedelta
from enum import StrEnum
from string import ascii_letters
from zoneinfo import ZoneInfo

NEW_YORK = ZoneInfo("America/New_York")
SHOWN_DIGITS = 3  # of an account
STALE_AFTER = timedelta(seconds=6)  # without a word from the sender, nobody holds the line


class BrokerState(StrEnum):
    """How things stand with the broker. New LIVE orders are taken in CONNECTED alone."""

    OFF = "OFF"  # TRADING_MODE=PAPER: no broker is used
    DOWN = "DOWN"  # no connection to the gateway; tried again and again
    RECONCILING = "RECONCILING"  # connected; the ledger is being compared with the broker
    CONNECTED = "CONNECTED"
    CONNECTIVITY_LOST = "CONNECTIVITY_LOST"  # the gateway is there, but has lost IB (1100)
    MAINTENANCE = "MAINTENANCE"  # away during the nightly reset; comes back by itself
    LOGIN_NEEDED = "LOGIN_NEEDED"  # away since the weekly token ended; a person must log in


class MarketData(StrEnum):
    """How things stand with the broker's prices."""

    OK = "OK"
    BROKEN = "BROKEN"  # a farm is away (2103, 2105)
    COMPETING_SESSION = "COMPETING_SESSION"  # another login took the prices (10197)


@dataclass(frozen=True, slots=True)
class Weather:
    """What is known of the broker, by the elected sender or from its last word."""

    state: BrokerState
    since: datetime
    detail: str = ""  # for a person: why, and what to do
    market_data: MarketData = MarketData.OK
    account: str = ""
    sender: str = ""  # which replica holds the line
    heartbeat: datetime | None = None  # the sender's last word

    @property
    def is_paper_account(self) -> bool:
        """Whether the account is one of IB's own paper accounts, which begin with D."""
        return self.account.startswith("D")

    def seen_at(self, now: datetime) -> "Weather":
        """What a reader may believe of it: without a recent word from a sender, it is DOWN."""
        if self.state is BrokerState.OFF or self.heartbeat is None:
            return self
        if now - self.heartbeat <= STALE_AFTER or self.state is BrokerState.DOWN:
            return self
        silent = f"No router has held the broker's line since {self.heartbeat:%H:%M:%S} UTC."
        return replace(self, state=BrokerState.DOWN, since=self.heartbeat, detail=silent)


def away(now: datetime, last_connected: datetime | None, why: str) -> tuple[BrokerState, str]:
    """The state, and what to tell a person, when the gateway or IB cannot be reached.

    The times are Interactive Brokers' own: https://www.interactivebrokers.com/en/software/systemStatus.php
    A gateway that restarts by itself needs a person once a week, after Sunday 01:00 New York.
    """
    here = now.astimezone(NEW_YORK)
    if in_nightly_reset(now):
        return BrokerState.MAINTENANCE, (
            f"Interactive Brokers resets its servers at this hour ({here:%a %H:%M} New York). "
            f"The router connects again by itself. {why}"
        )
    if last_connected is not None and last_connected < last_token_end(now):
        return BrokerState.LOGIN_NEEDED, (
            f"IB Gateway's weekly login ended on Sunday at 01:00 New York: log in again. {why}"
        )
    return BrokerState.DOWN, f"{why} The router tries again by itself."


def in_nightly_reset(now: datetime) -> bool:
    """Whether IB resets its North American servers at this moment."""
    here = now.astimezone(NEW_YORK)
    weekday, at = here.weekday(), here.time()  # Monday is 0
    if weekday == 4 and at >= time(23):
        return True
    if weekday == 5:
        return at < time(3)
    return time(0, 15) <= at < time(1, 45)


def last_token_end(now: datetime) -> datetime:
    """The last Sunday 01:00 in New York."""
    here = now.astimezone(NEW_YORK)
    days = (here.weekday() + 1) % 7
    sunday = (here - timedelta(days=days)).replace(hour=1, minute=0, second=0, microsecond=0)
    return sunday if sunday <= here else sunday - timedelta(days=7)


def masked(account: str) -> str:
    """An account by its letters and last three digits; by its letters alone when it is short."""
    digits = account.lstrip(ascii_letters)
    letters = account.removesuffix(digits)
    shown = digits[-SHOWN_DIGITS:] if len(digits) >= 2 * SHOWN_DIGITS else ""
    return f"{letters}***{shown}" if account else ""

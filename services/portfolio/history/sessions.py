"""Sessions: the trading days that prices are of."""

from datetime import date, datetime
from zoneinfo import ZoneInfo

NEW_YORK = ZoneInfo("America/New_York")


def session_at(now: datetime) -> date:
    """The session of prices that say of no other: the date in New York, where the exchanges are."""
    return now.astimezone(NEW_YORK).date()

"""What a price feed is."""

from dataclasses import dataclass
from datetime import date
from typing import Protocol, runtime_checkable


@dataclass(frozen=True)
class Quote:
    """A price in USD a share, and the session (trading day) it belongs to."""

    price: float
    session: date


class PriceFeed(Protocol):
    """A source of prices, always at one point in time: the current session."""

    @property
    def description(self) -> str:
        """What it is, in a few words; it stands beside every price that is shown."""

    @property
    def interval_s(self) -> float:
        """Seconds between two looks that suit it, unless the strategy says otherwise."""

    def history(self, symbol: str, n: int) -> list[float]:
        """The last `n` closes before the current session, oldest first; fewer if there are."""

    def latest(self, symbol: str) -> Quote | None:
        """The latest price of the symbol; None when there is none that is fresh."""

    def advance(self) -> bool:
        """Goes on after a tick is done; False when no prices are left.

        For a feed that follows the clock there is nothing to do.
        """


@runtime_checkable
class ConnectedFeed(PriceFeed, Protocol):
    """A feed that holds a connection, which can be away."""

    def why_none(self, symbol: str) -> str:
        """Why the last `latest` of the symbol was None, for a person; empty when it was not."""

    def close(self) -> None:
        """Gives the connection back; the next question makes another."""

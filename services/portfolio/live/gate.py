"""The gate of LIVE: what a new order must pass, what it may cost, and how much cash can buy.

An order that passes stays PENDING: it is recorded as an intent, and the elected sender sends it.
"""

import asyncio
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from services.portfolio.domain.errors import (
    OutsideSessionError,
    SymbolFrozenError,
    WholeSharesOnlyError,
)
from services.portfolio.domain.ledger import Ticket
from services.portfolio.domain.money import EXACT, rounded, whole_shares
from services.portfolio.domain.order import Execution
from services.portfolio.domain.weather import BrokerState, Weather
from services.portfolio.live.ports import Seen
from services.portfolio.ports import UnavailableError

EXCHANGE = "XNYS"  # NYSE; Nasdaq and NYSE Arca keep the same sessions
KNOWN_AHEAD = timedelta(days=3 * 365)

# IB's fixed plan for US stocks and ETFs (interactivebrokers.com, Commissions, Stocks): USD 0.005 a
# share, at least 1.00 an order. It is never more than 1% of the order's value, which is left out:
# what is reserved may be a little too much, never too little.
COMMISSION_PER_SHARE = Decimal("0.005")
LEAST_COMMISSION = Decimal("1.00")


class Session:
    """The regular sessions of the US stock exchanges, holidays and early closes included."""

    def __init__(self, opens: Sequence[datetime], closes: Sequence[datetime]) -> None:
        self._opens = opens
        self._closes = closes

    @classmethod
    async def load(cls, now: datetime) -> "Session":
        """The sessions from now on, for some years. Takes a second, in a thread of its own."""
        return await asyncio.to_thread(cls._computed, now)

    @classmethod
    def _computed(cls, now: datetime) -> "Session":
        # Imports pandas, which no other part of the router needs.
        from exchange_calendars import get_calendar  # noqa: PLC0415

        # From before a long weekend, so that the day that holds `now` is there.
        calendar = get_calendar(
            EXCHANGE,
            start=(now - timedelta(days=7)).date().isoformat(),
            end=(now + KNOWN_AHEAD).date().isoformat(),
        )
        return cls(
            [moment.to_pydatetime() for moment in calendar.opens],
            [moment.to_pydatetime() for moment in calendar.closes],
        )

    def next_open(self, now: datetime) -> datetime | None:
        """When the next session opens; None while one is open, its first moment included.

        Raises:
            UnavailableError: The sessions are not known that far ahead.
        """
        begun = bisect_right(self._opens, now)
        if begun and now < self._closes[begun - 1]:
            return None
        if begun == len(self._opens):
            raise UnavailableError(
                "BROKER_UNAVAILABLE",
                f"The exchange's sessions are known until {self._closes[-1]:%Y-%m-%d} only. "
                "Nothing was written. Restart the routers, which computes them anew.",
            )
        return self._opens[begun]


@dataclass(frozen=True, slots=True)
class LiveBroker:
    """Interactive Brokers, as an order meets it: reached through the elected sender.

    `seen` tells what this replica knows of the broker now. `price_buffer` is the share of the
    price that a fill may be worse by. Without a `session`, orders are taken at any time, and the
    broker lets them wait for the next open.
    """

    seen: Callable[[], Seen]
    price_buffer: Decimal
    session: Session | None = None
    commission_per_share: Decimal = COMMISSION_PER_SHARE
    least_commission: Decimal = LEAST_COMMISSION

    def admit(self, symbol: str, quantity: Decimal, now: datetime) -> None:
        """Checks that the broker is there, agrees on the symbol, and can trade this now.

        Raises:
            UnavailableError: The broker is away, or the ledger is being compared with it.
            SymbolFrozenError: The account and the strategies differ in the symbol.
            WholeSharesOnlyError: It is part of a share.
            OutsideSessionError: The exchange is closed.
        """
        seen = self.seen()
        if seen.weather.state is not BrokerState.CONNECTED:
            raise _away(seen.weather)
        if symbol in seen.frozen:
            raise SymbolFrozenError(seen.frozen[symbol])
        if quantity % 1:
            raise WholeSharesOnlyError(symbol, quantity)
        opens = self.session.next_open(now) if self.session else None
        if opens is not None:
            raise OutsideSessionError(symbol, opens)

    def allowance(self, quantity: Decimal, price: Decimal) -> Decimal:
        """The price buffer and the commission on an order, in USD."""
        buffer = EXACT.multiply(EXACT.multiply(quantity, price), self.price_buffer)
        commission = max(self.least_commission, quantity * self.commission_per_share)
        return rounded(EXACT.add(buffer, commission))

    def affordable(self, cash: Decimal, price: Decimal) -> Decimal:
        """The most whole shares that `cash` USD pays for at `price`, allowance included."""
        buffered = EXACT.multiply(price, 1 + self.price_buffer)
        # The commission is the larger of two, so both must be payable.
        return min(
            whole_shares(cash - self.least_commission, buffered),
            whole_shares(cash, buffered + self.commission_per_share),
        )

    def execution_on_accept(self, ticket: Ticket) -> Execution | None:  # noqa: ARG002 - of the port
        """None: the broker fills it later."""
        return None


def _away(weather: Weather) -> UnavailableError:
    told = f": {weather.detail}" if weather.detail else "."
    return UnavailableError(
        "BROKER_UNAVAILABLE",
        f"The broker is {weather.state} since {weather.since:%Y-%m-%d %H:%M:%S} UTC{told} "
        "Nothing was written and nothing will be sent. GET /broker shows when orders are taken "
        "again; then repeat the call with the same request_id.",
    )

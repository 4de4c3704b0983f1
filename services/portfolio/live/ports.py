"""What the elected sender needs of the world: the broker's line, and the sender's own ledger."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Protocol
from uuid import UUID

from services.portfolio.domain.evidence import BrokerEvent, Evidence
from services.portfolio.domain.order import Order
from services.portfolio.domain.reconciliation import Reconciliation, SymbolRow
from services.portfolio.domain.weather import Weather


class LineError(Exception):
    """The broker's gateway cannot be reached, does not answer, or refuses us; says why."""


class OutvotedError(Exception):
    """Another process may be the elected sender now; nothing was written."""


@dataclass(frozen=True, slots=True)
class Intent:
    """An accepted LIVE order on its way to the broker.

    `broker_order_id` is None until it is about to be sent. From the commit that sets it, the broker
    may have the order: it is never sent again, under this id or another.
    """

    order: Order  # as it is in the ledger now
    client_id: int | None
    broker_order_id: int | None
    sent_time: datetime | None  # of that commit
    cancel_requested: bool


class Line(Protocol):
    """The one connection to the broker. Every wait is bounded; calls never overlap."""

    events: asyncio.Queue[BrokerEvent]  # in the order in which they came

    async def connect(self, first_id: int) -> str:
        """Connects, with every id from `first_id` on; returns the account.

        Raises:
            LineError: It cannot be reached, or refuses us (a client id in use, another account).
        """

    async def disconnect(self) -> None:
        """Lets go of the line; what was placed and not yet written is dropped."""

    def next_order_id(self) -> int:
        """An id that neither an order nor a request of this connection has had.

        Raises:
            LineError: The line is gone.
        """

    def room(self) -> int:
        """How many messages may be written at once now, under the broker's 50 a second."""

    def place(self, order: Order, broker_order_id: int) -> None:
        """Sends an order, once.

        Raises:
            LineError: The line is gone or there is no room; it was not sent.
        """

    def cancel(self, order: Order, broker_order_id: int) -> None:
        """Asks for an order's cancellation. Raises LineError as `place` does."""

    async def evidence(self) -> Evidence:
        """Asks for open orders, completed orders, executions, positions and cash, in this order.

        Raises:
            LineError: An answer did not come in time, or the line is gone.
        """

    async def last_price(self, symbol: str) -> Decimal | None:
        """The broker's last price of a symbol in USD; None when it has none.

        Raises:
            LineError: The line is gone.
        """


class Baton(Protocol):
    """Says who the one sender is, and keeps what only the sender may write.

    Everything is done on the session that holds the election's lock: without the lock, nothing is
    written. All methods raise UnavailableError when the database is away, and OutvotedError when
    the lock is gone.
    """

    async def take(self) -> bool:
        """Takes the lock if it is free, or still ours; never waits."""

    async def drop(self) -> None:
        """Gives the lock back."""

    async def first_id(self, client_id: int) -> int:
        """One above the highest order id that was ever assigned to this client id."""

    async def unsent(self) -> Sequence[Intent]:
        """Open intents without a broker_order_id, oldest first."""

    async def sent(self) -> Sequence[Intent]:
        """Intents with a broker_order_id whose orders are PENDING or UNKNOWN, oldest first."""

    async def booked(self) -> Mapping[str, Decimal | None]:
        """Executions of the last two days' orders that are booked, by id, with their commission.

        None where none is booked yet. It saves a new sender from booking a whole day again.
        """

    async def assign(self, client_id: int, ids: Mapping[UUID, int]) -> set[UUID]:
        """Commits broker order ids, and the high-water mark with them.

        Returns the orders that have theirs now: those that were open, unsent and not asked to be
        cancelled. Raises OutvotedError, with nothing written, when an id is not above the mark.
        """

    async def withdraw(self, order_id: UUID) -> bool:
        """Takes an unsent intent back, so that no sender can ever assign it; False: it was sent."""

    async def say(self, weather: Weather) -> None:
        """Keeps the weather and this moment's heartbeat, and tells every replica.

        A weather without an account leaves the one that is known.
        """

    async def keep(self, seen: Reconciliation) -> None:
        """Keeps a comparison, and tells every replica."""

    async def strategies(self) -> tuple[Mapping[str, Decimal], Decimal]:
        """Shares by symbol, and cash, summed over all LIVE books."""

    async def acknowledged(self) -> Mapping[str, Decimal]:
        """UNATTRIBUTED shares that operators have acknowledged, by symbol."""


class BrokerReads(Protocol):
    """What every replica may know. Raises UnavailableError when the database is away."""

    async def weather(self) -> Weather | None:
        """The sender's last word; None before the first."""

    async def reconciliation(self) -> Reconciliation:
        """The last comparison as it was kept, with the acknowledgements of now."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a replica knows of the broker at a moment, to admit or refuse a new order by."""

    weather: Weather
    frozen: Mapping[str, SymbolRow]

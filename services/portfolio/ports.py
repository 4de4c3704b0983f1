"""What the router needs of the world: a ledger that keeps, reads, a broker, time and ids."""

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from typing import Protocol
from uuid import UUID

from services.portfolio.domain.audit import Difference
from services.portfolio.domain.book import Book, CashEntry, Strategy
from services.portfolio.domain.capital import AllocationPolicy, Plan
from services.portfolio.domain.ledger import Ticket
from services.portfolio.domain.mutation import Mutation
from services.portfolio.domain.order import (
    Execution,
    Fill,
    Mode,
    Order,
    OrderEvent,
    Status,
)
from services.portfolio.domain.position import Position, PositionAdjustment
from services.portfolio.domain.promotion import Decision
from services.portfolio.domain.reconciliation import Acknowledgement, SymbolRow
from services.portfolio.domain.risk import UNTOUCHED, RiskEvent, StrategyLimits, Whole
from services.portfolio.domain.valuation import Valuation
from services.portfolio.views import InvestedView, PortfolioView, PositionView, WholeView

Clock = Callable[[], datetime]  # the time now, in UTC
NewId = Callable[[], UUID]  # a UUIDv7, later ones greater
BookKey = tuple[str, Mode]
Answer = Order | PositionView | PortfolioView | WholeView | StrategyLimits | Plan | None


class UnavailableError(Exception):
    """Something the router needs is away or full. The call may be repeated.

    Nothing was decided, unless the message asks to repeat it under the same request_id: then it is
    not known yet.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class StorageConflictError(Exception):
    """The transaction met another one, or a constraint, and was rolled back whole."""


class LockedError(StorageConflictError):
    """Another transaction held what was needed for as long as this one was willing to wait."""


class Broker(Protocol):
    """Executes orders. PAPER is just another broker."""

    def admit(self, symbol: str, quantity: Decimal, now: datetime) -> None:
        """Checks that an order may be placed at all as things stand.

        Raises:
            LedgerError: It may not: a frozen symbol, a closed exchange, part of a share.
            UnavailableError: The broker is away.
        """

    def allowance(self, quantity: Decimal, price: Decimal) -> Decimal:
        """What filling may cost beyond `quantity` x `price`, in USD: commission, a worse price."""

    def affordable(self, cash: Decimal, price: Decimal) -> Decimal:
        """The most whole shares that `cash` USD pays for at `price`, allowance included."""

    def execution_on_accept(self, ticket: Ticket) -> Execution | None:
        """The whole fill that the order gets at once; None when it is to stay PENDING."""


@dataclass(frozen=True, slots=True)
class StoredRequest:
    """What was answered to a request_id the first time."""

    request_id: str
    method: str
    fingerprint: bytes
    answer: Answer


@dataclass(frozen=True, slots=True)
class Needs:
    """What a batch of commands must see, and hold still while it decides."""

    strategies: Collection[str] = ()
    orders: Collection[UUID] = ()
    positions: Collection[UUID] = ()
    requests: Collection[str] = ()
    fills: Collection[UUID] = ()  # the orders, among `orders`, whose fills are needed
    accounts: Collection[str] = ()  # the symbols to compare with the broker's account
    valued: bool = False  # the marks and last valuations of all strategies of the batch too
    everyone: bool = False  # every strategy, held still with those that are just being created
    plans: Collection[UUID] = ()
    decided: bool = False  # the last decisions on the modes of all strategies of the batch too
    open_orders: bool = False  # those of all strategies of the batch too


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What there is of a batch's needs. What is missing does not exist."""

    strategies: Mapping[str, Strategy]
    books: Mapping[BookKey, Book]
    orders: Mapping[UUID, Order]
    positions: Mapping[UUID, tuple[BookKey, str]]  # position id -> its book and symbol
    requests: Mapping[str, StoredRequest]
    fills: Mapping[UUID, Sequence[Fill]]  # of the orders whose fills were asked for; oldest first
    accounts: Mapping[str, SymbolRow]  # as last compared, with the strategies' shares of now
    whole: Whole = UNTOUCHED
    valued: bool = True  # whether marks and valuations are those of every strategy here
    marks: Mapping[tuple[str, str], "PriceMark"] = field(default_factory=dict)  # by name, symbol
    valuations: Mapping[BookKey, Valuation] = field(default_factory=dict)  # the last of each book
    recent_orders: Mapping[str, int] = field(default_factory=dict)  # in 60 s; "" is the whole
    plans: Mapping[UUID, Plan] = field(default_factory=dict)
    decisions: Mapping[str, Decision] = field(default_factory=dict)  # the last, by name


@dataclass(slots=True)
class Changes:
    """What a batch writes: the new state of what changed, and the facts that say why."""

    strategies: dict[str, Strategy] = field(default_factory=dict)
    books: dict[BookKey, Book] = field(default_factory=dict)
    positions: dict[tuple[BookKey, str], Position] = field(default_factory=dict)
    orders: dict[UUID, Order] = field(default_factory=dict)
    fills: list[Fill] = field(default_factory=list)
    cash_entries: list[CashEntry] = field(default_factory=list)
    adjustments: list[PositionAdjustment] = field(default_factory=list)
    order_events: list[OrderEvent] = field(default_factory=list)
    intents: list[UUID] = field(default_factory=list)  # orders that the broker is to get
    cancel_requests: list[UUID] = field(default_factory=list)  # orders it is asked to cancel
    acknowledgements: list[Acknowledgement] = field(default_factory=list)
    valuations: list[Valuation] = field(default_factory=list)
    risk_events: list[RiskEvent] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    whole: Whole | None = None
    policy: AllocationPolicy | None = None
    plans: dict[UUID, Plan] = field(default_factory=dict)
    mutations: list[Mutation] = field(default_factory=list)  # who made all of these

    def __bool__(self) -> bool:
        return bool(
            self.strategies
            or self.books
            or self.orders
            or self.cancel_requests
            or self.acknowledgements
            or self.valuations
            or self.risk_events
            or self.decisions
            or self.whole
            or self.policy
            or self.plans
        )


class Transaction(Protocol):
    """One transaction on the ledger. Rolled back unless its block ends well."""

    async def load(self, needs: Needs) -> Snapshot:
        """Reads what a batch needs and locks its strategies, in name order."""

    async def save(self, changes: Changes) -> None:
        """Writes all changes and tells every router replica of them when the block ends."""

    async def portfolio(self, strategy_name: str) -> PortfolioView:
        """A strategy's state, with what this transaction has written."""

    async def position(self, position_id: UUID) -> PositionView:
        """A position at market, with what this transaction has written.

        Raises:
            StorageConflictError: It holds no shares (any more).
        """

    async def remember(self, requests: Sequence[StoredRequest]) -> None:
        """Keeps the answers under their request_ids."""


class Ledger(Protocol):
    """Keeps the truth."""

    def transaction(self) -> AbstractAsyncContextManager[Transaction]:
        """A transaction that commits when its block ends well.

        Raises, from the block's end as well:
            StorageConflictError: It met another transaction or a constraint; run it again.
            UnavailableError: The database is away.
        """


@dataclass(frozen=True, slots=True)
class OrderFilter:
    """Which orders to list; None means any."""

    strategy_name: str | None = None
    symbol: str | None = None
    status: Status | None = None
    twins: bool = False  # the orders of paper twins too


@dataclass(frozen=True, slots=True)
class PositionFilter:
    """Which positions to list; None means any."""

    strategy_name: str | None = None
    symbol: str | None = None


@dataclass(frozen=True, slots=True)
class MutationFilter:
    """Which mutations to list; None means any."""

    strategy_name: str | None = None
    actor: str | None = None


PositionKey = tuple[str, str, Mode]  # strategy, symbol, mode: the order of a position list


@dataclass(frozen=True, slots=True)
class PriceMark:
    """The price of a symbol that a strategy saw, in USD a share."""

    strategy_name: str
    symbol: str
    price: Decimal
    time: datetime
    session: date | None = None  # as the strategy gave it


MarkKey = tuple[str, date | None]  # a strategy, and the session that it gave with its prices


class Reads(Protocol):
    """Reads what is committed. Raises UnavailableError when the database is away."""

    async def order(self, order_id: UUID) -> Order | None:
        """One order."""

    async def orders(self, which: OrderFilter, before: UUID | None, limit: int) -> list[Order]:
        """The newest orders older than `before`, newest first."""

    async def orders_by_id(self, order_ids: Collection[UUID]) -> list[Order]:
        """The named orders, oldest first."""

    async def positions(
        self, which: PositionFilter, after: PositionKey | None, limit: int
    ) -> list[PositionView]:
        """Open positions after a key, by strategy, symbol and mode; without those of twins."""

    async def mutations(
        self, which: MutationFilter, before: UUID | None, limit: int
    ) -> list[Mutation]:
        """The newest mutations older than `before`, newest first."""

    async def portfolios(self, names: Collection[str] | None = None) -> list[PortfolioView]:
        """Strategies by name; all of them unless named."""

    async def invested(self, names: Collection[str]) -> dict[str, InvestedView]:
        """What each named strategy holds; unknown names are left out."""

    async def mark(
        self, marks: Sequence[PriceMark], today: date | None = None
    ) -> dict[MarkKey, bool]:
        """Keeps prices that strategies saw, unless they begin a session.

        Says of those that exist whether their prices were kept; if not, the session before is to be
        closed first. `today` is the session of prices that came with none, from a strategy that
        never gives any; without it they begin none.
        """

    async def audit(self) -> tuple[int, list[Difference]]:
        """How many books there are, and every figure that the facts do not support."""

    async def ping(self) -> None:
        """Returns when the database answers."""


@dataclass(frozen=True, slots=True)
class LedgerEvent:
    """What some router replica has just committed."""

    strategies: tuple[str, ...]
    orders: tuple[UUID, ...]
    broker: bool = False  # the weather, a comparison, an intent or a request to cancel is new


class Feed(Protocol):
    """Tells of every commit on the ledger, whichever replica made it."""

    def subscribe(self) -> AbstractAsyncContextManager[AsyncIterator[LedgerEvent]]:
        """Commits from the moment the block is entered.

        Raises, from the iterator as well:
            UnavailableError: Some may have been missed; subscribe again.
        """

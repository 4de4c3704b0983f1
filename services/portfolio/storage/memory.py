"""The ledger in memory: the ports without a database, for tests of what stands on them.

It keeps the promises of the ports, as the contract suites check, in the plainest way: one lock
for all transactions, and lists that are searched from end to end. Nothing outlives the process.
"""

import asyncio
import copy
from collections.abc import AsyncIterator, Collection, Hashable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import TypeVar
from uuid import UUID

from services.portfolio.domain.audit import BookAudit, Difference, TransferAudit
from services.portfolio.domain.audit_valuations import ValuationAudit
from services.portfolio.domain.book import Book, CashEntry, CashKind, State, Strategy
from services.portfolio.domain.capital import RESERVE, AllocationPolicy, Plan
from services.portfolio.domain.executions import COMMISSION
from services.portfolio.domain.money import ZERO, per_share
from services.portfolio.domain.mutation import Mutation
from services.portfolio.domain.order import Fill, FillKind, Mode, Order, OrderEvent, Status
from services.portfolio.domain.position import Position, PositionAdjustment
from services.portfolio.domain.promotion import Decision
from services.portfolio.domain.reconciliation import Acknowledgement, Reconciliation, SymbolRow
from services.portfolio.domain.risk import UNTOUCHED, RiskEvent, Whole
from services.portfolio.domain.valuation import Valuation, ValuationKind
from services.portfolio.domain.weather import Weather
from services.portfolio.live.ports import Intent, OutvotedError
from services.portfolio.ports import (
    BookKey,
    Changes,
    Clock,
    LedgerEvent,
    MarkKey,
    MutationFilter,
    Needs,
    OrderFilter,
    PositionFilter,
    PositionKey,
    PriceMark,
    Snapshot,
    StorageConflictError,
    StoredRequest,
    UnavailableError,
)
from services.portfolio.views import InvestedView, PortfolioView, PositionView

MOST_BEHIND = 1000  # events a slow watcher may lag before it is sent away
NOTHING_COMPARED = Reconciliation(None, (), None, ZERO)

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Errand:
    """What is known of an order's way to the broker."""

    client_id: int | None = None
    broker_order_id: int | None = None
    sent_time: datetime | None = None
    cancel_requested: bool = False


@dataclass(slots=True)
class Tables:
    """What is committed, by the keys that the database has."""

    strategies: dict[str, Strategy] = field(default_factory=dict)
    books: dict[BookKey, Book] = field(default_factory=dict)  # without their positions
    positions: dict[tuple[BookKey, str], Position] = field(default_factory=dict)
    orders: dict[UUID, Order] = field(default_factory=dict)
    fills: dict[tuple[UUID, str], Fill] = field(default_factory=dict)
    cash_entries: dict[tuple[BookKey, int, CashKind], CashEntry] = field(default_factory=dict)
    adjustments: dict[tuple[BookKey, int], PositionAdjustment] = field(default_factory=dict)
    order_events: dict[tuple[UUID, int], OrderEvent] = field(default_factory=dict)
    requests: dict[str, StoredRequest] = field(default_factory=dict)
    marks: dict[tuple[str, str], PriceMark] = field(default_factory=dict)
    errands: dict[UUID, Errand] = field(default_factory=dict)
    last_ids: dict[int, int] = field(default_factory=dict)  # by client id
    acknowledgements: list[Acknowledgement] = field(default_factory=list)
    valuations: dict[tuple[BookKey, int], Valuation] = field(default_factory=dict)
    closed: dict[tuple[BookKey, date | None], int] = field(default_factory=dict)
    risk_events: dict[UUID, RiskEvent] = field(default_factory=dict)
    decisions: dict[UUID, Decision] = field(default_factory=dict)
    plans: dict[UUID, Plan] = field(default_factory=dict)
    mutations: dict[UUID, Mutation] = field(default_factory=dict)
    policy: AllocationPolicy | None = None
    whole: Whole = UNTOUCHED
    weather: Weather | None = None
    compared: Reconciliation = NOTHING_COMPARED

    def copy(self) -> "Tables":
        """The same rows in tables of their own; marks, which no transaction writes, are shared."""
        tables = Tables(*(copy.copy(getattr(self, name)) for name in self.__slots__))
        tables.marks = self.marks
        return tables

    def book(self, key: BookKey) -> Book:
        """A book with its positions."""
        held = {symbol: p for (owner, symbol), p in self.positions.items() if owner == key}
        return replace(self.books[key], positions=held)

    def fills_of(self, order_id: UUID) -> list[Fill]:
        """The fills of an order, oldest first."""
        own = (fill for fill in self.fills.values() if fill.order_id == order_id)
        return sorted(own, key=lambda fill: fill.book_version)

    def is_twin(self, key: BookKey) -> bool:
        """Whether it is the PAPER book of a strategy that is LIVE."""
        return key[1] is Mode.PAPER and self.strategies[key[0]].mode is Mode.LIVE

    def position_view(self, owner: tuple[BookKey, str]) -> PositionView:
        """A position at market: at what the strategy saw last, or traded at since."""
        (name, mode), symbol = owner
        position = self.positions[owner]
        mark = self.marks.get((name, symbol))
        price = position.last_price or per_share(position.cost, position.quantity)
        if mark and mark.time > position.update_time:
            price = mark.price
        return PositionView(
            position.position_id,
            name,
            symbol,
            mode,
            position.quantity,
            position.cost,
            price,
            position.realized_pnl,
            max(position.update_time, mark.time) if mark else position.update_time,
        )

    def last_valuations(self, names: Collection[str]) -> dict[BookKey, Valuation]:
        """The last valuation of each book of these strategies."""
        last: dict[BookKey, Valuation] = {}
        for (key, _), valuation in self.valuations.items():  # each book's in the order of numbers
            if key[0] in names:
                last[key] = valuation
        return last

    def last_decisions(self, names: Collection[str]) -> dict[str, Decision]:
        """The last decision on the mode of each of these strategies."""
        ordered = sorted(self.decisions.items())
        return {each.strategy_name: each for _, each in ordered if each.strategy_name in names}

    def recent_orders(self, strategies: Iterable[Strategy]) -> dict[str, int]:
        """Orders of the last 60 s, of those whose limits ask for it; "" is the whole."""
        names = [s.name for s in strategies if s.limits.max_orders_per_minute is not None]
        of_all = self.whole.limits.max_orders_per_minute is not None
        if not names and not of_all:
            return {}
        since = datetime.now(UTC) - timedelta(seconds=60)
        recent = [
            order.strategy_name
            for order in self.orders.values()
            if order.create_time >= since and order.twin_of is None
        ]
        counted = {name: recent.count(name) for name in names}
        return {**counted, "": len(recent)} if of_all else counted

    def live_shares(self) -> dict[str, Decimal]:
        """Shares by symbol, summed over all LIVE books."""
        shares: dict[str, Decimal] = {}
        for ((_, mode), symbol), position in self.positions.items():
            if mode is Mode.LIVE and position.quantity:
                shares[symbol] = shares.get(symbol, ZERO) + position.quantity
        return shares

    def live_cash(self) -> Decimal:
        """Cash, summed over all LIVE books."""
        return sum((book.cash for book in self.books.values() if book.mode is Mode.LIVE), ZERO)

    def acknowledged(self) -> dict[str, Decimal]:
        """The newest acknowledgement of each symbol."""
        return {fact.symbol: fact.quantity for fact in self.acknowledgements}

    def reconciliation(self) -> Reconciliation:
        """The last comparison as it was kept, with the acknowledgements of now."""
        said = self.acknowledged()
        rows = (replace(r, acknowledged=said.get(r.symbol, ZERO)) for r in self.compared.rows)
        return replace(self.compared, rows=tuple(rows))

    def accounts(self, symbols: Collection[str]) -> dict[str, SymbolRow]:
        """Symbols of the last comparison, with the books and acknowledgements of now."""
        shares = self.live_shares()
        return {
            row.symbol: replace(row, strategies=shares.get(row.symbol, ZERO))
            for row in self.reconciliation().rows
            if row.symbol in symbols
        }

    def held(self, key: BookKey) -> list[PositionView]:
        """The open positions of a book, by symbol."""
        owners = sorted(o for o, p in self.positions.items() if o[0] == key and p.quantity)
        return [self.position_view(owner) for owner in owners]

    def portfolio_view(self, name: str) -> PortfolioView:
        """A strategy's state."""
        strategy = self.strategies[name]
        key = (name, strategy.mode)
        book = self.book(key)
        held = self.held(key)
        times = [strategy.update_time, book.update_time]
        times += [self.marks[name, p.symbol].time for p in held if (name, p.symbol) in self.marks]
        return PortfolioView(
            name,
            strategy.mode,
            strategy.requested_mode,
            State.HALTED if strategy.is_halted else State.ACTIVE,
            book.cash,
            book.reserved_cash,
            sum((p.market_value for p in held), ZERO),
            sum((p.cost for p in held), ZERO),
            sum((p.realized_pnl for p in book.positions.values()), ZERO),
            bool(held),
            sum((self._equity(s) for s in self.strategies.values() if s.name != RESERVE), ZERO),
            max(times),
            self._halt_reason(strategy),
            max((mark.time for (of, _), mark in self.marks.items() if of == name), default=None),
            strategy.session,
            strategy.limits.lease_s,
        )

    def _halt_reason(self, strategy: Strategy) -> str:
        if strategy.state is State.HALTED:
            return strategy.halt_reason
        return self.whole.halt_reason if strategy.portfolio_halted else ""

    def _equity(self, strategy: Strategy) -> Decimal:
        key = (strategy.name, strategy.mode)
        return self.books[key].cash + sum((p.market_value for p in self.held(key)), ZERO)


class MemoryFeed:
    """Tells watchers in this process of every commit."""

    def __init__(self) -> None:
        self._watchers: set[asyncio.Queue[LedgerEvent | None]] = set()

    @asynccontextmanager
    async def subscribe(self) -> AsyncIterator[AsyncIterator[LedgerEvent]]:
        """Commits from the moment the block is entered.

        Raises, from the iterator:
            UnavailableError: The feed was cut or the watcher was too slow: some may be missed.
        """
        events: asyncio.Queue[LedgerEvent | None] = asyncio.Queue()
        self._watchers.add(events)
        try:
            yield _events(events)
        finally:
            self._watchers.discard(events)

    def tell(self, event: LedgerEvent) -> None:
        """Tells everyone; whoever lags too far behind is sent away."""
        for events in list(self._watchers):
            events.put_nowait(event)
            if events.qsize() > MOST_BEHIND:
                self._send_away(events)

    def cut(self) -> None:
        """Ends every watch, as a lost connection does."""
        for events in list(self._watchers):
            self._send_away(events)

    def _send_away(self, events: asyncio.Queue[LedgerEvent | None]) -> None:
        self._watchers.discard(events)
        events.put_nowait(None)


class MemoryLedger:
    """Keeps the truth in memory."""

    def __init__(self) -> None:
        self.feed = MemoryFeed()
        self.tables = Tables()
        self.sender: MemoryBaton | None = None  # who holds the sender's lock
        self._one_at_a_time = asyncio.Lock()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator["MemoryTransaction"]:
        """A transaction that commits when its block ends well."""
        async with self._one_at_a_time:
            transaction = MemoryTransaction(self.tables.copy())
            yield transaction
            self.tables = transaction.tables
        for event in transaction.events:
            self.feed.tell(event)


class MemoryTransaction:
    """One transaction: works on a copy that takes the tables' place in the end."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        self.events: list[LedgerEvent] = []

    async def load(self, needs: Needs) -> Snapshot:
        """Reads what a batch needs; the transaction itself is the lock."""
        tables = self.tables
        orders = {i: tables.orders[i] for i in needs.orders if i in tables.orders}
        owners = {
            p.position_id: owner
            for owner, p in tables.positions.items()
            if p.position_id in needs.positions
        }
        names = {
            *needs.strategies,
            *(tables.strategies if needs.everyone else ()),
            *(order.strategy_name for order in orders.values()),
            *(name for (name, _), _ in owners.values()),
        }
        if needs.open_orders:
            orders |= {
                order_id: order
                for order_id, order in tables.orders.items()
                if order.is_open and order.strategy_name in names
            }
        strategies = {name: tables.strategies[name] for name in names if name in tables.strategies}
        limited = {
            each.name
            for each in strategies.values()
            if each.limits.need_marks or tables.whole.limits.need_marks
        }
        marked = names if needs.valued else limited
        return Snapshot(
            strategies,
            {key: tables.book(key) for key in tables.books if key[0] in names},
            orders,
            owners,
            {i: tables.requests[i] for i in needs.requests if i in tables.requests},
            {i: tables.fills_of(i) for i in needs.fills if i in orders},
            tables.accounts(needs.accounts),
            tables.whole,
            needs.valued,
            {key: mark for key, mark in tables.marks.items() if key[0] in marked},
            tables.last_valuations(names) if needs.valued else {},
            tables.recent_orders(strategies.values()),
            {plan_id: tables.plans[plan_id] for plan_id in needs.plans if plan_id in tables.plans},
            tables.last_decisions(names) if needs.decided else {},
        )

    async def save(self, changes: Changes) -> None:
        """Writes all changes; watchers are told when the block ends."""
        tables = self.tables
        tables.strategies.update(changes.strategies)
        for key, book in changes.books.items():
            tables.books[key] = replace(book, positions={})
        tables.positions.update(changes.positions)
        tables.orders.update(changes.orders)
        for fill in changes.fills:
            _insert(tables.fills, (fill.order_id, fill.execution_id), fill)
        for entry in changes.cash_entries:
            owner = (entry.strategy_name, entry.mode)
            _insert(tables.cash_entries, (owner, entry.book_version, entry.kind), entry)
        for adjustment in changes.adjustments:
            owner = (adjustment.strategy_name, adjustment.mode)
            _insert(tables.adjustments, (owner, adjustment.book_version), adjustment)
        for event in changes.order_events:
            _insert(tables.order_events, (event.order_id, event.book_version), event)
        for order_id in changes.intents:
            _insert(tables.errands, order_id, Errand())
        for order_id in changes.cancel_requests:
            errand = tables.errands.get(order_id, Errand())
            tables.errands[order_id] = replace(errand, cancel_requested=True)
        tables.acknowledgements.extend(changes.acknowledgements)
        for valuation in changes.valuations:
            owner = (valuation.strategy_name, valuation.mode)
            if valuation.kind is ValuationKind.CLOSE:
                _insert(tables.closed, (owner, valuation.session), valuation.number)
            _insert(tables.valuations, (owner, valuation.number), valuation)
        for happened in changes.risk_events:
            _insert(tables.risk_events, happened.event_id, happened)
        for decision in changes.decisions:
            _insert(tables.decisions, decision.decision_id, decision)
        tables.plans.update(changes.plans)
        for mutation in changes.mutations:
            _insert(tables.mutations, mutation.mutation_id, mutation)
        tables.policy = changes.policy or tables.policy
        tables.whole = changes.whole or tables.whole
        names = {*changes.strategies, *(name for name, _ in changes.books)}
        broker = bool(changes.intents or changes.cancel_requests or changes.acknowledgements)
        self.events.append(LedgerEvent(tuple(sorted(names)), tuple(changes.orders), broker))

    async def portfolio(self, strategy_name: str) -> PortfolioView:
        """A strategy's state, with what this transaction has written."""
        return self.tables.portfolio_view(strategy_name)

    async def position(self, position_id: UUID) -> PositionView:
        """A position at market, with what this transaction has written."""
        for owner, position in self.tables.positions.items():
            if position.position_id == position_id and position.quantity:
                return self.tables.position_view(owner)
        raise StorageConflictError(f"position {position_id} was closed in the same transaction")

    async def remember(self, requests: Sequence[StoredRequest]) -> None:
        """Keeps the answers under their request_ids."""
        for request in requests:
            _insert(self.tables.requests, request.request_id, request)


class MemoryReads:
    """Reads what a ledger in memory has committed."""

    def __init__(self, ledger: MemoryLedger) -> None:
        self._ledger = ledger

    async def order(self, order_id: UUID) -> Order | None:
        """One order."""
        return self._ledger.tables.orders.get(order_id)

    async def orders(self, which: OrderFilter, before: UUID | None, limit: int) -> list[Order]:
        """The newest orders older than `before`, newest first."""
        found = [
            order
            for order_id, order in sorted(self._ledger.tables.orders.items(), reverse=True)
            if (before is None or order_id < before)
            and which.strategy_name in (None, order.strategy_name)
            and which.symbol in (None, order.symbol)
            and which.status in (None, order.status)
            and (which.twins or order.twin_of is None)
        ]
        return found[:limit]

    async def orders_by_id(self, order_ids: Collection[UUID]) -> list[Order]:
        """The named orders, oldest first."""
        orders = self._ledger.tables.orders
        return [orders[order_id] for order_id in sorted(set(order_ids)) if order_id in orders]

    async def positions(
        self, which: PositionFilter, after: PositionKey | None, limit: int
    ) -> list[PositionView]:
        """Open positions after a key, by strategy, symbol and mode; without those of twins."""
        tables = self._ledger.tables
        held = [
            view for key in tables.books if not tables.is_twin(key) for view in tables.held(key)
        ]
        found = [
            (place, view)
            for view in held
            if (place := (view.strategy_name, view.symbol, view.mode)) > (after or ("",))
            and which.strategy_name in (None, view.strategy_name)
            and which.symbol in (None, view.symbol)
        ]
        return [view for _, view in sorted(found, key=lambda pair: pair[0])][:limit]

    async def mutations(
        self, which: MutationFilter, before: UUID | None, limit: int
    ) -> list[Mutation]:
        """The newest mutations older than `before`, newest first."""
        found = [
            mutation
            for mutation_id, mutation in sorted(self._ledger.tables.mutations.items(), reverse=True)
            if (before is None or mutation_id < before)
            and which.strategy_name in (None, mutation.strategy_name)
            and which.actor in (None, mutation.actor)
        ]
        return found[:limit]

    async def portfolios(self, names: Collection[str] | None = None) -> list[PortfolioView]:
        """Strategies by name; all of them unless named."""
        tables = self._ledger.tables
        wanted = sorted(set(tables.strategies if names is None else names) - {RESERVE})
        return [tables.portfolio_view(name) for name in wanted if name in tables.strategies]

    async def invested(self, names: Collection[str]) -> dict[str, InvestedView]:
        """What each named strategy holds; unknown names are left out."""
        tables = self._ledger.tables
        found = [tables.strategies[name] for name in names if name in tables.strategies]
        return {
            each.name: InvestedView(
                each.name, each.mode, tuple(p.symbol for p in tables.held((each.name, each.mode)))
            )
            for each in found
        }

    async def mark(
        self, marks: Sequence[PriceMark], today: date | None = None
    ) -> dict[MarkKey, bool]:
        """Keeps prices that strategies saw, unless they begin a session; says which were kept."""
        tables = self._ledger.tables
        outcome: dict[MarkKey, bool] = {}
        for mark in marks:
            strategy = tables.strategies.get(mark.strategy_name)
            if strategy is None:
                continue
            key = (mark.strategy_name, mark.symbol)
            begins = _begins_session(strategy, mark.session, today)
            outcome[mark.strategy_name, mark.session] = not begins
            if not begins and (key not in tables.marks or tables.marks[key].time <= mark.time):
                tables.marks[key] = mark
        names = {mark.strategy_name for mark in marks}
        self._ledger.feed.tell(LedgerEvent(tuple(sorted(names)), ()))
        return outcome

    async def audit(self) -> tuple[int, list[Difference]]:
        """How many books there are, and every figure that the facts do not support."""
        tables = self._ledger.tables
        differences = [found for key in tables.books for found in _audit(tables, key)]
        differences += [found for key in tables.books for found in _audit_curve(tables, key)]
        transfers = TransferAudit()
        for entry in tables.cash_entries.values():
            transfers.take_cash(entry)
        return len(tables.books), [*differences, *transfers.differences()]

    async def ping(self) -> None:
        """Returns at once."""


class MemoryBaton:
    """One process's hand on the sender's lock of a ledger in memory."""

    def __init__(self, ledger: MemoryLedger, clock: Clock) -> None:
        self._ledger = ledger
        self._clock = clock

    async def take(self) -> bool:
        """Takes the lock if it is free, or still ours."""
        self._ledger.sender = self._ledger.sender or self
        return self._ledger.sender is self

    async def drop(self) -> None:
        """Gives the lock back."""
        if self._ledger.sender is self:
            self._ledger.sender = None

    async def first_id(self, client_id: int) -> int:
        """One above the highest order id that was ever assigned to this client id."""
        return self._held().last_ids.get(client_id, 0) + 1

    async def unsent(self) -> Sequence[Intent]:
        """Open intents without a broker_order_id, oldest first."""
        return [intent for intent in self._open_intents() if intent.broker_order_id is None]

    async def sent(self) -> Sequence[Intent]:
        """Intents with a broker_order_id whose orders are PENDING or UNKNOWN, oldest first."""
        return [intent for intent in self._open_intents() if intent.broker_order_id is not None]

    async def assign(self, client_id: int, ids: Mapping[UUID, int]) -> set[UUID]:
        """Commits broker order ids, and the high-water mark with them."""
        if not ids:
            return set()
        async with self._writing() as tables:
            if min(ids.values()) <= tables.last_ids.get(client_id, 0):
                raise OutvotedError(f"Ids from {min(ids.values())} are not above the mark.")
            tables.last_ids[client_id] = max(ids.values())
            free = {
                order_id
                for order_id in ids.keys() & tables.errands.keys()
                if tables.orders[order_id].status is Status.PENDING
                and tables.errands[order_id] == Errand()
            }
            for order_id in free:
                tables.errands[order_id] = Errand(client_id, ids[order_id], self._clock())
            return free

    async def withdraw(self, order_id: UUID) -> bool:
        """Takes an unsent intent back, so that no sender can ever assign it; False: it was sent."""
        async with self._writing() as tables:
            errand = tables.errands.get(order_id)
            if errand is None or errand.broker_order_id is not None:
                return False
            tables.errands[order_id] = replace(errand, cancel_requested=True)
            return True

    async def say(self, weather: Weather) -> None:
        """Keeps the weather and this moment's heartbeat, and tells every replica."""
        async with self._writing(tells=True) as tables:
            account = weather.account or (tables.weather.account if tables.weather else "")
            tables.weather = replace(weather, account=account, heartbeat=self._clock())

    async def keep(self, seen: Reconciliation) -> None:
        """Keeps a comparison, and tells every replica."""
        async with self._writing(tells=True) as tables:
            tables.compared = seen

    async def booked(self) -> Mapping[str, Decimal | None]:
        """Executions of orders that were sent and are booked, by id, with their commission."""
        tables = self._held()
        booked: dict[str, Decimal | None] = {}
        for (order_id, execution_id), fill in tables.fills.items():
            if order_id in tables.errands and tables.errands[order_id].sent_time:
                name = execution_id.partition(COMMISSION)[0]
                known = booked.setdefault(name, None)
                if fill.kind is FillKind.COMMISSION:
                    booked[name] = (known or ZERO) + fill.commission
        return booked

    async def strategies(self) -> tuple[Mapping[str, Decimal], Decimal]:
        """Shares by symbol, and cash, summed over all LIVE books."""
        tables = self._held()
        return tables.live_shares(), tables.live_cash()

    async def acknowledged(self) -> Mapping[str, Decimal]:
        """UNATTRIBUTED shares that operators have acknowledged, by symbol."""
        return self._held().acknowledged()

    def _open_intents(self) -> list[Intent]:
        tables = self._held()
        return [
            Intent(
                tables.orders[order_id],
                errand.client_id,
                errand.broker_order_id,
                errand.sent_time,
                errand.cancel_requested,
            )
            for order_id, errand in sorted(tables.errands.items())
            if tables.orders[order_id].is_open
        ]

    def _held(self) -> Tables:
        """What is committed, for whoever holds the lock."""
        if self._ledger.sender is not self:
            raise OutvotedError("This process does not hold the sender's lock. Take it first.")
        return self._ledger.tables

    @asynccontextmanager
    async def _writing(self, *, tells: bool = False) -> AsyncIterator[Tables]:
        """A transaction of the holder's."""
        async with self._ledger.transaction() as transaction:
            self._held()
            yield transaction.tables
            if tells:
                transaction.events.append(LedgerEvent((), (), broker=True))


class MemoryBrokerReads:
    """Reads what the sender said to a ledger in memory."""

    def __init__(self, ledger: MemoryLedger) -> None:
        self._ledger = ledger

    async def weather(self) -> Weather | None:
        """The sender's last word; None before the first."""
        return self._ledger.tables.weather

    async def reconciliation(self) -> Reconciliation:
        """The last comparison as it was kept, with the acknowledgements of now."""
        return self._ledger.tables.reconciliation()


async def _events(events: asyncio.Queue[LedgerEvent | None]) -> AsyncIterator[LedgerEvent]:
    while (event := await events.get()) is not None:
        yield event
    raise UnavailableError(
        "DATABASE_UNAVAILABLE", "Events may have been missed. Call again to go on watching."
    )


def _insert(table: dict[Key, Value], key: Key, value: Value) -> None:
    """Adds a row that must be new."""
    if key in table:
        raise StorageConflictError(f"{key} is there already")
    table[key] = value


def _begins_session(strategy: Strategy, given: date | None, today: date | None) -> bool:
    """Whether prices are of a later session, or the first whose session the strategy names."""
    session = given or (strategy.session if strategy.session_given else today)
    if session is None or strategy.session is None:
        return session is not None
    is_first_named = given is not None and not strategy.session_given
    return session > strategy.session or is_first_named


def _audit(tables: Tables, key: BookKey) -> list[Difference]:
    """Every figure of one book that its facts do not support."""
    audit = BookAudit(tables.book(key))
    orders = {i: o for i, o in tables.orders.items() if (o.strategy_name, o.mode) == key}
    fills = [fill for fill in tables.fills.values() if fill.order_id in orders]
    for (owner, _, _), entry in tables.cash_entries.items():
        if owner == key:
            audit.take_cash(entry)
    shares: list[Fill | PositionAdjustment] = [
        *fills,
        *(fact for (owner, _), fact in tables.adjustments.items() if owner == key),
    ]
    for fact in sorted(shares, key=lambda fact: fact.book_version):
        if isinstance(fact, PositionAdjustment):
            audit.take_adjustment(fact)
        else:
            order = orders[fact.order_id]
            audit.take_fill(order.symbol, order.side, fact)
    for order in orders.values():
        own = tables.fills_of(order.order_id)
        audit.take_order(
            order,
            sum((fill.quantity for fill in own), ZERO),
            sum((fill.value for fill in own), ZERO),
            sum((fill.commission for fill in own), ZERO),
        )
    return audit.differences()


def _audit_curve(tables: Tables, key: BookKey) -> list[Difference]:
    """Every figure of one book's valuations that the facts do not support."""
    audit = ValuationAudit(*key)
    facts: list[CashEntry | PositionAdjustment | Valuation] = [
        *(fact for (owner, _, _), fact in tables.cash_entries.items() if owner == key),
        *(fact for (owner, _), fact in tables.adjustments.items() if owner == key),
        *(fact for (owner, _), fact in sorted(tables.valuations.items()) if owner == key),
    ]
    # A stable sort: within a version, valuations stay last and by their numbers.
    for fact in sorted(facts, key=lambda fact: fact.book_version):
        if isinstance(fact, CashEntry):
            audit.take_cash(fact)
        elif isinstance(fact, PositionAdjustment):
            audit.take_shares(fact.book_version)
        else:
            audit.take_valuation(fact)
    return audit.differences()

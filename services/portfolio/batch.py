"""A batch: what its commands see and have decided so far, before anything is written.

A command reads from the batch, decides, and records; a command that raises has recorded nothing.
Later commands of the batch see what earlier ones recorded.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from services.portfolio.caller import ANONYMOUS, Caller
from services.portfolio.domain.book import Book, CashEntry, Strategy, mode_to_be, new_book
from services.portfolio.domain.capital import RESERVE, AllocationPolicy, Plan
from services.portfolio.domain.errors import (
    NotAllowedError,
    NotAStrategyError,
    OrderNotFoundError,
    PlanNotFoundError,
    PositionNotFoundError,
    StrategyNotFoundError,
)
from services.portfolio.domain.invariants import check_move
from services.portfolio.domain.ledger import Booking
from services.portfolio.domain.money import LARGEST, ZERO, market_value, per_share
from services.portfolio.domain.order import Fill, Mode, Order
from services.portfolio.domain.position import Position, PositionAdjustment
from services.portfolio.domain.promotion import Decision
from services.portfolio.domain.reconciliation import Acknowledgement, SymbolRow
from services.portfolio.domain.risk import RiskEvent, RiskEventKind, Whole
from services.portfolio.domain.valuation import Valuation, ValuationKind, next_valuation
from services.portfolio.ports import (
    BookKey,
    Broker,
    Changes,
    NewId,
    PriceMark,
    Snapshot,
    StorageConflictError,
    UnavailableError,
)


@dataclass(frozen=True, slots=True)
class Desk:
    """What a command is given from outside; all of a batch the same, but for who calls."""

    brokers: Mapping[Mode, Broker]
    new_id: NewId
    now: datetime
    trading_mode: Mode = Mode.PAPER
    caller: Caller = ANONYMOUS
    promote_at_once: bool = False  # AUTO counts as promoted

    @property
    def actor(self) -> str:
        """Who the facts say it was."""
        return self.caller.actor

    def require_trader(self, strategy_name: str) -> None:
        """Checks that the caller may trade as this strategy, whose order it has named by its id.

        Raises:
            NotAllowedError: It is another strategy, or a reader.
        """
        caller = self.caller
        if not caller.may_trade_as(strategy_name):
            raise NotAllowedError(
                caller.actor, f"change an order of {strategy_name}", caller.rights
            )

    def mode_to_be(self, strategy: Strategy) -> Mode:
        """The mode that a strategy is to have."""
        promoted = strategy.promoted or self.promote_at_once
        return mode_to_be(strategy.requested_mode, self.trading_mode, promoted=promoted)

    def broker(self, mode: Mode) -> Broker:
        """Who executes the orders of books in this mode.

        Raises:
            UnavailableError: Nobody does: a book is LIVE still, and TRADING_MODE is PAPER.
        """
        broker = self.brokers.get(mode)
        if broker is None:
            raise UnavailableError(
                "BROKER_UNAVAILABLE",
                f"This strategy's book is {mode}, and the routers run with "
                f"TRADING_MODE={self.trading_mode}. Nothing was written. Start them with "
                f"TRADING_MODE={mode}, then repeat the call with the same request_id.",
            )
        return broker


class Batch:
    """The working state of one transaction."""

    def __init__(self, snapshot: Snapshot, desk: Desk, *, check_invariants: bool = False) -> None:
        self.desk = desk
        self.changes = Changes()
        self.touched: list[str] = []  # whose each recorded change is; "" is the whole's
        self._snapshot = snapshot
        self._check_invariants = check_invariants

    def find_strategy(self, name: str) -> Strategy | None:
        """The strategy, if there is one of this name."""
        return self.changes.strategies.get(name) or self._snapshot.strategies.get(name)

    def strategy(self, name: str) -> Strategy:
        """The strategy.

        Raises:
            StrategyNotFoundError: There is none of this name.
            NotAStrategyError: It is the reserve.
        """
        if name == RESERVE:
            raise NotAStrategyError(name)
        strategy = self.find_strategy(name)
        if strategy is None:
            raise StrategyNotFoundError(name)
        return strategy

    @property
    def whole(self) -> Whole:
        """The portfolio as one; its state needs `everyone`, or a strategy that there is not."""
        return self.changes.whole or self._snapshot.whole

    def strategies(self) -> list[Strategy]:
        """Every strategy that this batch holds still, by name, the reserve left out."""
        known = {**self._snapshot.strategies, **self.changes.strategies}
        return [known[name] for name in sorted(known) if name != RESERVE]

    def plan(self, plan_id: UUID) -> Plan:
        """The plan.

        Raises:
            PlanNotFoundError: There is none with this id.
        """
        plan = self.changes.plans.get(plan_id) or self._snapshot.plans.get(plan_id)
        if plan is None:
            raise PlanNotFoundError(str(plan_id))
        return plan

    def book(self, key: BookKey) -> Book:
        """The book of a strategy that exists."""
        return self.changes.books.get(key) or self._snapshot.books[key]

    def find_book(self, key: BookKey) -> Book | None:
        """The book, if the strategy has one in this mode."""
        return self.changes.books.get(key) or self._snapshot.books.get(key)

    def books(self, strategy_name: str) -> list[Book]:
        """All books of a strategy, PAPER and LIVE."""
        found = (self.find_book((strategy_name, mode)) for mode in Mode)
        return [book for book in found if book is not None]

    def order(self, order_id: UUID) -> Order:
        """The order.

        Raises:
            OrderNotFoundError: There is none with this id.
        """
        order = self.changes.orders.get(order_id) or self._snapshot.orders.get(order_id)
        if order is None:
            raise OrderNotFoundError(str(order_id))
        return order

    def open_orders(self) -> Mapping[BookKey, Sequence[Order]]:
        """The open orders of each book, oldest first. Needs `open_orders`."""
        known = {**self._snapshot.orders, **self.changes.orders}
        found: dict[BookKey, list[Order]] = {}
        for order_id in sorted(known):
            order = known[order_id]
            if order.is_open:
                found.setdefault((order.strategy_name, order.mode), []).append(order)
        return found

    def recent_orders(self, name: str) -> int:
        """Orders accepted within 60 s, of a strategy with a limit on them; "" is the whole.

        Raises:
            StorageConflictError: The limit was set by an earlier command of the batch; alone, each
                sees what it needs.
        """
        if name not in self._snapshot.recent_orders:
            raise StorageConflictError("a limit was set in the same batch")
        accepted = (
            order
            for order_id, order in self.changes.orders.items()
            if order_id not in self._snapshot.orders and order.twin_of is None
        )
        return self._snapshot.recent_orders[name] + sum(
            name in ("", order.strategy_name) for order in accepted
        )

    def fills(self, order_id: UUID) -> Sequence[Fill]:
        """The fills of an order whose fills were asked for, oldest first."""
        recorded = (fill for fill in self.changes.fills if fill.order_id == order_id)
        return (*self._snapshot.fills.get(order_id, ()), *recorded)

    def account(self, symbol: str) -> SymbolRow:
        """The symbol in the broker's account as last compared, with the strategies' shares of now.

        All 0 when there is nothing to compare.
        """
        row = self._snapshot.accounts.get(symbol) or SymbolRow(symbol, ZERO, ZERO, ZERO)
        moved = ZERO  # by earlier commands of the batch
        for key, book in self.changes.books.items():
            if book.mode is Mode.LIVE:
                moved += _shares(book, symbol) - _shares(self._snapshot.books.get(key), symbol)
        said = [a.quantity for a in self.changes.acknowledgements if a.symbol == symbol]
        return replace(
            row,
            strategies=row.strategies + moved,
            acknowledged=said[-1] if said else row.acknowledged,
        )

    def open_position(self, position_id: UUID) -> tuple[Book, Position]:
        """A position that holds shares, and its book.

        Raises:
            PositionNotFoundError: There is none with this id, or it is flat.
        """
        owner = self._snapshot.positions.get(position_id)
        if owner is None:
            raise PositionNotFoundError(str(position_id))
        key, symbol = owner
        book = self.book(key)
        position = book.positions[symbol]
        if not position.quantity:
            raise PositionNotFoundError(str(position_id))
        return book, position

    def last_decision(self, name: str) -> Decision | None:
        """The last decision on a strategy's mode, recorded ones included. Needs `decided`."""
        for decision in reversed(self.changes.decisions):
            if decision.strategy_name == name:
                return decision
        return self._snapshot.decisions.get(name)

    def record_strategy(self, strategy: Strategy) -> None:
        """Keeps a strategy as it is now."""
        self.touched.append(strategy.name)
        self.changes.strategies[strategy.name] = strategy

    def record_booking(self, booking: Booking) -> None:
        """Keeps what one move did to a book and an order."""
        fills = [] if booking.fill is None else [booking.fill]
        self.changes.orders[booking.order.order_id] = booking.order
        self.changes.fills.extend(fills)
        if booking.event is not None:
            self.changes.order_events.append(booking.event)
        self._record_book(booking.book, booking.cash_entries, symbol=booking.order.symbol)

    def record_intent(self, order: Order) -> None:
        """Has the broker sent a LIVE order, once it is committed."""
        self.touched.append(order.strategy_name)
        self.changes.intents.append(order.order_id)

    def record_cancel_request(self, order: Order) -> None:
        """Has the broker asked to cancel a LIVE order."""
        self.touched.append(order.strategy_name)
        self.changes.cancel_requests.append(order.order_id)

    def record_acknowledgement(self, acknowledgement: Acknowledgement) -> None:
        """Keeps what an operator said of shares that no strategy has."""
        self.touched.append("")
        self.changes.acknowledgements.append(acknowledgement)

    def record_decision(self, decision: Decision) -> None:
        """Keeps what was decided on a strategy's mode."""
        self.touched.append(decision.strategy_name)
        self.changes.decisions.append(decision)

    def record_whole(self, whole: Whole) -> None:
        """Keeps the portfolio as one as it is now."""
        self.touched.append("")
        self.changes.whole = whole

    def record_policy(self, policy: AllocationPolicy) -> None:
        """Keeps the policy of the allocation."""
        self.touched.append("")
        self.changes.policy = policy

    def record_plan(self, plan: Plan) -> None:
        """Keeps a plan as it is now."""
        self.touched.append("")
        self.changes.plans[plan.plan_id] = plan

    def record_cash(self, book: Book, entries: tuple[CashEntry, ...]) -> None:
        """Keeps a book whose cash was set, and values it before that."""
        self._record_flow(book)
        self._record_book(book, entries)

    def record_adjustments(self, book: Book, adjustments: tuple[PositionAdjustment, ...]) -> None:
        """Keeps a book one of whose positions was set, and values it before that."""
        self._record_flow(book)
        self.changes.adjustments.extend(adjustments)
        for adjustment in adjustments:
            self._record_book(book, (), symbol=adjustment.symbol, adjustment=adjustment)

    def record_risk(
        self, strategy_name: str, kind: RiskEventKind, reason: str, actor: str = ""
    ) -> None:
        """Keeps what risk control did; without a name it is of the whole."""
        desk = self.desk
        self.touched.append(strategy_name)
        self.changes.risk_events.append(
            RiskEvent(desk.new_id(), strategy_name, kind, reason, actor or desk.actor, desk.now)
        )

    def mark(self, strategy_name: str, symbol: str) -> PriceMark | None:
        """The last price that the strategy reported. Needs `valued`, or limits that ask for it."""
        return self._snapshot.marks.get((strategy_name, symbol))

    def seen_time(self, strategy_name: str) -> datetime | None:
        """When the strategy last reported any price. Needs `valued`."""
        marks = self._snapshot.marks.items()
        return max((mark.time for (name, _), mark in marks if name == strategy_name), default=None)

    def last_price(self, book: Book, symbol: str) -> Decimal:
        """What the strategy saw last of a symbol, or traded at since, in USD; 0 before either."""
        mark = self.mark(book.strategy_name, symbol)
        position = book.positions.get(symbol)
        if mark is not None and (position is None or mark.time > position.update_time):
            return mark.price
        return position.last_price if position else ZERO

    def market_price(self, book: Book, position: Position) -> Decimal:
        """What a share that is held is worth, in USD: its last price, else what it cost."""
        last = self.last_price(book, position.symbol)
        return last or per_share(position.cost, position.quantity)

    def positions_value(self, book: Book) -> Decimal:
        """The market value of all positions, in USD. Needs `valued`.

        At most what a valuation can hold: an absurd price must not keep its book from ever being
        valued again, and with it everything from being resumed.
        """
        held = (position for position in book.positions.values() if position.quantity)
        values = (market_value(p.quantity, self.market_price(book, p)) for p in held)
        return min(sum(values, ZERO), LARGEST)

    def last_valuation(self, key: BookKey) -> Valuation | None:
        """The last valuation of a book, recorded ones included. Needs `valued`."""
        for valuation in reversed(self.changes.valuations):
            if (valuation.strategy_name, valuation.mode) == key:
                return valuation
        return self._snapshot.valuations.get(key)

    def record_valuation(self, book: Book, kind: ValuationKind, flow: Decimal = ZERO) -> None:
        """Values a book as it is before a flow, or at the end of its strategy's session."""
        key = (book.strategy_name, book.mode)
        strategy = self.find_strategy(book.strategy_name)
        self.touched.append(book.strategy_name)
        self.changes.valuations.append(
            next_valuation(
                self.last_valuation(key),
                book,
                self.positions_value(book),
                strategy.session if strategy else None,
                kind,
                flow,
                self.desk.now,
            )
        )

    def _record_flow(self, after: Book) -> None:
        """Values a book before money or shares come from outside or leave."""
        assert self._snapshot.valued, "needs() must ask for `valued`"  # noqa: S101 - a fault of ours
        key = (after.strategy_name, after.mode)
        before = self.find_book(key) or new_book(*key, self.desk.now)
        # Of cash and of shares apart, as a sum of both may have more digits than are exact.
        flow = after.cash - before.cash
        flow += self.positions_value(after) - self.positions_value(before)
        if flow:
            self.record_valuation(before, ValuationKind.FLOW, flow)

    def _record_book(
        self,
        book: Book,
        entries: tuple[CashEntry, ...],
        *,
        symbol: str | None = None,
        adjustment: PositionAdjustment | None = None,
    ) -> None:
        key = (book.strategy_name, book.mode)
        if self._check_invariants:
            before = self.changes.books.get(key) or self._snapshot.books.get(key)
            check_move(before, book, entries, adjustment)
        self.touched.append(book.strategy_name)
        self.changes.books[key] = book
        self.changes.cash_entries.extend(entries)
        if symbol is not None and symbol in book.positions:
            self.changes.positions[key, symbol] = book.positions[symbol]


def _shares(book: Book | None, symbol: str) -> Decimal:
    position = book.positions.get(symbol) if book else None
    return position.quantity if position else ZERO

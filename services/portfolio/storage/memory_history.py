"""The equity history of a ledger in memory, in the plainest way."""

from collections.abc import Iterable, Sequence
from datetime import date, datetime
from decimal import Decimal

from services.portfolio.domain.capital import RESERVE
from services.portfolio.domain.money import ZERO
from services.portfolio.domain.order import Mode, Side
from services.portfolio.domain.valuation import Valuation, ValuationKind, growth_of
from services.portfolio.history.ports import Close, Reality, Trades
from services.portfolio.ports import BookKey
from services.portfolio.storage.memory import MemoryLedger


class MemoryHistory:
    """Reads the equity history of a ledger in memory."""

    def __init__(self, ledger: MemoryLedger) -> None:
        self._ledger = ledger

    async def strategy(self, name: str) -> tuple[Mode, datetime | None] | None:
        """A strategy's mode in force, and when it last went LIVE; None: there is no such one."""
        found = self._ledger.tables.strategies.get(name)
        return (found.mode, found.live_since) if found and name != RESERVE else None

    async def closes(self, book: BookKey, before: date | None, limit: int | None) -> list[Close]:
        """The newest closes of a book before a session, newest first."""
        return _newest(_curve(self._valuations(book)), before, limit)

    async def closes_of_all(
        self, mode: Mode | None, before: date | None, limit: int | None
    ) -> list[Close]:
        """The newest closes of the whole, newest first."""
        curves = {
            book: {close.session: close for close in _curve(self._valuations(book))}
            for book in self._books(mode)
        }
        sessions = sorted({session for curve in curves.values() for session in curve})
        last: dict[BookKey, Close] = {}
        whole: list[Close] = []
        growth = highest = 1.0
        for session in sessions:
            closing = {book: curve[session] for book, curve in curves.items() if session in curve}
            bases = {book: one.equity for book, one in last.items()}
            for book, close in closing.items():
                bases[book] = bases.get(book, ZERO) + close.flow
            base = float(sum(bases.values(), ZERO))
            gain = sum(float(bases[book]) * one.daily_return for book, one in closing.items())
            growth_before = growth
            growth *= max(1 + gain / base, 0.0) if base > 0 else 1.0
            highest = max(highest, growth)
            last |= closing
            whole.append(
                Close(
                    session,
                    sum((one.cash for one in last.values()), ZERO),
                    sum((one.positions_value for one in last.values()), ZERO),
                    sum((one.flow for one in closing.values()), ZERO),
                    growth,
                    growth_before,
                    highest,
                )
            )
        return _newest(whole, before, limit)

    async def trades(self, strategy_name: str | None, mode: Mode | None) -> Trades:
        """What was traded, by one strategy or by all, in this mode or in those in force."""
        books = {book for book in self._books(mode) if strategy_name in (None, book[0])}
        orders = [
            order
            for order in self._ledger.tables.orders.values()
            if (order.strategy_name, order.mode) in books
        ]
        slipped = (
            (o.filled_value - o.filled_quantity * o.price) * (1 if o.side is Side.BUY else -1)
            for o in orders
        )
        return Trades(
            sum((order.filled_value for order in orders), ZERO),
            sum(order.filled_quantity > 0 for order in orders),
            sum((order.commission for order in orders), ZERO),
            sum(slipped, ZERO),
        )

    async def reality(self, strategy_name: str, since: datetime) -> Reality:
        """What both books of a strategy have returned since a moment when both were flat."""
        live, paper = (
            {close.session: close.growth for close in self._valuations((strategy_name, mode))
             if close.kind is ValuationKind.CLOSE and close.time > since}
            for mode in (Mode.LIVE, Mode.PAPER)
        )  # fmt: skip
        both = sorted(live.keys() & paper.keys(), key=str)
        if not both:
            return Reality(since, 0, 0.0, 0.0)
        return Reality(
            since,
            len(both),
            self._return((strategy_name, Mode.LIVE), since, live[both[-1]]),
            self._return((strategy_name, Mode.PAPER), since, paper[both[-1]]),
        )

    def _return(self, book: BookKey, since: datetime, growth: Decimal) -> float:
        """The return of a book that was flat then, until it had this growth."""
        entries = self._ledger.tables.cash_entries
        cash = (e.amount for (own, _, _), e in entries.items() if own == book and e.time <= since)
        earlier = [one for one in self._valuations(book) if one.time <= since]
        before = growth_of(earlier[-1] if earlier else None, sum(cash, ZERO))
        return float(growth / before - 1) if before > ZERO else 0.0

    def _books(self, mode: Mode | None) -> list[BookKey]:
        """The books in this mode, or those in force."""
        tables = self._ledger.tables
        keys = [(name, mode or one.mode) for name, one in tables.strategies.items()]
        return [key for key in keys if key in tables.books and key[0] != RESERVE]

    def _valuations(self, book: BookKey) -> list[Valuation]:
        every = self._ledger.tables.valuations
        return [every[key] for key in sorted(every) if key[0] == book]


def _curve(valuations: Iterable[Valuation]) -> list[Close]:
    """The closes of one book, oldest first."""
    closes: list[Close] = []
    flow, growth, highest = ZERO, 1.0, 1.0
    for one in valuations:
        flow += one.flow + (one.equity if one.number == 1 else ZERO)
        if one.session is None or one.kind is not ValuationKind.CLOSE:
            continue
        before, growth = growth, float(one.growth)
        highest = max(highest, growth)
        closes.append(
            Close(one.session, one.cash, one.positions_value, flow, growth, before, highest)
        )
        flow = ZERO
    return closes


def _newest(closes: Sequence[Close], before: date | None, limit: int | None) -> list[Close]:
    """Those before a session, newest first."""
    return [one for one in reversed(closes) if before is None or one.session < before][:limit]

"""Modes: whether the mode that a strategy is to have can be put in force, and the record of it.

A mode changes only while the strategy holds nothing and has no open order, so that no position is
ever in a book which nobody trades.
"""

from dataclasses import dataclass, replace

from services.portfolio.batch import Batch, Desk
from services.portfolio.domain import ledger
from services.portfolio.domain.book import Book, CashEntry, RequestedMode, Strategy
from services.portfolio.domain.ledger import Booking
from services.portfolio.domain.money import ZERO, plain, plain_quantity
from services.portfolio.domain.order import Mode
from services.portfolio.domain.promotion import (
    DEMOTION,
    PROMOTION,
    REQUEST,
    TRADING_MODE,
    Decision,
    Evidence,
    Outcome,
    Verdict,
)
from services.portfolio.ports import BookKey
from services.portfolio.promotion import twin

FLAT = "flat"


@dataclass(frozen=True, slots=True)
class Settled:
    """What is to be recorded of a strategy's mode, or None as decision when nothing was decided."""

    strategy: Strategy
    book: Book  # in force from now on
    opening: tuple[CashEntry, ...]  # of that book, when it is new
    sales: tuple[Booking, ...]  # of what the twin had left
    decision: Decision | None

    def record(self, batch: Batch) -> None:
        """Records all of it."""
        if self.strategy != batch.find_strategy(self.strategy.name):
            batch.record_strategy(self.strategy)
        for sale in self.sales:
            batch.record_booking(sale)
        if self.opening:
            batch.record_cash(self.book, self.opening)
        if self.decision is not None:
            batch.record_decision(self.decision)


def settled(batch: Batch, wanted: Strategy, verdict: Verdict | None = None) -> Settled:
    """The mode of a strategy as it is wanted, in force if it can be; nothing is recorded yet.

    Without a `verdict` only a change is decided, or once that it has to wait. Needs `valued` and
    `decided`.
    """
    to_mode = batch.desk.mode_to_be(wanted)
    book = batch.book((wanted.name, wanted.mode))
    if to_mode is wanted.mode:
        stays = None
        if verdict is not None:
            stays = _decision(batch, wanted, to_mode, Outcome.STAYS, verdict)
        return Settled(wanted, book, (), (), stays)
    why = verdict or _verdict_before(batch, wanted, to_mode)
    sales = _sales_of_twin(batch, wanted) if to_mode is Mode.PAPER else []
    is_open = _what_is_open(book) or ("" if sales is not None else "its paper twin holds shares")
    flat = Evidence(FLAT, is_open or "yes", "yes", holds=not is_open)
    why = replace(why, evidence=(*why.evidence, flat))
    if is_open or sales is None:
        told = verdict is None and _waiting(batch, wanted, to_mode) is not None
        waits = None if told else _decision(batch, wanted, to_mode, Outcome.WAITS_UNTIL_FLAT, why)
        return Settled(wanted, book, (), (), waits)
    changed = _decision(batch, wanted, to_mode, Outcome.CHANGED, why)
    return _in_force(batch, wanted, to_mode, sales, changed)


def asked_for(desk: Desk, wanted: Strategy) -> Verdict:
    """The verdict of an owner who has just changed the requested mode."""
    reason = f"Its owner asks for {wanted.requested_mode}."
    return Verdict(REQUEST, wanted.promoted, reason, what_is_asked(desk, wanted))


def book_or_new(batch: Batch, key: BookKey) -> tuple[Book, tuple[CashEntry, ...]]:
    """The book, or a new one without cash and the entry that opens it."""
    book = batch.find_book(key)
    if book is not None:
        return book, ()
    return ledger.open_book(*key, ZERO, "", batch.desk.now, batch.desk.actor)


def _in_force(
    batch: Batch, wanted: Strategy, to_mode: Mode, sales: list[Booking], decision: Decision
) -> Settled:
    now = batch.desk.now
    since = now if to_mode is Mode.LIVE else wanted.live_since
    strategy = replace(wanted, mode=to_mode, live_since=since, update_time=now)
    book, opening = book_or_new(batch, (wanted.name, to_mode))
    return Settled(strategy, sales[-1].book if sales else book, opening, tuple(sales), decision)


def _decision(
    batch: Batch, strategy: Strategy, to_mode: Mode, outcome: Outcome, verdict: Verdict
) -> Decision:
    return Decision(
        batch.desk.new_id(),
        strategy.name,
        batch.desk.now,
        verdict.rule,
        strategy.requested_mode,
        strategy.mode,
        to_mode,
        outcome,
        verdict.reason,
        verdict.evidence,
    )


def _waiting(batch: Batch, strategy: Strategy, to_mode: Mode) -> Decision | None:
    """The decision that this mode waits for the strategy to be flat, if that was the last one."""
    last = batch.last_decision(strategy.name)
    if last is None or last.outcome is not Outcome.WAITS_UNTIL_FLAT or last.to_mode is not to_mode:
        return None
    return last


def _verdict_before(batch: Batch, wanted: Strategy, to_mode: Mode) -> Verdict:
    """Why the mode is to change: what was decided before, else what is asked for and set."""
    waiting = _waiting(batch, wanted, to_mode)
    if waiting is not None:
        asked = tuple(each for each in waiting.evidence if each.figure != FLAT)
        return Verdict(waiting.rule, wanted.promoted, waiting.reason, asked)
    wish = wanted.requested_mode
    if wish is not RequestedMode.PAPER and batch.desk.trading_mode is Mode.PAPER:
        rule, reason = TRADING_MODE, "Nothing is LIVE under TRADING_MODE=PAPER."
    elif wish is not RequestedMode.AUTO:
        rule, reason = REQUEST, f"Its owner asks for {wish}."
    elif to_mode is Mode.LIVE:
        at_once = batch.desk.promote_at_once
        rule, reason = PROMOTION, "PROMOTION=at_once." if at_once else "It is promoted."
    else:
        rule, reason = DEMOTION, "It is not promoted."
    return Verdict(rule, wanted.promoted, reason, what_is_asked(batch.desk, wanted))


def what_is_asked(desk: Desk, strategy: Strategy) -> tuple[Evidence, ...]:
    """What its owner asks for and what is set: a strategy is to be LIVE where all of it holds."""
    told = strategy.requested_mode.value
    if strategy.requested_mode is RequestedMode.AUTO:
        promoted = "promoted" if strategy.promoted else "not promoted"
        told = "AUTO, PROMOTION=at_once" if desk.promote_at_once else f"AUTO, {promoted}"
    would = replace(desk, trading_mode=Mode.LIVE).mode_to_be(strategy)
    return (
        Evidence("requested_mode", told, "LIVE, or AUTO and promoted", would is Mode.LIVE),
        Evidence("TRADING_MODE", desk.trading_mode.value, "LIVE", desk.trading_mode is Mode.LIVE),
    )


def _sales_of_twin(batch: Batch, strategy: Strategy) -> list[Booking] | None:
    """What leaves the PAPER book flat; None when that cannot be.

    The twin has sold with LIVE, unless the broker's side differed: an order that it refused, or
    cut short. Waiting for a flat twin might never end, as nobody trades it by itself.
    """
    book = batch.find_book((strategy.name, Mode.PAPER))
    if book is None or book.is_flat:
        return []
    sales = twin.sales_of_all(batch, book)
    return sales if sales and sales[-1].book.is_flat else None


def _what_is_open(book: Book) -> str:
    """What keeps a book from being flat; empty when it is."""
    held = [p for p in book.positions.values() if p.quantity or p.reserved_quantity]
    open_parts = [f"{plain_quantity(p.quantity)} {p.symbol} held" for p in held]
    if book.reserved_cash:
        open_parts.append(f"{plain(book.reserved_cash)} USD reserved for open orders")
    return ", ".join(open_parts)

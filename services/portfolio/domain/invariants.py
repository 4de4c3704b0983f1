"""What must hold after every move. The tests switch it on; it costs a router nothing else.

A breach is a fault of ours, never of a caller, so it is an AssertionError.
"""

from collections.abc import Sequence

from services.portfolio.domain.book import Book, CashEntry
from services.portfolio.domain.money import ZERO
from services.portfolio.domain.order import Mode
from services.portfolio.domain.position import PositionAdjustment


def check_move(
    before: Book | None,
    after: Book,
    entries: tuple[CashEntry, ...],
    adjustment: PositionAdjustment | None,
) -> None:
    """Checks a book after a move against the book before it and the facts of the move."""
    check_book(after)
    cash_before = before.cash if before else ZERO
    moved = sum((entry.amount for entry in entries), ZERO)
    _require(after.cash - cash_before == moved, "cash moved by other than its entries", after)
    # Cash and what the shares cost, less what was realised, changes only by what came from
    # outside: a trade turns one into the other and loses nothing.
    outside = ("DEPOSIT", "ADJUSTMENT", "TRANSFER")
    from_outside = sum((entry.amount for entry in entries if entry.kind in outside), ZERO)
    from_outside += adjustment.cost_delta if adjustment else ZERO
    capital_before = before.capital if before else ZERO
    _require(after.capital - capital_before == from_outside, "capital came from nowhere", after)
    _require(
        before is None or after.version > before.version or after == before,
        "changed without a new version",
        after,
    )


def check_transfers(entries: Sequence[CashEntry]) -> None:
    """Checks that what one command moved between books sums to zero."""
    moved = sum((entry.amount for entry in entries), ZERO)
    _require(not moved, f"transfers sum to {moved}", entries)


def check_book(book: Book) -> None:
    """Checks one book by itself."""
    _require(book.reserved_cash >= 0, "negative reservation", book)
    if book.mode is Mode.PAPER:
        _require(book.cash >= book.reserved_cash, "cash does not cover what is reserved", book)
    for position in book.positions.values():
        _require(
            0 <= position.reserved_quantity <= position.quantity,
            "reserved shares that are not held",
            position,
        )
        _require(position.cost >= 0, "negative cost", position)
        _require(bool(position.quantity) or not position.cost, "cost without shares", position)


def _require(holds: bool, breach: str, where: object) -> None:
    if not holds:
        raise AssertionError(f"{breach}: {where}")

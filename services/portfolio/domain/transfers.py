"""Transfers: how cash goes from book to book, through the reserve, until each has its target.

A transfer forces no trade: what a book has unreserved goes at once, and the rest, its due, once the
book is flat or has all of it in cash. What is on its way to others never takes the reserve below
its own target. Every amount is in whole cents, and the amounts of one step sum to zero.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_DOWN, Decimal

from services.portfolio.domain.book import Book
from services.portfolio.domain.capital import RESERVE
from services.portfolio.domain.money import EXACT, ZERO

CENT = Decimal("0.01")


@dataclass(frozen=True, slots=True)
class Purse:
    """What a book has and owes, in USD."""

    strategy_name: str
    equity: Decimal  # at market; not looked at where only dues are settled
    spare: Decimal  # cash that no open order has reserved; below 0: it owes the broker
    due: Decimal = ZERO  # as in Book
    is_flat: bool = True


@dataclass(frozen=True, slots=True)
class Move:
    """What a book gets (above 0) or gives (below 0): at once, and later; in USD."""

    now: Decimal
    later: Decimal


def purse_of(book: Book, equity: Decimal) -> Purse:
    """What a book has and owes. Its equity is at market."""
    return Purse(book.strategy_name, equity, book.cash - book.reserved_cash, book.due, book.is_flat)


def targets_of(
    weights: Mapping[str, Decimal], capital: Decimal, cash_floor: Decimal
) -> dict[str, Decimal]:
    """What each shall have, in whole cents: its weight of the capital, rounded down.

    The cash floor, a share of the capital, stays free whatever the weights add up to.
    """
    targets = {
        name: cents_below(EXACT.multiply(max(weight, ZERO), capital))
        for name, weight in weights.items()
    }
    left = cents_below(capital - EXACT.multiply(cash_floor, capital))
    return _trimmed(targets, sum(targets.values(), ZERO) - left)


def scaled(
    targets: Mapping[str, Decimal], capital_then: Decimal, capital_now: Decimal
) -> dict[str, Decimal]:
    """The same shares of another capital; the very same targets of the same capital."""
    if capital_now == capital_then:
        return dict(targets)
    return {
        name: cents_below(EXACT.divide(EXACT.multiply(target, capital_now), capital_then))
        for name, target in targets.items()
    }


def transfers(
    targets: Mapping[str, Decimal], purses: Sequence[Purse], reserve: Purse
) -> dict[str, Move]:
    """The moves that bring each purse to its target; what was due before counts no more.

    Who has no target keeps what it has. The reserve's target is what the others leave of all.
    """
    purses = [purse for purse in purses if purse.strategy_name in targets]
    excess = {p.strategy_name: p.equity - targets[p.strategy_name] for p in purses}
    gives = {name: cents_below(much) for name, much in excess.items() if much >= CENT}
    wants = {name: cents_below(-much) for name, much in excess.items() if much <= -CENT}
    kept = _cents_above(max(reserve.spare + sum(excess.values(), ZERO), ZERO))
    budget = reserve.spare + sum(gives.values(), ZERO) - kept
    wants = _trimmed(wants, sum(wants.values(), ZERO) - max(budget, ZERO))
    spares = {purse.strategy_name: max(purse.spare, ZERO) for purse in purses}
    given = {name: min(much, cents_below(spares[name])) for name, much in gives.items()}
    available = reserve.spare + sum(given.values(), ZERO) - kept
    paid = _shared(available, wants)
    moves = {name: Move(-given[name], given[name] - much) for name, much in gives.items()}
    moves |= {name: Move(paid[name], much - paid[name]) for name, much in wants.items()}
    return _through_the_reserve(moves)


def settlement(purses: Sequence[Purse], reserve: Purse) -> dict[str, Move]:
    """The moves that dues allow now; empty when there is nothing to do.

    `later` is the due that is left. Who is flat with less cash than it owes owes nothing more: it
    has lost the rest. What is missing then stays due to those who were to get it.
    """
    moves: dict[str, Move] = {}
    for purse in purses:
        owed = -purse.due
        if owed > 0 and (purse.is_flat or purse.spare >= owed):
            moves[purse.strategy_name] = Move(-min(owed, cents_below(max(purse.spare, ZERO))), ZERO)
    came = -sum((move.now for move in moves.values()), ZERO)
    wants = {p.strategy_name: p.due for p in purses if p.due > 0}
    available = min(came - reserve.due, reserve.spare + came)
    paid = {name: amount for name, amount in _shared(available, wants).items() if amount}
    moves |= {name: Move(amount, wants[name] - amount) for name, amount in paid.items()}
    if not moves:
        return {}
    into = -sum((move.now for move in moves.values()), ZERO)
    return {**moves, RESERVE: Move(into, reserve.due - into)}


def cents_below(amount: Decimal) -> Decimal:
    """The amount in whole cents, towards 0."""
    return amount.quantize(CENT, ROUND_DOWN, EXACT)


def _cents_above(amount: Decimal) -> Decimal:
    return amount.quantize(CENT, ROUND_CEILING, EXACT)


def _through_the_reserve(moves: dict[str, Move]) -> dict[str, Move]:
    """The moves, and the reserve's, which is what makes both columns sum to zero."""
    now = sum((move.now for move in moves.values()), ZERO)
    later = sum((move.later for move in moves.values()), ZERO)
    return {**moves, RESERVE: Move(-now, -later)}


def _trimmed(amounts: Mapping[str, Decimal], excess: Decimal) -> dict[str, Decimal]:
    """The amounts with `excess` taken off, from the largest on."""
    trimmed = dict(amounts)
    for name in sorted(amounts, key=lambda name: (-amounts[name], name)):
        if excess <= 0:
            break
        taken = min(_cents_above(excess), trimmed[name])
        trimmed[name] -= taken
        excess -= taken
    return trimmed


def _shared(available: Decimal, wants: Mapping[str, Decimal]) -> dict[str, Decimal]:
    """What is available, shared in proportion to what each is to get; whole cents, none lost.

    Cents that no proportion gives go to the largest remainders, by name where these are equal.
    """
    total = sum(wants.values(), ZERO)
    available = cents_below(min(max(available, ZERO), total))
    if available == total:
        return dict(wants)
    exact = {
        name: EXACT.divide(EXACT.multiply(available, want), total) for name, want in wants.items()
    }
    shares = {name: cents_below(amount) for name, amount in exact.items()}
    left = int((available - sum(shares.values(), ZERO)) / CENT)
    for name in sorted(wants, key=lambda name: (shares[name] - exact[name], name))[:left]:
        shares[name] += CENT
    return shares

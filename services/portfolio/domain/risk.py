"""Risk: limits of a strategy or of the whole, what is beyond them, and the record of what they did.

Some limits refuse an order; see require_within. Some halt; see beyond. What is exactly at its limit
is within it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from uuid import UUID

from services.portfolio.domain.errors import LimitExceededError
from services.portfolio.domain.money import (
    EXACT,
    GROWTH_STEP,
    ZERO,
    plain,
    plain_quantity,
    rounded,
    value_of,
    whole_shares,
)
from services.portfolio.domain.order import Side

ONE = Decimal(1)


class OnSilence(StrEnum):
    """What follows when a strategy is silent for longer than its lease."""

    HOLD = "HOLD"
    FLATTEN = "FLATTEN"


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one strategy, or of the whole; None does not hold. Shares are of 1."""

    max_drawdown: Decimal | None = None
    max_daily_loss: Decimal | None = None
    max_order_value: Decimal | None = None  # USD
    max_orders_per_minute: int | None = None
    max_price_age_s: Decimal | None = None
    max_price_jump: Decimal | None = None
    lease_s: Decimal | None = None
    on_silence: OnSilence = OnSilence.HOLD

    @property
    def need_marks(self) -> bool:
        """Whether an order can only be judged beside the last price of its symbol."""
        return self.max_price_age_s is not None or self.max_price_jump is not None

    @property
    def may_halt(self) -> bool:
        """Whether growth is to be watched."""
        return self.max_drawdown is not None or self.max_daily_loss is not None


NO_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Whole:
    """The portfolio as one: whether it is halted, and its limits."""

    halted: bool = False
    halt_reason: str = ""
    limits: Limits = NO_LIMITS
    update_time: datetime | None = None


UNTOUCHED = Whole()  # what a fresh system has


class RiskEventKind(StrEnum):
    """What risk control did."""

    HALT = "HALT"
    RESUME = "RESUME"
    FLATTEN = "FLATTEN"
    SILENT = "SILENT"
    HEARD = "HEARD"
    LIMITS = "LIMITS"


@dataclass(frozen=True, slots=True)
class RiskEvent:
    """A fact: something that risk control did. Without a name it is of the whole."""

    event_id: UUID
    strategy_name: str
    kind: RiskEventKind
    reason: str
    actor: str
    time: datetime


@dataclass(frozen=True, slots=True)
class StrategyLimits:
    """The limits of one strategy; without a name, of the whole."""

    strategy_name: str
    limits: Limits


def is_silent(lease_s: Decimal | None, seen_time: datetime | None, now: datetime) -> bool:
    """Whether a strategy has reported no price for longer than its lease.

    One that never reported any is not silent: it has not begun.
    """
    if lease_s is None or seen_time is None:
        return False
    return (now - seen_time).total_seconds() > lease_s


@dataclass(frozen=True, slots=True)
class Asked:
    """An order as limits judge it."""

    side: Side
    symbol: str
    quantity: Decimal
    price: Decimal
    mark: Decimal | None  # the price of its symbol that the strategy reported last, in USD
    mark_age_s: Decimal | None


def require_within(limits: Limits, owner: str, asked: Asked, recent: int) -> None:
    """Checks an order against the limits of `owner`: a strategy, or with no name the whole.

    `recent` is how many orders of the owner's were accepted in the 60 s before.

    Raises:
        LimitExceededError: It is beyond one of them.
    """
    _require_value(limits, owner, asked)
    _require_rate(limits, owner, recent)
    _require_fresh_price(limits, owner, asked)
    _require_near_price(limits, owner, asked)


def _require_value(limits: Limits, owner: str, asked: Asked) -> None:
    allowed = limits.max_order_value
    value = value_of(asked.quantity, asked.price)
    if allowed is None or value <= allowed:
        return
    most = whole_shares(allowed, asked.price)
    raise LimitExceededError(
        owner,
        ("max_order_value", plain(allowed), plain(value)),
        f"{'Buying' if asked.side is Side.BUY else 'Selling'} {plain_quantity(asked.quantity)} "
        f"{asked.symbol} at {plain(asked.price)} USD is worth {plain(value)} USD",
        f"Order {plain_quantity(most)} shares at most with POST /orders"
        if most
        else "Not even one share is within it",
    )


def _require_rate(limits: Limits, owner: str, recent: int) -> None:
    allowed = limits.max_orders_per_minute
    if allowed is None or recent < allowed:
        return
    raise LimitExceededError(
        owner,
        ("max_orders_per_minute", str(allowed), str(recent + 1)),
        f"This would be order {recent + 1} within 60 s",
        "Order again in a minute",
    )


def _require_fresh_price(limits: Limits, owner: str, asked: Asked) -> None:
    allowed = limits.max_price_age_s
    if allowed is None or (asked.mark_age_s is not None and asked.mark_age_s <= allowed):
        return
    never = asked.mark_age_s is None
    age = "none" if asked.mark_age_s is None else plain_quantity(asked.mark_age_s)
    raise LimitExceededError(
        owner,
        ("max_price_age_s", plain_quantity(allowed), age),
        f"The strategy has never reported a price of {asked.symbol}"
        if never
        else f"The strategy last reported a price of {asked.symbol} {age} s ago",
        "Report one with POST /prices, then order",
    )


def _require_near_price(limits: Limits, owner: str, asked: Asked) -> None:
    """Holds only once a price was reported; max_price_age_s refuses what has none."""
    allowed = limits.max_price_jump
    if allowed is None or asked.mark is None:
        return
    distance = abs(asked.price - asked.mark)
    if distance <= EXACT.multiply(allowed, asked.mark):
        return
    jump = plain_quantity(rounded(EXACT.divide(distance, asked.mark)))
    raise LimitExceededError(
        owner,
        ("max_price_jump", plain_quantity(allowed), jump),
        f"{plain(asked.price)} USD is {jump} away from {plain(asked.mark)} USD, the price of "
        f"{asked.symbol} that the strategy reported last",
        "Look whether the price is right and report it with POST /prices, then order",
    )


@dataclass(frozen=True, slots=True)
class Heights:
    """What a growth is judged by: growths of a book, or of the whole, since it last began anew."""

    high: Decimal  # the highest of any valuation
    close: Decimal  # at the last close


def beyond(limits: Limits, growth: Decimal, heights: Heights) -> str:
    """Why a growth is beyond the limits, with the figures; empty while it is within them."""
    for name, allowed, from_height, height in (
        ("max_drawdown", limits.max_drawdown, "high", heights.high),
        ("max_daily_loss", limits.max_daily_loss, "last close", heights.close),
    ):
        if allowed is None or height <= ZERO or growth >= EXACT.multiply(height, ONE - allowed):
            continue
        fall = plain_quantity(rounded(ONE - EXACT.divide(growth, height)))
        return (
            f"{name} {plain_quantity(allowed)} is exceeded: growth "
            f"{plain_quantity(rounded(growth))} is {fall} below the {from_height} of "
            f"{plain_quantity(rounded(height))}."
        )
    return ""


@dataclass(frozen=True, slots=True)
class Part:
    """A book's part in the whole since its last close."""

    number: int  # of the book's last valuation
    base: Decimal  # what it was worth at that close, and what came or left since, in USD
    close: Decimal  # its growth at that close


@dataclass(frozen=True, slots=True)
class Step:
    """What the closes of one session did to the whole, in USD."""

    gained: Decimal
    entered: Decimal  # the bases of books that close for the first time
    changed: Decimal  # of all bases, for the sessions after


def heights_of_whole(steps: Iterable[Step]) -> Heights:
    """The growth of the whole at the last close, and its highest, from all sessions in order.

    Each session adds the gain of all books on what all of them had to gain by.
    """
    base, growth, high = ZERO, ONE, ONE
    for step in steps:
        base += step.entered
        if base > ZERO:
            growth = _grown(growth, step.gained, base)
        high = max(high, growth)
        base += step.changed
    return Heights(high, growth)


def growth_of_whole(close: Decimal, parts: Iterable[tuple[Part, Decimal]]) -> Decimal:
    """The growth of the whole now: at the last close, and the gain of each book since.

    Each part comes with its book's growth now.
    """
    base, gained = ZERO, ZERO
    for part, growth in parts:
        if part.base > ZERO and part.close > ZERO:
            base += part.base
            gained += EXACT.multiply(part.base, EXACT.divide(growth, part.close) - ONE)
    return _grown(close, gained, base) if base > ZERO else close


def _grown(growth: Decimal, gained: Decimal, base: Decimal) -> Decimal:
    grown = EXACT.multiply(growth, ONE + EXACT.divide(gained, base))
    return grown.quantize(GROWTH_STEP, context=EXACT)

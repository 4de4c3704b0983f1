"""What Interactive Brokers says, in our words: amounts, symbols, states and codes. Pure.

Codes: https://interactivebrokers.github.io/tws-api/message_codes.html
"""

from decimal import Decimal
from enum import Enum, auto
from math import isfinite
from typing import Any

from services.portfolio.domain.evidence import AtBroker, BrokerExecution
from services.portfolio.domain.money import rounded
from services.portfolio.domain.order import Side

UNSET_INTEGER = 2**31 - 1  # what the broker sends for "no number"
LARGEST_AMOUNT = 1e15  # above it a double has no cents; "no amount" is the largest double there is
LONGEST_WORDS = 500

_STATES = {
    "ApiPending": AtBroker.WORKING,
    "PendingSubmit": AtBroker.WORKING,
    "PreSubmitted": AtBroker.WORKING,
    "Submitted": AtBroker.WORKING,
    "PendingCancel": AtBroker.WORKING,  # it may still fill
    "Filled": AtBroker.FILLED,
    "ApiCancelled": AtBroker.CANCELLED,
    "Cancelled": AtBroker.CANCELLED,
    "Inactive": AtBroker.INACTIVE,
}
_SIDES = {"BOT": Side.BUY, "SLD": Side.SELL}

# The order goes on: queued to the next open (399), shares being located (404), an attribute
# changed or ignored (2109, 10349), a cancellation that comes too late (136, 161, 10148).
_GOES_ON = frozenset({136, 161, 399, 404, 434, 10148, 10349})
_CANCELLED = 202
_WARNINGS = range(2100, 2170)
# Of the connection (502, 504, 507, 1100, 1101, 1102, 1300) and of market data (10197), even where
# they carry the number of a request.
_OF_THE_LINE = frozenset({502, 504, 507, 1100, 1101, 1102, 1300, 10197})


class OfOrder(Enum):
    """What an error about an order means for it."""

    GOES_ON = auto()
    CANCELLED = auto()
    REFUSED = auto()


def meaning_for_order(code: int) -> OfOrder:
    """What an error about an order means; REFUSED where it is not known, so that one asks."""
    if code in _GOES_ON or code in _WARNINGS:
        return OfOrder.GOES_ON
    return OfOrder.CANCELLED if code == _CANCELLED else OfOrder.REFUSED


def is_warning(code: int) -> bool:
    """Whether an error about a request leaves it standing."""
    return code in _WARNINGS


def is_of_the_line(code: int) -> bool:
    """Whether an error speaks of the connection or of all market data."""
    return code in _OF_THE_LINE or code in _WARNINGS


def at_broker(status: str) -> AtBroker:
    """The state of an order. A status never heard of ends nothing: it counts as WORKING."""
    return _STATES.get(status, AtBroker.WORKING)


def amount(number: float) -> Decimal | None:
    """The number by its shortest decimal text, to 8 decimals; None when it says "no amount"."""
    if not isfinite(number) or abs(number) >= LARGEST_AMOUNT:
        return None
    return rounded(Decimal(str(number)))


def price(number: float) -> Decimal | None:
    """A price in USD; None for what stands for "no price": 0, -1, nan."""
    usd = amount(number)
    return usd if usd is not None and usd > 0 else None


def symbol_to_wire(symbol: str) -> str:
    """The broker writes the class of a share after a space: BRK.B is its BRK B."""
    return symbol.replace(".", " ")


def symbol_from_wire(symbol: str) -> str:
    """The other way round."""
    return symbol.replace(" ", ".")


def is_us_stock(contract: Any) -> bool:
    """Whether a contract is a share in USD; options and the like bear their share's symbol."""
    return bool(contract.secType == "STK" and contract.currency == "USD")


def plain_words(text: str) -> str:
    """The broker's words in one line, without markup's line breaks, and not without end."""
    return " ".join(text.replace("<br>", " ").split())[:LONGEST_WORDS]


def execution_from_wire(
    contract: Any, execution: Any, commission: Decimal | None
) -> BrokerExecution:
    """One execution, live or asked for.

    Raises:
        ValueError: It says no quantity, no price or no known side.
    """
    quantity, paid = amount(execution.shares), amount(execution.price)
    side = _SIDES.get(execution.side)
    if quantity is None or paid is None or side is None:
        raise ValueError(f"An execution that cannot be booked: {execution}")
    return BrokerExecution(
        execution.execId,
        execution.orderRef,
        symbol_from_wire(contract.symbol),
        side,
        quantity,
        paid,
        execution.time,
        commission,
    )

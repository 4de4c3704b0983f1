"""Exact arithmetic: every amount, price and quantity is a Decimal with at most 8 decimals.

A product or a quotient is rounded once, half to even, to 8 decimals; sums are exact. The bounds of
the contract (quantity and price up to 1e9, 15 significant digits) keep each product, rounded to 8
decimals, within the 28 digits that Python's decimal arithmetic holds by default.
"""

from decimal import ROUND_FLOOR, ROUND_HALF_EVEN, Decimal

ZERO = Decimal(0)
STEP = Decimal("0.00000001")
DECIMALS = 8


def rounded(amount: Decimal) -> Decimal:
    """The amount with 8 decimals, half to even."""
    return amount.quantize(STEP, ROUND_HALF_EVEN)


def value_of(quantity: Decimal, price: Decimal) -> Decimal:
    """What `quantity` shares are worth at `price` USD a share, in USD."""
    return rounded(quantity * price)


def whole_shares(cash: Decimal, cost_per_share: Decimal) -> Decimal:
    """How many whole shares `cash` USD pays for at `cost_per_share` USD each; never below 0."""
    if cash <= 0:
        return ZERO
    return (cash / cost_per_share).to_integral_value(ROUND_FLOOR)


def plain(amount: Decimal) -> str:
    """The amount for a person to read: no exponent, two decimals at least, no idle zeros.

    >>> plain(Decimal("1505.00000000")), plain(Decimal("0.125")), plain(Decimal("1E+3"))
    ('1505.00', '0.125', '1000.00')
    """
    whole, _, decimals = f"{amount:f}".partition(".")
    return f"{whole}.{decimals.rstrip('0').ljust(2, '0')}"


def plain_quantity(quantity: Decimal) -> str:
    """The quantity for a person to read: no exponent and no idle zeros.

    >>> plain_quantity(Decimal("10.00000000")), plain_quantity(Decimal("0.50"))
    ('10', '0.5')
    """
    text = f"{quantity:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text

"""Exact arithmetic: every amount, price and quantity is a Decimal with at most 8 decimals.

A product or a quotient is rounded once, half to even, to 8 decimals; sums are exact. Python's own
28 digits hold every amount up to LARGEST, and so every sum. They do not hold every product: two
factors of 15 digits make 30, and a product cut to 28 and then to 8 decimals is rounded twice. So
products and quotients are taken with as many digits as they can need.
"""

from decimal import ROUND_HALF_EVEN, ROUND_HALF_UP, Context, Decimal

ZERO = Decimal(0)
STEP = Decimal("0.00000001")
GROWTH_STEP = Decimal("1e-18")  # of what 1 USD has become
DECIMALS = 8
LARGEST = Decimal("99999999999999999999.99999999")  # 28 digits, as the database has them
EXACT = Context(prec=100, rounding=ROUND_HALF_EVEN)  # three factors of 28 digits, and more


def rounded(amount: Decimal) -> Decimal:
    """The amount with 8 decimals, half to even."""
    return amount.quantize(STEP, context=EXACT)


def value_of(quantity: Decimal, price: Decimal) -> Decimal:
    """What `quantity` shares are worth at `price` USD a share, in USD."""
    return rounded(EXACT.multiply(quantity, price))


def market_value(quantity: Decimal, price: Decimal) -> Decimal:
    """What `quantity` shares are worth at the market, in USD; rounded as PostgreSQL rounds."""
    return EXACT.multiply(quantity, price).quantize(STEP, ROUND_HALF_UP, EXACT)


def per_share(value: Decimal, quantity: Decimal) -> Decimal:
    """What one of `quantity` shares comes to when all of them come to `value` USD."""
    return rounded(EXACT.divide(value, quantity))


def part_of(amount: Decimal, part: Decimal, whole: Decimal) -> Decimal:
    """The part of `amount` that belongs to `part` of `whole` shares."""
    return rounded(EXACT.divide(EXACT.multiply(amount, part), whole))


def whole_shares(cash: Decimal, cost_per_share: Decimal) -> Decimal:
    """How many whole shares `cash` USD pays for at `cost_per_share` USD each; never below 0."""
    if cash <= 0:
        return ZERO
    return EXACT.divide_int(cash, cost_per_share)


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

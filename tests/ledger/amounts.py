"""The amounts that a wire can carry, for property tests."""

from decimal import Decimal
from fractions import Fraction

from hypothesis import Phase, settings
from hypothesis import strategies as st


def exactly(amount: Decimal) -> Fraction:
    """The amount as a fraction."""
    return Fraction(*amount.as_integer_ratio())


def _scaled(digits: int, decimals: int) -> Decimal:
    return Decimal(digits).scaleb(-decimals)


# Up to 15 significant digits, up to 8 decimals, above 0, up to 1e9.
WIRE = (
    st.builds(_scaled, st.integers(1, 10**15 - 1), st.integers(0, 8)).filter(lambda x: x <= 10**9)
    | st.builds(_scaled, st.integers(1, 2000), st.integers(0, 8))
    | st.sampled_from([Decimal("0.00000001"), Decimal(10**9), Decimal("999999999.999999")])
)

# The same examples in every run; a noisy machine is no failure.
PROPERTY = settings(
    derandomize=True,
    deadline=None,
    max_examples=100,
    phases=[Phase.generate, Phase.shrink],  # explaining takes minutes
)

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.portfolio.domain.money import (
    LARGEST,
    part_of,
    per_share,
    plain,
    plain_quantity,
    rounded,
    value_of,
    whole_shares,
)
from tests.ledger.amounts import PROPERTY, WIRE, exactly
from tests.ledger.values import d, half_even


@pytest.mark.parametrize(
    ("amount", "kept"),
    [
        ("0.000000005", "0"),
        ("0.000000015", "0.00000002"),
        ("0.000000025", "0.00000002"),
        ("0.0000000250000000000000000000000000001", "0.00000003"),
        ("-0.000000015", "-0.00000002"),
        ("1", "1"),
    ],
)
def test_amounts_are_rounded_half_to_even_at_8_decimals(amount: str, kept: str) -> None:
    assert rounded(d(amount)) == d(kept)


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        ("1505.00000000", "1505.00"),
        ("0.125", "0.125"),
        ("1E+3", "1000.00"),
        ("1E-8", "0.00000001"),
        ("0E-8", "0.00"),
        ("-12.5", "-12.50"),
        ("99999999999999999999.99999999", "99999999999999999999.99999999"),
    ],
)
def test_money_reads_as_a_person_writes_it(amount: str, text: str) -> None:
    assert plain(d(amount)) == text


@pytest.mark.parametrize(
    ("quantity", "text"),
    [("10.00000000", "10"), ("0.50", "0.5"), ("1E+3", "1000"), ("0E-8", "0"), ("100", "100")],
)
def test_quantities_read_as_a_person_writes_them(quantity: str, text: str) -> None:
    assert plain_quantity(d(quantity)) == text


def test_a_product_of_thirty_digits_is_rounded_once() -> None:
    # Cut to Python's 28 digits first, the product would end in a 5 and be rounded a second time.
    quantity, price = d("347872205.274686"), d("552355592.487532")
    exact = half_even(exactly(quantity) * exactly(price))
    assert (quantity * price).quantize(exact) != exact
    assert value_of(quantity, price) == exact


@PROPERTY
@given(WIRE, WIRE)
def test_a_value_equals_the_exact_product_rounded_once(quantity: Decimal, price: Decimal) -> None:
    assert value_of(quantity, price) == half_even(exactly(quantity) * exactly(price))


@PROPERTY
@given(st.decimals("0.00000001", LARGEST, places=8), WIRE)
def test_a_mean_equals_the_exact_quotient_rounded_once(value: Decimal, quantity: Decimal) -> None:
    assert per_share(value, quantity) == half_even(exactly(value) / exactly(quantity))


@PROPERTY
@given(st.decimals(0, LARGEST, places=8), WIRE, WIRE)
def test_a_part_equals_the_exact_part_rounded_once(
    amount: Decimal, one: Decimal, other: Decimal
) -> None:
    part, whole = sorted((one, other))
    exact = exactly(amount) * exactly(part) / exactly(whole)
    assert part_of(amount, part, whole) == half_even(exact)


@PROPERTY
@given(st.decimals(-1, LARGEST, places=8), WIRE)
def test_as_many_whole_shares_are_bought_as_the_cash_pays_for(
    cash: Decimal, price: Decimal
) -> None:
    bought = exactly(whole_shares(cash, price))
    assert bought.denominator == 1
    assert bought >= 0
    assert not bought or bought * exactly(price) <= exactly(cash)
    assert (bought + 1) * exactly(price) > exactly(cash)

from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given

from services.portfolio.domain.book import State
from services.portfolio.domain.errors import (
    InsufficientCashError,
    NothingToSellError,
    StrategyHaltedError,
)
from services.portfolio.domain.ledger import (
    accept,
    quantity_to_buy_all,
    quantity_to_sell_all,
    require_active,
)
from services.portfolio.domain.money import ZERO
from tests.ledger.amounts import PROPERTY, WIRE
from tests.ledger.values import NOW, book_with, buy, d, sell, strategy, ticket


@pytest.mark.parametrize(
    ("cash", "price", "commission", "quantity"),
    [
        ("1000", "100", "0", "10"),
        ("1000", "100.01", "0", "9"),
        ("999.99999999", "100", "0", "9"),
        ("1000", "99", "1", "10"),
        ("1000", "100", "0.00000001", "9"),
        ("20000", "150.50", "0", "132"),
        ("0.3", "0.1", "0", "3"),
    ],
)
def test_buy_all_buys_the_whole_shares_that_the_cash_pays_for(
    cash: str, price: str, commission: str, quantity: str
) -> None:
    assert quantity_to_buy_all(book_with(cash), "SPXL", d(price), d(commission)) == d(quantity)


def test_buy_all_spends_only_cash_that_no_open_order_has_reserved() -> None:
    book = buy(book_with(1000), 4, 100).book
    assert quantity_to_buy_all(book, "SPXL", d(100), ZERO) == 6


def test_buy_all_refuses_less_than_one_share_with_the_figures() -> None:
    with pytest.raises(InsufficientCashError) as refused:
        quantity_to_buy_all(book_with("100.5"), "SPXL", d("100.5"), d("0.01"))
    assert refused.value.message == (
        "Buying 1 SPXL needs 100.51 USD; 100.50 USD is free. "
        "Sell first, or set more cash with POST /portfolio."
    )
    assert refused.value.figures == {"needed": "100.51", "free": "100.50"}


@PROPERTY
@given(WIRE, WIRE)
def test_what_buy_all_sizes_is_accepted_and_one_share_more_is_not(
    cash: Decimal, price: Decimal
) -> None:
    book = book_with(str(cash))
    try:
        quantity = quantity_to_buy_all(book, "SPXL", price, ZERO)
    except InsufficientCashError:
        quantity = ZERO
    else:
        accept(book, ticket(quantity=str(quantity), price=str(price)), NOW)
    with pytest.raises(InsufficientCashError):
        accept(book, ticket(quantity=str(quantity + 1), price=str(price)), NOW)


def test_sell_all_sells_what_no_open_order_is_selling() -> None:
    book = book_with(shares="10.5", cost=100)
    assert quantity_to_sell_all(book, "SPXL") == d("10.5")
    assert quantity_to_sell_all(sell(book, 4).book, "SPXL") == d("6.5")


def test_sell_all_says_that_nothing_is_held() -> None:
    with pytest.raises(NothingToSellError) as refused:
        quantity_to_sell_all(book_with(), "SPXL")
    assert refused.value.message == "Test_SPXL has no SPXL to sell: it holds none."
    assert refused.value.figures["held"] == "0"


def test_sell_all_says_that_open_orders_sell_it_all() -> None:
    book = sell(book_with(shares=10, cost=100), 10).book
    with pytest.raises(NothingToSellError) as refused:
        quantity_to_sell_all(book, "SPXL")
    assert refused.value.message == (
        "Test_SPXL has no SPXL to sell: open orders are selling all of it."
    )
    assert refused.value.figures["held"] == "10"


def test_a_halted_strategy_places_no_orders_and_says_why() -> None:
    require_active(strategy())
    halted = replace(strategy(), state=State.HALTED, halt_reason="drawdown")
    with pytest.raises(StrategyHaltedError, match=r"HALTED \(drawdown\)") as refused:
        require_active(halted)
    assert refused.value.figures == {"strategy_name": "Test_SPXL", "halt_reason": "drawdown"}
    with pytest.raises(StrategyHaltedError, match=r"is HALTED and takes no new orders"):
        require_active(replace(halted, halt_reason=""))

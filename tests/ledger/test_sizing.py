from dataclasses import replace

import pytest

from services.portfolio.domain.book import State
from services.portfolio.domain.errors import NothingToSellError, StrategyHaltedError
from services.portfolio.domain.ledger import quantity_to_sell_all, require_active
from tests.ledger.values import book_with, d, sell, strategy


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

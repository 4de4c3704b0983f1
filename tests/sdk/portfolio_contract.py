"""What every portfolio does that a strategy can be given: the router, and the one in memory.

A subclass supplies the fixture `portfolio`. Nothing here assumes that the portfolio is empty or
that nobody else uses it: each test makes strategies of its own.
"""

import uuid
from collections.abc import Callable
from datetime import date

import pytest

from efficientfrontier.v1.order_service_pb2 import Order
from efficientfrontier.v1.portfolio_service_pb2 import Portfolio
from SureshotSDK import (
    InvalidRequestError,
    NotFoundError,
    PortfolioInterface,
    RefusedError,
    RequestIdReusedError,
)

FreshStrategy = Callable[[float], str]


class PortfolioContract:
    @pytest.fixture
    def fresh_strategy(self, portfolio: PortfolioInterface) -> FreshStrategy:
        def make(cash: float) -> str:
            name = f"Contract_{uuid.uuid4().hex[:12]}"
            portfolio.upsert_portfolio(name, cash=cash, requested_mode="PAPER")
            return name

        return make

    def test_buy_all_buys_the_whole_shares_that_the_cash_allows(
        self, portfolio: PortfolioInterface, fresh_strategy: FreshStrategy
    ) -> None:
        name = fresh_strategy(1000)
        order = portfolio.buy_all(name, "SPXL", 150.5)
        assert (order.side, order.status) == (Order.BUY, Order.EXECUTED)
        assert (order.quantity, order.filled_quantity) == (6, 6)
        assert (order.price, order.average_fill_price) == (150.5, 150.5)
        state = portfolio.get_portfolio(name)
        assert (state.cash, state.positions_value, state.equity) == (97, 903, 1000)
        assert state.invested
        assert portfolio.invested(name)

    def test_sizes_are_exact_where_floats_are_not(
        self, portfolio: PortfolioInterface, fresh_strategy: FreshStrategy
    ) -> None:
        name = fresh_strategy(0.3)
        assert portfolio.buy_all(name, "PENNY", 0.1).quantity == 3
        assert portfolio.get_portfolio(name).cash == 0

    def test_sell_all_sells_what_is_held_and_books_the_profit(
        self, portfolio: PortfolioInterface, fresh_strategy: FreshStrategy
    ) -> None:
        name = fresh_strategy(1000)
        portfolio.buy_all(name, "SPXL", 100)
        order = portfolio.sell_all(name, "SPXL", 110.25)
        assert (order.side, order.quantity) == (Order.SELL, 10)
        state = portfolio.get_portfolio(name)
        assert (state.cash, state.realized_pnl, state.unrealized_pnl) == (1102.5, 102.5, 0)
        assert not portfolio.invested(name)
        assert list(portfolio.list_positions(strategy_name=name)) == []

    def test_a_position_has_its_average_cost_and_its_market_value(
        self, portfolio: PortfolioInterface, fresh_strategy: FreshStrategy
    ) -> None:
        name = fresh_strategy(1000)
        portfolio.create_order(name, "SPXL", "BUY", 1, 100)
        portfolio.create_order(name, "SPXL", "BUY", 3, 120)
        portfolio.report_prices(name, {"SPXL": 130, "SPY": 400})
        (position,) = portfolio.list_positions(strategy_name=name)
        assert (position.quantity, position.average_cost) == (4, 115)
        assert (position.market_price, position.market_value) == (130, 520)
        assert position.unrealized_pnl == 60
        position = portfolio.set_position(name, "SPXL", 4, 90)  # what shares cost is no price
        assert (position.market_price, position.unrealized_pnl) == (130, 160)

    def test_the_latest_session_that_prices_name_is_the_strategys(
        self, portfolio: PortfolioInterface, fresh_strategy: FreshStrategy
    ) -> None:
        name = fresh_strategy(1000)
        for day in (3, 5, 4):
            portfolio.report_prices(name, {"SPXL": 130}, session=date(2008, 9, day))
            portfolio.report_prices(name, {"SPXL": 130})
        assert portfolio.get_portfolio(name).session == "2008-09-05"

    @pytest.mark.parametrize(
        ("act", "reason"),
        [
            (lambda p, name: p.buy_all(name, "SPXL", 1000.01), "INSUFFICIENT_CASH"),
            (lambda p, name: p.create_order(name, "SPXL", "BUY", 3, 500), "INSUFFICIENT_CASH"),
            (lambda p, name: p.sell_all(name, "SPXL", 10), "NOTHING_TO_SELL"),
            (lambda p, name: p.create_order(name, "SPXL", "SELL", 1, 5), "INSUFFICIENT_SHARES"),
        ],
    )
    def test_what_the_ledger_forbids_is_refused_and_changes_nothing(
        self,
        portfolio: PortfolioInterface,
        fresh_strategy: FreshStrategy,
        act: Callable[[PortfolioInterface, str], object],
        reason: str,
    ) -> None:
        name = fresh_strategy(1000)
        with pytest.raises(RefusedError) as refused:
            act(portfolio, name)
        assert refused.value.reason == reason
        assert portfolio.get_portfolio(name).cash == 1000
        assert list(portfolio.list_orders(strategy_name=name)) == []

    def test_a_halted_strategy_places_no_orders_until_it_is_resumed(
        self, portfolio: PortfolioInterface, fresh_strategy: FreshStrategy
    ) -> None:
        name = fresh_strategy(1000)
        assert portfolio.halt(name, reason="a look").state == Portfolio.HALTED
        with pytest.raises(RefusedError) as refused:
            portfolio.buy_all(name, "SPXL", 100)
        assert refused.value.reason == "STRATEGY_HALTED"
        assert portfolio.resume(name).state == Portfolio.ACTIVE
        assert portfolio.buy_all(name, "SPXL", 100).quantity == 10

    @pytest.mark.parametrize(
        ("act", "reason"),
        [
            (lambda p: p.buy_all("Nobody", "SPXL", 1), "STRATEGY_NOT_FOUND"),
            (lambda p: p.invested("Nobody"), "STRATEGY_NOT_FOUND"),
            (lambda p: p.get_portfolio("Nobody"), "STRATEGY_NOT_FOUND"),
            (lambda p: p.report_prices("Nobody", {"SPXL": 1}), "STRATEGY_NOT_FOUND"),
            (lambda p: p.get_order(str(uuid.uuid4())), "ORDER_NOT_FOUND"),
            (lambda p: p.delete_position(str(uuid.uuid4())), "POSITION_NOT_FOUND"),
        ],
    )
    def test_what_is_unknown_is_not_found(
        self,
        portfolio: PortfolioInterface,
        act: Callable[[PortfolioInterface], object],
        reason: str,
    ) -> None:
        with pytest.raises(NotFoundError) as missing:
            act(portfolio)
        assert missing.value.reason == reason

    @pytest.mark.parametrize(
        "act",
        [
            lambda p, name: p.buy_all(name, "SPXL", 0),
            lambda p, name: p.buy_all(name, "SPXL", -1),
            lambda p, name: p.buy_all(name, "SPXL", float("nan")),
            lambda p, name: p.buy_all(name, "SPXL", float("inf")),
            lambda p, name: p.buy_all(name, "SPXL", 0.123456789),
            lambda p, name: p.buy_all(name, "spxl", 1),
            lambda p, name: p.buy_all("", "SPXL", 1),
            lambda p, name: p.create_order(name, "SPXL", "BUY", 0, 1),
            lambda p, name: p.report_prices(name, {}),
            lambda p, name: p.report_prices(name, {"SPXL": -1}),
            lambda p, name: p.get_order("no-uuid"),
            lambda p, name: list(p.list_orders(page_size=-1)),
            lambda p, name: p.upsert_portfolio(name, cash=-1),
        ],
    )
    def test_a_field_that_breaks_its_rule_is_named_invalid(
        self,
        portfolio: PortfolioInterface,
        fresh_strategy: FreshStrategy,
        act: Callable[[PortfolioInterface, str], object],
    ) -> None:
        name = fresh_strategy(1000)
        with pytest.raises(InvalidRequestError) as invalid:
            act(portfolio, name)
        assert invalid.value.reason == "INVALID_FIELD"
        assert portfolio.get_portfolio(name).cash == 1000

    def test_a_repeated_request_id_gets_the_first_answer_and_does_nothing_twice(
        self, portfolio: PortfolioInterface, fresh_strategy: FreshStrategy
    ) -> None:
        name, request_id = fresh_strategy(1000), str(uuid.uuid4())
        first = portfolio.create_order(name, "SPXL", "BUY", 1, 100, request_id=request_id)
        again = portfolio.create_order(name, "SPXL", "BUY", 1, 100, request_id=request_id)
        assert again.order_id == first.order_id
        assert portfolio.get_portfolio(name).cash == 900
        with pytest.raises(RequestIdReusedError) as reused:
            portfolio.create_order(name, "SPXL", "BUY", 2, 100, request_id=request_id)
        assert reused.value.reason == "REQUEST_ID_REUSED"

    def test_orders_are_listed_newest_first_over_all_pages(
        self, portfolio: PortfolioInterface, fresh_strategy: FreshStrategy
    ) -> None:
        name = fresh_strategy(1000)
        placed = [portfolio.create_order(name, "SPXL", "BUY", 1, n).order_id for n in range(1, 6)]
        listed = portfolio.list_orders(strategy_name=name, page_size=2)
        assert [order.order_id for order in listed] == placed[::-1]
        assert portfolio.get_order(placed[0]).price == 1
        assert not list(portfolio.list_orders(strategy_name=name, status="REJECTED"))
        assert not list(portfolio.list_orders(strategy_name=name, symbol="PTIR"))

    def test_an_executed_order_keeps_its_status(
        self, portfolio: PortfolioInterface, fresh_strategy: FreshStrategy
    ) -> None:
        order = portfolio.buy_all(fresh_strategy(100), "SPXL", 100)
        assert portfolio.update_order_status(order.order_id, "EXECUTED").quantity == 1
        with pytest.raises(RefusedError) as refused:
            portfolio.update_order_status(order.order_id, "CANCELLED")
        assert refused.value.reason == "ILLEGAL_STATUS_CHANGE"

    def test_without_a_broker_there_are_no_shares_to_assign(
        self, portfolio: PortfolioInterface, fresh_strategy: FreshStrategy
    ) -> None:
        name = fresh_strategy(1000)
        for owner in (name, "UNATTRIBUTED"):
            with pytest.raises(RefusedError) as refused:
                portfolio.assign_position(owner, "SPXL", 1, 10)
            assert refused.value.reason == "NOT_UNATTRIBUTED"

    def test_a_position_can_be_set_and_deleted_by_hand(
        self, portfolio: PortfolioInterface, fresh_strategy: FreshStrategy
    ) -> None:
        name = fresh_strategy(1000)
        position = portfolio.set_position(name, "SPXL", 2.5, 80, reason="moved here")
        assert (position.quantity, position.average_cost) == (2.5, 80)
        assert portfolio.get_portfolio(name).cash == 1000
        portfolio.delete_position(position.position_id)
        assert not portfolio.invested(name)

    def test_only_what_is_given_changes_in_a_strategy(
        self, portfolio: PortfolioInterface, fresh_strategy: FreshStrategy
    ) -> None:
        name = fresh_strategy(1000)
        portfolio.upsert_portfolio(name, requested_mode="AUTO")
        changed = portfolio.upsert_portfolio(name, cash=70.25)
        assert (changed.requested_mode, changed.cash) == (Portfolio.AUTO, 70.25)
        assert name in [state.strategy_name for state in portfolio.list_portfolios()]

    def test_a_watch_begins_with_what_there_is(
        self, portfolio: PortfolioInterface, fresh_strategy: FreshStrategy
    ) -> None:
        name = fresh_strategy(1000)
        order = portfolio.buy_all(name, "SPXL", 100)
        seen = next(portfolio.watch_orders(strategy_name=name, snapshot_size=10, for_s=30))
        assert seen.order_id == order.order_id
        state = next(portfolio.watch_portfolios(strategy_name=name, for_s=30))
        assert (state.strategy_name, state.invested) == (name, True)

    def test_the_audit_balances_after_orders_and_adjustments(
        self, portfolio: PortfolioInterface, fresh_strategy: FreshStrategy
    ) -> None:
        name = fresh_strategy(1000)
        portfolio.buy_all(name, "SPXL", 33.33)
        portfolio.set_position(name, "PTIR", 1.5, 10)
        portfolio.sell_all(name, "SPXL", 44.44)
        audit = portfolio.audit()
        assert audit.balanced
        assert audit.books >= 1
        assert not audit.differences

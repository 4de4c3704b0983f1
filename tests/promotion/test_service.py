"""A promotion and a demotion through real routers, PostgreSQL and the simulated gateway.

Beside it a router that trades on PAPER alone is given the same intents: its curve is what the
paper twin's must be.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import grpc
import pytest

from efficientfrontier.v1.book_pb2 import Book
from efficientfrontier.v1.broker_service_pb2 import Broker, GetBrokerRequest
from efficientfrontier.v1.broker_service_pb2_grpc import BrokerServiceStub
from efficientfrontier.v1.equity_service_pb2 import GetPerformanceRequest, ListEquityRequest
from efficientfrontier.v1.equity_service_pb2_grpc import EquityServiceStub
from efficientfrontier.v1.order_service_pb2 import (
    BuyAllRequest,
    GetOrderRequest,
    ListOrdersRequest,
    Order,
    SellAllRequest,
    WatchOrdersRequest,
)
from efficientfrontier.v1.order_service_pb2_grpc import OrderServiceStub
from efficientfrontier.v1.portfolio_service_pb2 import (
    AuditRequest,
    GetPortfolioRequest,
    Price,
    ReportPricesRequest,
    UpsertPortfolioRequest,
)
from efficientfrontier.v1.portfolio_service_pb2_grpc import PortfolioServiceStub
from efficientfrontier.v1.position_service_pb2 import ListPositionsRequest
from efficientfrontier.v1.position_service_pb2_grpc import PositionServiceStub
from efficientfrontier.v1.promotion_service_pb2 import (
    Decision,
    ListDecisionsRequest,
    ReviewStrategyRequest,
)
from efficientfrontier.v1.promotion_service_pb2_grpc import PromotionServiceStub
from tests.support.database import fresh_database
from tests.support.gateway import GatewayProcess
from tests.support.router import Router
from tests.support.waiting import wait_until

NAME, SYMBOL, CASH = "Climber", "SPXL", 10_000
CALL_S = 10
RULE = {
    "PROMOTE_MIN_DAYS": "3",
    "PROMOTE_MIN_TRADES": "2",
    "DEMOTE_DAYS": "20",
    "PAPER_COMMISSION": "0.01",
}


@dataclass(frozen=True)
class Desk:
    """One router, and what its strategy does."""

    channel: grpc.Channel

    @property
    def portfolio(self) -> Any:
        """A stub."""
        return PortfolioServiceStub(self.channel)

    @property
    def orders(self) -> Any:
        """A stub."""
        return OrderServiceStub(self.channel)

    @property
    def promotion(self) -> Any:
        """A stub."""
        return PromotionServiceStub(self.channel)

    def fund(self) -> None:
        """The strategy, with cash in its book in force."""
        request = UpsertPortfolioRequest(strategy_name=NAME, cash=CASH)
        self.portfolio.UpsertPortfolio(request, timeout=CALL_S)

    def day(self, number: int, price: float) -> None:
        """A session begins with a price."""
        prices = [Price(symbol=SYMBOL, price=price)]
        session = f"2024-03-{number:02}"
        request = ReportPricesRequest(strategy_name=NAME, prices=prices, session=session)
        self.portfolio.ReportPrices(request, timeout=CALL_S)

    def buy_all(self, price: float) -> Order:
        """Its order once it is filled."""
        request = BuyAllRequest(strategy_name=NAME, symbol=SYMBOL, price=price)
        return self._filled(self.orders.BuyAll(request, timeout=CALL_S))

    def sell_all(self, price: float) -> Order:
        """Its order once it is filled."""
        request = SellAllRequest(strategy_name=NAME, symbol=SYMBOL, price=price)
        return self._filled(self.orders.SellAll(request, timeout=CALL_S))

    def decisions(self) -> list[Decision]:
        """All decisions, newest first, by page."""
        found: list[Decision] = []
        token = ""
        while token or not found:
            request = ListDecisionsRequest(strategy_name=NAME, page_size=2, page_token=token)
            page = self.promotion.ListDecisions(request, timeout=CALL_S)
            found += page.decisions
            token = page.next_page_token
            if not token:
                break
        return found

    def until(self, rule: str, outcome: "Decision.Outcome.ValueType") -> Decision:
        """The last decision, once it is by this rule and led to this."""

        def fits() -> Decision | None:
            newest = self.decisions()[:1]
            return (
                newest[0]
                if newest
                and (newest[0].rule, newest[0].outcome)
                == (
                    rule,
                    outcome,
                )
                else None
            )

        found = wait_until(fits, 30, f"{rule} {outcome}")
        assert found is not None
        return found

    def mode(self) -> int:
        """The mode in force."""
        request = GetPortfolioRequest(strategy_name=NAME)
        mode: int = self.portfolio.GetPortfolio(request, timeout=CALL_S).mode
        return mode

    def listed(self, **which: Any) -> list[Order]:
        """Its orders, oldest first."""
        request = ListOrdersRequest(strategy_name=NAME, **which)
        return list(self.orders.ListOrders(request, timeout=CALL_S).orders)[::-1]

    def curve(self) -> list[tuple[str, float, float, float]]:
        """The closes of its PAPER book."""
        request = ListEquityRequest(strategy_name=NAME, mode=Book.PAPER, page_size=100)
        points = EquityServiceStub(self.channel).ListEquity(request, timeout=CALL_S).points
        return [(p.session, p.equity, p.cash, p.positions_value) for p in points]

    def assert_balanced(self) -> None:
        """The ledger is what its facts say."""
        audit = self.portfolio.Audit(AuditRequest(), timeout=CALL_S)
        assert audit.balanced, audit

    def _filled(self, order: Order) -> Order:
        def fits() -> Order | None:
            request = GetOrderRequest(order_id=order.order_id)
            now: Order = self.orders.GetOrder(request, timeout=CALL_S)
            return now if now.status == Order.EXECUTED else None

        found = wait_until(fits, 30, f"{order} is filled")
        assert found is not None
        return found


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """A simulated gateway: SPXL at 100 USD, whatever a strategy saw."""
    with GatewayProcess(tmp_path_factory.mktemp("gateway"), {SYMBOL: Decimal(100)}) as one:
        yield one


@pytest.fixture
def desks(
    postgres_url: str, tmp_path: Path, gateway: GatewayProcess
) -> Iterator[tuple[Desk, Desk]]:
    """A router under TRADING_MODE=LIVE, CONNECTED, and one on PAPER; both ledgers are checked."""
    live = gateway.router_settings | {"PRICE_DISTANCE": "off", "LIVE_CAPITAL": "0"}
    with (
        fresh_database(postgres_url) as live_url,
        fresh_database(postgres_url) as paper_url,
        Router(live_url, tmp_path / "live.log", RULE | live) as one,
        Router(paper_url, tmp_path / "paper.log", RULE) as other,
        grpc.insecure_channel(one.address) as live_channel,
        grpc.insecure_channel(other.address) as paper_channel,
    ):
        broker: Any = BrokerServiceStub(live_channel)

        def connected() -> bool:
            told: Broker = broker.GetBroker(GetBrokerRequest(), timeout=CALL_S)
            return told.state == Broker.CONNECTED

        wait_until(connected, 30, "CONNECTED")
        pair = Desk(live_channel), Desk(paper_channel)
        yield pair
        for desk in pair:
            desk.assert_balanced()


def test_up_and_down_again_and_the_twin_is_a_paper_run(desks: tuple[Desk, Desk]) -> None:
    live, paper = desks
    each = (live, paper)
    for desk in each:
        desk.fund()
        desk.day(1, 100)
        desk.buy_all(100)
        desk.day(2, 102)
        desk.day(3, 104)
        desk.sell_all(104)
        desk.day(4, 103)

    up = live.until("promotion", Decision.CHANGED)
    assert (up.from_mode, up.to_mode) == (Book.PAPER, Book.LIVE)
    assert up.reason == "All that the rule asks holds."
    assert [(e.figure, e.wanted, e.holds) for e in up.evidence] == [
        ("days on paper", "at least 3", True),
        ("trades", "at least 2", True),
        ("Sharpe ratio", "at least 0.5", True),
        ("maximum drawdown", "at most 0.25", True),
        ("age of its last price, in s", "at most 86400", True),
        ("state", "ACTIVE", True),
        ("flat", "yes", True),
    ]
    assert (up.evidence[0].value, up.evidence[1].value) == ("3", "2")
    assert (live.mode(), paper.mode()) == (Book.LIVE, Book.PAPER)
    live.fund()  # the broker's cash

    bought = live.buy_all(103)
    assert (bought.mode, bought.quantity) == (Book.LIVE, 95)
    assert 100 <= bought.average_fill_price < 101
    paper.buy_all(103)
    for desk in each:
        for number, price in ((5, 105.0), (6, 80.0), (7, 81.0)):
            desk.day(number, price)
    waits = live.until("demotion", Decision.WAITS_UNTIL_FLAT)
    fall, sharpe, flat = waits.evidence
    assert (fall.figure, fall.wanted, fall.holds) == ("maximum drawdown LIVE", "at most 0.2", False)
    assert (sharpe.value, sharpe.holds) == ("3 days", True)
    assert (flat.value, flat.holds) == ("95 SPXL held", False)
    assert live.mode() == Book.LIVE
    reality = EquityServiceStub(live.channel).GetPerformance(
        GetPerformanceRequest(strategy_name=NAME), timeout=CALL_S
    )
    assert reality.HasField("cost_of_reality")

    for desk in each:
        desk.sell_all(81)
    down = live.until("demotion", Decision.CHANGED)
    assert (down.from_mode, down.to_mode) == (Book.LIVE, Book.PAPER)
    assert list(down.evidence[:2]) == [fall, sharpe]
    assert down.evidence[2].holds
    assert live.mode() == Book.PAPER
    for desk in each:
        desk.buy_all(82)
        desk.day(8, 84)
        desk.day(9, 83)

    curve = live.curve()
    assert [session for session, *_ in curve] == [f"2024-03-{day:02}" for day in range(8, 0, -1)]
    assert curve == paper.curve()
    assert len({equity for _, equity, *_ in curve}) == 8
    assert_twins_are_told_apart(live, paper)
    again = live.promotion.ReviewStrategy(ReviewStrategyRequest(strategy_name=NAME), timeout=CALL_S)
    assert (again.rule, again.outcome) == ("promotion", Decision.STAYS)
    assert (again.evidence[0].value, again.evidence[0].holds) == ("2", False)
    assert live.decisions()[0] == again


def assert_twins_are_told_apart(live: Desk, paper: Desk) -> None:
    """Lists and streams leave the twin's orders out unless asked; with them it is a paper run."""
    own, every = live.listed(), live.listed(twins=True)
    twins = [order for order in every if order.twin_of]
    assert [order for order in every if not order.twin_of] == own
    there = [order for order in own if order.mode == Book.LIVE]
    assert [order.order_id for order in there] == [order.twin_of for order in twins]
    on_paper = [order for order in every if order.mode == Book.PAPER]
    assert [(o.side, o.quantity, o.price, o.commission) for o in on_paper] == [
        (o.side, o.quantity, o.price, o.commission) for o in paper.listed()
    ]
    for twins_too, expected in ((False, own), (True, every)):
        watch = live.orders.WatchOrders(
            WatchOrdersRequest(strategy_name=NAME, snapshot_size=100, twins=twins_too),
            timeout=CALL_S,
        )
        seen = [next(watch).order for _ in expected]
        watch.cancel()
        assert seen == expected
    positions: Any = PositionServiceStub(live.channel)
    listed = positions.ListPositions(ListPositionsRequest(strategy_name=NAME), timeout=CALL_S)
    assert [position.mode for position in listed.positions] == [Book.PAPER]


def refusal(call: Any, request: Any) -> Any:
    """The status of a call that must fail."""
    with pytest.raises(grpc.RpcError) as raised:
        call(request, timeout=CALL_S)
    return raised.value.code()


def test_what_cannot_be_asked_is_refused(database_url: str, tmp_path: Path) -> None:
    with (
        Router(database_url, tmp_path / "router.log") as router,
        grpc.insecure_channel(router.address) as channel,
    ):
        desk = Desk(channel)
        unknown = ReviewStrategyRequest(strategy_name="Nobody")
        reserve = ReviewStrategyRequest(strategy_name="RESERVE")
        for request in (unknown, reserve):
            code = refusal(desk.promotion.ReviewStrategy, request)
            assert code is grpc.StatusCode.NOT_FOUND
        for bad in (
            ListDecisionsRequest(page_size=-1),
            ListDecisionsRequest(page_token="none"),
            ListDecisionsRequest(strategy_name="7up"),
        ):
            code = refusal(desk.promotion.ListDecisions, bad)
            assert code is grpc.StatusCode.INVALID_ARGUMENT
        nobody = ListDecisionsRequest(strategy_name="Nobody")
        assert not desk.promotion.ListDecisions(nobody, timeout=CALL_S).decisions

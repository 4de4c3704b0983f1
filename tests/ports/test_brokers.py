from decimal import Decimal

import pytest

from services.portfolio.brokers.paper import PaperBroker
from services.portfolio.domain.order import Execution
from services.portfolio.ports import Broker
from tests.ledger.values import d
from tests.ports.broker_contract import BrokerContract


class TestPaperBroker(BrokerContract):
    """Fills at once."""

    def broker(self) -> Broker:
        return PaperBroker()

    def test_it_fills_whole_orders_at_their_price(self) -> None:
        one = self.wish(d(3), d("33.33333333"))
        assert self.broker().execution_on_accept(one) == Execution(
            "paper", d(3), d("99.99999999"), d(0)
        )


class TestPaperBrokerWithCommission(BrokerContract):
    """Fills at once, at a commission."""

    def broker(self) -> Broker:
        return PaperBroker(d("0.005"))

    @pytest.mark.parametrize(("quantity", "cost"), [("100", "0.5"), ("0.000003", "0.00000002")])
    def test_its_commission_is_a_rate_a_share_rounded_once(self, quantity: str, cost: str) -> None:
        assert self.broker().commission(d(quantity)) == d(cost)


class TestPaperBrokerByHand(BrokerContract):
    """Leaves its orders to a person."""

    def broker(self) -> Broker:
        return PaperBroker(Decimal(1), by_hand=True)

    def test_it_fills_nothing(self) -> None:
        assert self.broker().execution_on_accept(self.wish(d(3))) is None

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.portfolio.brokers.paper import PaperBroker
from services.portfolio.domain.order import Execution
from services.portfolio.domain.weather import BrokerState, Weather
from services.portfolio.live.gate import LiveBroker
from services.portfolio.live.ports import Seen
from services.portfolio.ports import Broker
from tests.ledger.amounts import PROPERTY, exactly
from tests.ledger.values import NOW, d
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

    def test_it_takes_parts_of_shares(self) -> None:
        self.broker().admit("SPXL", d("0.5"), NOW)


class TestPaperBrokerWithCommission(BrokerContract):
    """Fills at once, at a commission."""

    def broker(self) -> Broker:
        return PaperBroker(d("0.005"))

    @pytest.mark.parametrize(("quantity", "cost"), [("100", "0.5"), ("0.000003", "0.00000002")])
    def test_its_commission_is_a_rate_a_share_rounded_once(self, quantity: str, cost: str) -> None:
        assert self.broker().allowance(d(quantity), d(7)) == d(cost)
        execution = self.broker().execution_on_accept(self.wish(d(quantity), d(7)))
        assert execution is not None
        assert execution.commission == d(cost)

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
    def test_it_affords_the_whole_shares_that_the_cash_pays_for(
        self, cash: str, price: str, commission: str, quantity: str
    ) -> None:
        assert PaperBroker(d(commission)).affordable(d(cash), d(price)) == d(quantity)


class TestPaperBrokerByHand(BrokerContract):
    """Leaves its orders to a person."""

    def broker(self) -> Broker:
        return PaperBroker(Decimal(1), by_hand=True)

    def test_it_fills_nothing(self) -> None:
        assert self.broker().execution_on_accept(self.wish(d(3))) is None


class TestLiveBroker(BrokerContract):
    """Leaves its orders to the sender; the gate itself is in tests/live."""

    def broker(self) -> Broker:
        return LiveBroker(lambda: Seen(Weather(BrokerState.CONNECTED, NOW), {}), d("0.02"))

    def test_it_fills_nothing_at_once(self) -> None:
        assert self.broker().execution_on_accept(self.wish(d(3))) is None

    @pytest.mark.parametrize(
        ("quantity", "price", "allowance"),
        [
            ("1", "100", "3"),  # 2% and the least commission
            ("200", "100", "401"),  # 200 shares cost just that
            ("1000", "0.5", "15"),  # 5 a thousand
            ("3", "0.00000001", "1"),  # the buffer rounds to nothing
        ],
    )
    def test_it_reserves_the_buffer_and_the_commission(
        self, quantity: str, price: str, allowance: str
    ) -> None:
        assert self.broker().allowance(d(quantity), d(price)) == d(allowance)

    @PROPERTY
    @given(
        cents=st.integers(0, 60_000),
        price=st.decimals("0.05", "90", places=4),
        buffer=st.sampled_from(["0", "0.02", "0.0333", "1"]),
    )
    def test_it_affords_what_counting_share_by_share_affords(
        self, cents: int, price: Decimal, buffer: str
    ) -> None:
        cash = exactly(Decimal(cents).scaleb(-2))
        unit = exactly(price) * (1 + exactly(d(buffer)))
        count = 0
        while all(
            (count + 1) * unit + commission <= cash
            for commission in (Fraction(1), Fraction(count + 1, 200))
        ):
            count += 1
        seen = Seen(Weather(BrokerState.CONNECTED, NOW), {})
        broker = LiveBroker(lambda: seen, d(buffer))
        assert broker.affordable(Decimal(cents).scaleb(-2), price) == count

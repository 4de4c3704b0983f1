"""What every Broker promises. Subclass it where pytest finds it, with a `broker` fixture."""

from dataclasses import replace
from decimal import Decimal

from hypothesis import given

from services.portfolio.domain import ledger
from services.portfolio.domain.errors import LedgerError
from services.portfolio.domain.ledger import Ticket
from services.portfolio.domain.order import Side, Status
from services.portfolio.ports import Broker
from tests.ledger.amounts import PROPERTY, WIRE, exactly
from tests.ledger.values import NOW, book_with, d, half_even, new_id, ticket

LOT = [d(1), d(10), d("0.5"), d("0.00000001"), d("1E+9"), d("123456789.123456")]


class BrokerContract:
    """Any broker."""

    def broker(self) -> Broker:
        """The one to try."""
        raise NotImplementedError

    def wish(self, quantity: Decimal, price: Decimal = Decimal(1)) -> Ticket:
        """An order to execute."""
        return ticket(Side.BUY, str(quantity), str(price))

    def test_a_commission_is_an_amount_and_never_negative(self) -> None:
        for quantity in LOT:
            commission = self.broker().commission(quantity)
            assert commission >= 0
            assert commission == half_even(exactly(commission))

    def test_a_fill_at_once_fits_its_order(self) -> None:
        for quantity in LOT:
            one = self.wish(quantity, d("123.45"))
            execution = self.broker().execution_on_accept(one)
            if execution is not None:
                assert execution.execution_id
                assert 0 < execution.quantity <= one.quantity
                assert execution.value > 0
                assert 0 <= execution.commission <= self.broker().commission(quantity)

    def test_what_is_reserved_pays_for_the_fill_at_once(self) -> None:
        broker = self.broker()

        @PROPERTY
        @given(WIRE, WIRE)
        def check(quantity: Decimal, price: Decimal) -> None:
            commission = broker.commission(quantity)
            wish = replace(self.wish(quantity, price), commission=commission)
            needed = half_even(exactly(quantity) * exactly(price)) + commission
            execution = broker.execution_on_accept(wish)
            if execution is None:
                return
            try:
                filled = ledger.accept_filled(
                    book_with(str(needed)), wish, execution, new_id(), NOW
                )
            except LedgerError:
                assert not execution.value  # worth less than the ledger keeps
                return
            assert filled.book.reserved_cash == 0
            assert filled.book.cash >= 0
            assert filled.order.status is Status.EXECUTED

        check()

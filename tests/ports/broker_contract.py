"""What every Broker promises. Subclass it where pytest finds it, with a `broker` method."""

from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given

from services.portfolio.domain import ledger
from services.portfolio.domain.errors import InsufficientCashError, LedgerError
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
        """An order to execute, with the allowance of this broker."""
        wanted = ticket(Side.BUY, str(quantity), str(price))
        return replace(wanted, allowance=self.broker().allowance(quantity, price))

    def test_it_admits_an_order_that_nothing_speaks_against(self) -> None:
        self.broker().admit("SPXL", d(10), NOW)

    def test_an_allowance_is_an_amount_and_never_negative(self) -> None:
        for quantity in LOT:
            allowance = self.broker().allowance(quantity, d("123.45678901"))
            assert allowance >= 0
            assert allowance == half_even(exactly(allowance))

    def test_nothing_is_affordable_without_cash(self) -> None:
        for cash in (d(0), d("-0.00000001"), d(-1000)):
            assert self.broker().affordable(cash, d(1)) == 0

    def test_what_is_affordable_is_accepted_and_one_share_more_is_not(self) -> None:
        broker = self.broker()

        @PROPERTY
        @given(WIRE, WIRE)
        def check(cash: Decimal, price: Decimal) -> None:
            quantity = broker.affordable(cash, price)
            assert quantity >= 0
            assert quantity % 1 == 0
            book = book_with(str(cash))
            if quantity:
                ledger.accept(book, self.wish(quantity, price), NOW)
            with pytest.raises(InsufficientCashError):
                ledger.accept(book, self.wish(quantity + 1, price), NOW)

        check()

    def test_a_fill_at_once_fits_its_order(self) -> None:
        for quantity in LOT:
            one = self.wish(quantity, d("123.45"))
            execution = self.broker().execution_on_accept(one)
            if execution is not None:
                assert execution.execution_id
                assert 0 < execution.quantity <= one.quantity
                assert execution.value > 0
                assert 0 <= execution.commission <= one.allowance

    def test_what_is_reserved_pays_for_the_fill_at_once(self) -> None:
        broker = self.broker()

        @PROPERTY
        @given(WIRE, WIRE)
        def check(quantity: Decimal, price: Decimal) -> None:
            wish = self.wish(quantity, price)
            needed = half_even(exactly(quantity) * exactly(price)) + wish.allowance
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

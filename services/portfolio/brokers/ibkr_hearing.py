"""What the line hears: each message of the broker's becomes an event, or a row of an answer.

`orderRef`, our order's id, comes back on orders and executions, but not on statuses, errors and
commission reports: those are joined by the numbers that orders and executions brought with them.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, TypeVar

import structlog

from services.portfolio.brokers.ibkr_words import (
    OfOrder,
    amount,
    at_broker,
    execution_from_wire,
    is_of_the_line,
    is_us_stock,
    meaning_for_order,
    plain_words,
    symbol_from_wire,
)
from services.portfolio.domain.evidence import (
    AtBroker,
    BrokerEvent,
    BrokerExecution,
    BrokerOrder,
    Commissioned,
    Evidence,
    Executed,
    LineLost,
    Notice,
    Refused,
    Reported,
)
from services.portfolio.domain.money import ZERO
from services.portfolio.domain.weather import masked

REMEMBERED = 20_000  # orders and executions; more than an account makes in a week

K = TypeVar("K")
V = TypeVar("V")

log = structlog.get_logger()


class About(StrEnum):
    """What one asks for, in the order in which it is asked."""

    OPEN_ORDERS = "open orders"
    COMPLETED_ORDERS = "completed orders"
    EXECUTIONS = "executions"
    POSITIONS = "positions"
    CASH = "cash"


@dataclass(slots=True)
class Answers:
    """What has been answered so far to the questions for evidence.

    The broker also tells of orders and positions unasked: a row counts while its question is put.
    """

    asked: datetime
    about: About | None = None  # what is being asked now
    executions_number: int | None = None  # of the question for executions, once it is put
    open_orders: dict[object, BrokerOrder] = field(default_factory=dict)
    completed_orders: list[BrokerOrder] = field(default_factory=list)
    executions: dict[str, BrokerExecution] = field(default_factory=dict)
    positions: dict[int, tuple[str, Decimal]] = field(default_factory=dict)  # by contract
    cash: Decimal | None = None
    net_liquidation: Decimal | None = None

    def evidence(self) -> Evidence:
        """All of it."""
        shares: dict[str, Decimal] = {}
        for symbol, quantity in self.positions.values():
            shares[symbol] = shares.get(symbol, ZERO) + quantity
        return Evidence(
            self.asked,
            tuple(self.open_orders.values()),
            tuple(self.completed_orders),
            tuple(self.executions.values()),
            {symbol: quantity for symbol, quantity in shares.items() if quantity},
            self.cash,
            self.net_liquidation,
        )


class Hearing:
    """Turns the messages about one account and one client id into events and answers.

    It outlives its connections: an order is known again after a reconnect.
    """

    def __init__(self, client_id: int, account: str, events: asyncio.Queue[BrokerEvent]) -> None:
        self._client_id = client_id
        self._account = account
        self._events = events
        self._answers: Answers | None = None
        self._ref_of_id: dict[int, str] = {}  # our own client's order ids
        self._ref_of_perm: dict[int, str] = {}
        self._ref_of_execution: dict[str, str] = {}
        self._commissions: dict[str, Decimal] = {}
        self._words: dict[str, str] = {}  # the last that were said of an order

    def messages(self) -> dict[str, Callable[..., None]]:
        """What is to be heard, by the library's names."""
        return {
            "openOrder": self._open_order,
            "orderStatus": self._status,
            "completedOrder": self._completed_order,
            "execDetails": self._execution,
            "commissionReport": self._commission,
            "position": self._position,
            "accountSummary": self._account_value,
        }

    def knows(self, order_id: int, order_ref: str) -> None:
        """An order of ours has been given this order id."""
        _keep(self._ref_of_id, order_id, order_ref)

    def forget_line(self) -> None:
        """Drops what was said of an earlier connection and has not been read; facts stay."""
        waiting = [self._events.get_nowait() for _ in range(self._events.qsize())]
        for event in waiting:
            if not isinstance(event, Notice | LineLost):
                self._events.put_nowait(event)

    def begin_answers(self, asked: datetime) -> Answers:
        """From now on the rows of answers are kept."""
        self._answers = Answers(asked)
        return self._answers

    def end_answers(self) -> None:
        """From now on they are not."""
        self._answers = None

    def lost(self, why: str) -> None:
        """The connection has ended, and not because we wanted it to."""
        log.warning("broker_line_lost", why=why)
        self._events.put_nowait(LineLost(why))

    def error(self, number: int, code: int, text: str) -> None:
        """An error about an order, or about the line; one about neither is only logged."""
        words = plain_words(text)
        ref = self._ref_of_id.get(number)
        if ref:
            self._error_of_order(ref, code, words)
        elif number < 0 or is_of_the_line(code):
            self._events.put_nowait(Notice(code, words))
        else:
            log.info("broker_error", number=number, code=code, message=words)

    def _error_of_order(self, ref: str, code: int, words: str) -> None:
        _keep(self._words, ref, f"{words} ({code})")
        match meaning_for_order(code):
            case OfOrder.REFUSED:
                self._events.put_nowait(Refused(ref, code, words))
            case OfOrder.CANCELLED:
                self._report(ref, AtBroker.CANCELLED)
            case OfOrder.GOES_ON:
                self._report(ref, AtBroker.WORKING)

    def _open_order(self, order_id: int, _contract: Any, order: Any, state: Any) -> None:
        if order.whatIf or not self._is_ours(order.account):
            return
        if order.orderRef:
            if order.clientId == self._client_id:
                # What was placed under this id since is what errors under it are about.
                _keep(self._ref_of_id, order_id, self._ref_of_id.get(order_id, order.orderRef))
            if order.permId:
                _keep(self._ref_of_perm, order.permId, order.orderRef)
        status = at_broker(state.status)
        if answers := self._asked(About.OPEN_ORDERS):
            name = order.permId or (order.clientId, order_id)
            words = self._words.get(order.orderRef, "")
            answers.open_orders[name] = BrokerOrder(order.orderRef, status, order.permId, words)
        if order.orderRef:
            self._report(order.orderRef, status, order.permId)

    def _status(
        self,
        order_id: int,
        status: str,
        _filled: float,
        _remaining: float,
        _average: float,
        perm_id: int,
        _parent: int,
        _last: float,
        client_id: int,
        why_held: str,
        *_: float,
    ) -> None:
        own = self._ref_of_id.get(order_id) if client_id == self._client_id else None
        ref = self._ref_of_perm.get(perm_id) or own
        if not ref:
            return  # not ours, or not known yet: the evidence will name it
        if perm_id:
            _keep(self._ref_of_perm, perm_id, ref)
        if why_held:
            _keep(self._words, ref, f"held: {plain_words(why_held)}")
        state = at_broker(status)
        answers, name = self._asked(About.OPEN_ORDERS), perm_id or (client_id, order_id)
        if answers and name in answers.open_orders:
            answers.open_orders[name] = replace(answers.open_orders[name], state=state)
        self._report(ref, state, perm_id)

    def _report(self, ref: str, state: AtBroker, perm_id: int = 0) -> None:
        self._events.put_nowait(
            Reported(BrokerOrder(ref, state, perm_id, self._words.get(ref, "")))
        )

    def _completed_order(self, _contract: Any, order: Any, state: Any) -> None:
        answers = self._asked(About.COMPLETED_ORDERS)
        if answers is None or not self._is_ours(order.account):
            return
        if order.orderRef and order.permId:
            _keep(self._ref_of_perm, order.permId, order.orderRef)
        words = plain_words(state.completedStatus) or self._words.get(order.orderRef, "")
        answers.completed_orders.append(
            BrokerOrder(order.orderRef, at_broker(state.status), order.permId, words)
        )

    def _execution(self, number: int, contract: Any, execution: Any) -> None:
        if not is_us_stock(contract) or not self._is_ours(execution.acctNumber):
            return
        known = self._commissions.get(execution.execId)
        seen = execution_from_wire(contract, execution, known)
        _keep(self._ref_of_execution, seen.execution_id, seen.order_ref)
        if self._answers and self._answers.executions_number == number:
            self._answers.executions[seen.execution_id] = seen
        else:
            self._events.put_nowait(Executed(seen))

    def _commission(self, report: Any) -> None:
        paid = amount(report.commission)
        if paid is None or report.currency not in ("USD", ""):
            log.warning("broker_commission_unclear", execution_id=report.execId)
            return
        _keep(self._commissions, report.execId, paid)
        rows = self._answers.executions if self._answers else {}
        ref = self._ref_of_execution.get(report.execId)
        if report.execId in rows:
            rows[report.execId] = replace(rows[report.execId], commission=paid)
        elif ref is not None:  # else it waits for its execution
            self._events.put_nowait(Commissioned(ref, report.execId, paid))

    def _position(self, account: str, contract: Any, quantity: float, _cost: float) -> None:
        answers = self._asked(About.POSITIONS)
        if answers is None or account != self._account or not is_us_stock(contract):
            return
        shares = amount(quantity)
        if shares is None:
            raise ValueError(f"A position of {quantity} {contract.symbol} cannot be read.")
        answers.positions[contract.conId] = (symbol_from_wire(contract.symbol), shares)

    def _account_value(
        self, _number: int, account: str, tag: str, value: str, currency: str
    ) -> None:
        answers = self._asked(About.CASH)
        if answers is None or account != self._account:
            return
        if currency != "USD":
            log.warning("broker_cash_not_in_usd", account=masked(account), currency=currency)
            return
        if tag == "TotalCashValue":
            answers.cash = amount(float(value))
        elif tag == "NetLiquidation":
            answers.net_liquidation = amount(float(value))

    def _asked(self, about: About) -> Answers | None:
        """Where the rows of an answer go; None when nobody has asked for them."""
        return self._answers if self._answers and self._answers.about is about else None

    def _is_ours(self, account: str) -> bool:
        return account in ("", self._account)


def _keep(known: dict[K, V], key: K, value: V) -> None:
    """Remembers, and forgets the oldest once there are too many."""
    known[key] = value
    if len(known) > REMEMBERED:
        del known[next(iter(known))]

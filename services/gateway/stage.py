"""The stage: runs each order's script, holds it where it waits, and lets it go on."""

import asyncio
from collections.abc import Callable
from decimal import Decimal

from services.gateway import messages
from services.gateway.exchange import Exchange, NotPossibleError
from services.gateway.play import Clients, Play
from services.gateway.records import Order, Outcome, Status, Ticket
from services.gateway.scenario import Rule, Rules, Scenario
from services.gateway.scripts import Script, Wait, resumed, script_of


class Stage:
    """All orders that are on their way. `price` says what a market order fills at."""

    def __init__(
        self,
        exchange: Exchange,
        clients: Clients,
        rules: Rules,
        price: Callable[[Ticket], Decimal],
        account: str,
    ) -> None:
        self._exchange = exchange
        self._clients = clients
        self._rules = rules
        self._price = price
        self._account = account
        self._plays: dict[int, tuple[Play, Script]] = {}  # by a number of our own, in order
        self._held: dict[int, None] = {}  # in the order in which they began to wait
        self._timers: dict[int, asyncio.TimerHandle] = {}
        self._begun = 0
        self.market_is_closed = False

    def place(self, client_id: int, order_id: int, ticket: Ticket) -> None:
        """A placeOrder that can be carried out: its scenario begins."""
        rule = self._rules.for_order(ticket.symbol)
        if self.market_is_closed and rule.scenario is Scenario.IMMEDIATE_FILL:
            rule = Rule(Scenario.WARNING_399)
        play = self._play(rule, client_id, order_id, ticket)
        self._begin(play, script_of(play))

    def refuse(self, client_id: int, order_id: int, ticket: Ticket, code: int, text: str) -> None:
        """A placeOrder that no broker would take."""
        self._play(Rule(Scenario.REJECT_200), client_id, order_id, ticket).refuse(code, text)

    def repeat(self, order: Order) -> None:
        """The same placeOrder again: no second order, only the state of the first."""
        self._exchange.record(order.client_id, order.order_id, order.ticket, Outcome.REPEATED)
        play = self._of(order)
        if order.scenario != Scenario.SILENT:
            play.show_order()
            play.show_status()

    def cancel(self, client_id: int, order_id: int) -> None:
        """A cancelOrder: what its order's scenario makes of it."""
        order = self._exchange.find(client_id, order_id)
        if order is None:
            self._refuse_cancel(client_id, order_id, 10147, "is not found.")
            return
        order = self._exchange.change(order.perm_id, cancel_received=True)
        play = self._of(order)
        if order.scenario == Scenario.SILENT:
            return
        if not order.is_working or order.scenario == Scenario.CANCEL_REFUSED:
            text = f"cannot be cancelled, state: {order.status}."
            self._refuse_cancel(client_id, order_id, 10148, text)
            return
        play.set_status(Status.PENDING_CANCEL)
        play.show_status()
        if order.scenario == Scenario.CANCEL_RACE:
            play.fill_rest()
        else:
            play.end(Status.CANCELLED, "Cancelled by the client")
            play.show_order()
            play.show_status()
            play.show_error(202, "Order Canceled - reason:")

    def release(self, symbol: str = "") -> int:
        """Lets all that waits go on to where it next waits; `symbol` empty: all. Says how many."""
        waiting = [
            number for number in self._held if symbol in ("", self._plays[number][0].ticket.symbol)
        ]
        for number in waiting:
            self._let_go(number)
        return len(waiting)

    def fill(self, order: Order, shares: Decimal, price: Decimal) -> None:
        """Fills a part of an order by hand, and tells its client.

        Raises:
            NotPossibleError: The order has ended or has less open.
        """
        play = self._of(order, lambda _: price)
        if play.fill(shares) is None:
            raise NotPossibleError(f"Order {order.perm_id} is {order.status}; it takes no fill.")

    def open_market(self) -> None:
        """The market opens: orders that wait for it go on."""
        self.market_is_closed = False
        for number in list(self._held):
            if self._plays[number][0].rule.scenario is Scenario.WARNING_399:
                self._let_go(number)

    def resume(self) -> None:
        """After a restart: orders go on, or wait for release() where they did."""
        for execution in list(self._exchange.executions.values()):
            if not execution.reported:
                self._exchange.report(execution.exec_id)
        for order in self._exchange.working:
            if order.status is Status.PENDING_CANCEL:
                self._exchange.end(order.perm_id, Status.CANCELLED, "Cancelled by the client")
            else:
                play = self._of(order)
                self._begin(play, resumed(play))

    def stop(self) -> None:
        """Nothing goes on by itself from now on."""
        for timer in self._timers.values():
            timer.cancel()

    def _begin(self, play: Play, script: Script) -> None:
        self._begun += 1
        self._plays[self._begun] = (play, script)
        self._advance(self._begun)

    def _advance(self, number: int) -> None:
        """Runs a script until it waits or ends."""
        play, script = self._plays[number]
        try:
            for wait in script:
                if play.rule.delay_s > 0:
                    later = asyncio.get_running_loop().call_later
                    self._timers[number] = later(play.rule.delay_s, self._go_on, number)
                    return
                if wait is Wait.HOLD or play.rule.held:
                    self._held[number] = None
                    play.set_held(held=True)
                    return
        except NotPossibleError:
            pass  # the order was cancelled, or filled by hand, while its script waited
        del self._plays[number]

    def _let_go(self, number: int) -> None:
        del self._held[number]
        self._plays[number][0].set_held(held=False)
        self._advance(number)

    def _go_on(self, number: int) -> None:
        del self._timers[number]
        self._advance(number)

    def _of(self, order: Order, price: Callable[[Ticket], Decimal] | None = None) -> Play:
        known = Scenario.__members__.get(order.scenario, Scenario.HELD)  # a trade by hand has none
        play = self._play(Rule(known), order.client_id, order.order_id, order.ticket, price)
        play.resume(order)
        return play

    def _play(
        self,
        rule: Rule,
        client_id: int,
        order_id: int,
        ticket: Ticket,
        price: Callable[[Ticket], Decimal] | None = None,
    ) -> Play:
        return Play(
            self._exchange,
            self._clients,
            price or self._price,
            rule,
            client_id,
            order_id,
            ticket,
            self._account,
        )

    def _refuse_cancel(self, client_id: int, order_id: int, code: int, text: str) -> None:
        words = f"OrderId {order_id} that needs to be cancelled {text}"
        self._clients.tell(client_id, messages.error(order_id, code, words))

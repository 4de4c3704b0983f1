"""The sender: the one process among all replicas that speaks to the broker.

It is elected by a lock in the database and writes its intents on the session that holds the lock,
so whoever has lost the lock can send nothing more. What the broker says goes into the ledger
through the writer; what may have been missed is asked for after every connect, and on a timer.
"""

import asyncio
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TypeVar
from uuid import UUID

import structlog
from prometheus_client import Counter

from services.portfolio.commands import Command
from services.portfolio.domain.errors import LedgerError
from services.portfolio.domain.evidence import (
    AtBroker,
    BrokerEvent,
    BrokerExecution,
    Commissioned,
    Evidence,
    Executed,
    LineLost,
    Notice,
    Refused,
    Reported,
)
from services.portfolio.domain.money import plain, plain_quantity
from services.portfolio.domain.order import Order, Status
from services.portfolio.domain.reconciliation import Reconciliation, compare
from services.portfolio.domain.weather import BrokerState, MarketData, Weather, away
from services.portfolio.live.commands import BookCommission, BookExecution, EndOrder
from services.portfolio.live.comparison import Comparison
from services.portfolio.live.funding import Funding
from services.portfolio.live.ports import Baton, Intent, Line, LineError, OutvotedError
from services.portfolio.live.verdict import Doubt, Hearsay, judge
from services.portfolio.ports import Clock, Feed, UnavailableError
from services.portfolio.writer import Writer

ELECT_EVERY_S = 0.5
BEAT_S = 1.0  # between two words to the other replicas
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 15.0  # between two attempts to connect
LOOK_AGAIN_S = 1.0  # while there are doubts
LOOK_AFTER_FILLS_S = 3.0
LOOK_WHILE_OPEN_S = 10.0  # while orders are at the broker
MOST_AT_ONCE = 256  # commands of ours in the writer's queue, which is bounded and not ours alone
MOST_LOOKS = 5  # before orders are taken again, while positions keep moving

SURE_OF_POSITIONS = timedelta(seconds=LOOK_AGAIN_S) * 0.9  # looks apart that agree

CONNECTIVITY_LOST = 1100
RESTORED = {1101, 1102}
SERVER_AWAY = 2110  # the gateway's other word for it; what ends it may be a farm that is back
FARM_AWAY, FARM_BACK = {2103, 2105, 2157}, {2104, 2106, 2158}
COMPETING_SESSION = 10197
# The broker knows of no such order to cancel: it never had it, or has forgotten how it ended.
NOTHING_TO_CANCEL = {135, 10147}

SENT = Counter("portfolio_broker_orders_sent", "Orders handed to the broker's line.")
TAKEN = Counter(
    "portfolio_broker_executions_taken", "Executions of ours handed to the ledger, repeats too."
)
LOOKS = Counter("portfolio_broker_looks", "Times that the broker was asked for all its evidence.")
NOT_BOOKED = Counter("portfolio_broker_evidence_not_booked", "What the ledger could not hold.")

log = structlog.get_logger()
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Plan:
    """How the sender is set up. Times in seconds."""

    client_id: int
    replica: str  # this process, for people
    answer_within_s: float = 10.0  # then an order that the broker has not spoken of is UNKNOWN
    queue_within_s: float = 30.0  # then an order that could not be sent is ended
    reconcile_every_s: float = 60.0
    sure_after_s: float = 5.0  # how long looks must agree before they end an order
    price_distance: Decimal | None = Decimal("0.05")  # of the broker's last price; None: any


class Sender:
    """Stands for election, and while elected sends orders and books what the broker says."""

    def __init__(
        self,
        line: Line,
        baton: Baton,
        writer: Writer,
        funding: Funding,
        feed: Feed,
        plan: Plan,
        clock: Clock,
    ) -> None:
        self._line = line
        self._baton = baton
        self._writer = writer
        self._funding = funding
        self._feed = feed
        self._plan = plan
        self._clock = clock
        self._stir = asyncio.Event()
        self._inbox: list[BrokerEvent] = []
        self._weather = Weather(BrokerState.DOWN, clock(), sender=plan.replica)
        self._told: Weather | None = None
        self._last_connected: datetime | None = None
        self._lost_by: int | None = None  # the code that said that the gateway has lost IB
        self._look_due = clock()
        self._hearsay: dict[UUID, Hearsay] = {}
        self._doubts: dict[UUID, Doubt] = {}
        self._asked_to_cancel: set[UUID] = set()
        self._booked: dict[str, Decimal | None] = {}  # executions, with the commission booked
        self._said: set[tuple[str, str]] = set()  # of what could not be booked
        self._comparison = Comparison(SURE_OF_POSITIONS)

    async def run(self) -> None:
        """Stands for election and holds the line while elected, until it is cancelled."""
        helpers = [
            asyncio.create_task(self._stir_on_commits(), name="sender-commits"),
            asyncio.create_task(self._stir_on_events(), name="sender-events"),
        ]
        try:
            while True:
                try:
                    if await self._baton.take():
                        log.info("sender_elected", replica=self._plan.replica)
                        await self._hold_line()
                except (OutvotedError, UnavailableError) as error:
                    log.warning("sender_stepped_back", why=str(error) or type(error).__name__)
                except Exception:  # a fault of ours: let go of everything, and let another try
                    log.exception("sender_failed")
                    with suppress(OutvotedError, UnavailableError):
                        await self._baton.drop()
                finally:
                    await self._line.disconnect()
                await asyncio.sleep(ELECT_EVERY_S)
        finally:
            for helper in helpers:
                helper.cancel()
            with suppress(OutvotedError, UnavailableError):
                stopped = "The router that held the line has stopped; another one takes over."
                await self._turn(BrokerState.DOWN, stopped)
            with suppress(OutvotedError, UnavailableError):
                await self._baton.drop()

    # -- the line -------------------------------------------------------------------------------

    async def _hold_line(self) -> None:
        """Connects, serves, and connects again, for ever."""
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                await self._connect()
                pause_s = FIRST_PAUSE_S
                await self._serve()
            except LineError as error:
                log.warning("line_lost", why=str(error))
                await self._say_away(str(error))
            finally:
                await self._line.disconnect()
            await self._end_those_that_cannot_wait()
            await self._beating(asyncio.sleep(pause_s))
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)

    async def _connect(self) -> None:
        """Connects, and compares everything before the first new order is taken."""
        first_id = await self._baton.first_id(self._plan.client_id)
        self._inbox.clear()
        account = await self._beating(self._line.connect(first_id))
        self._asked_to_cancel.clear()
        self._weather = replace(self._weather, account=account, market_data=MarketData.OK)
        await self._reconcile("The ledger is being compared with the broker.")

    async def _reconcile(self, why: str) -> None:
        await self._turn(BrokerState.RECONCILING, why)
        await self._look()
        for _ in range(MOST_LOOKS):
            if not self._comparison.unsure:
                break
            await self._beating(asyncio.sleep(LOOK_AGAIN_S))
            await self._look()
        await self._turn(BrokerState.CONNECTED, "")
        self._last_connected = self._clock()

    async def _serve(self) -> None:
        """Sends, listens and looks, until the line or the lock is lost."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(BEAT_S):
                    await self._stir.wait()
            self._stir.clear()
            await self._hear()
            if self._weather.state is BrokerState.CONNECTED:
                self._last_connected = self._clock()
                await self._send()
                await self._cancel()
                if self._clock() >= self._look_due or await self._any_is_silent():
                    await self._look()
            else:
                await self._end_those_that_cannot_wait()
            await self._beat()

    # -- listening ------------------------------------------------------------------------------

    async def _hear(self) -> None:
        """Takes in, in order, what the broker has said without being asked."""
        events, self._inbox = self._inbox, []
        commands: list[Command] = []
        for event in events:
            match event:
                case Executed(execution):
                    commands += self._booking(execution)
                    self._look_within(LOOK_AFTER_FILLS_S)
                case Commissioned(ref, execution_id, commission) if order_id := _uuid(ref):
                    commands.append(BookCommission(order_id, execution_id, commission))
                case Reported(order):
                    # A later word takes an earlier one back: "Cancelled" may have been false.
                    self._note(order.order_ref, cancelled=order.state is AtBroker.CANCELLED)
                    if order.state in (AtBroker.CANCELLED, AtBroker.INACTIVE):
                        self._look_within(0)
                    elif order.state is AtBroker.FILLED:
                        self._look_within(LOOK_AGAIN_S)
                case Refused(code=code) if code in NOTHING_TO_CANCEL:
                    self._look_within(0)
                case Refused(ref, code, message):
                    log.warning("order_refused", order_id=ref, code=code, message=message)
                    self._note(ref, refusal=f"{message} (code {code})")
                    self._look_within(0)
        await self._book(commands)
        for event in events:
            if isinstance(event, Notice):
                await self._heed(event)
            elif isinstance(event, LineLost):
                raise LineError(event.why)

    async def _heed(self, notice: Notice) -> None:
        """Lets a word about the connection or the prices change the weather."""
        code, detail = notice.code, f"{notice.message} (code {notice.code})"
        log.info("broker_notice", code=code, message=notice.message)
        if code in (CONNECTIVITY_LOST, SERVER_AWAY):
            self._lost_by = code
            state, told = away(self._clock(), self._last_connected, detail)
            is_down = state is BrokerState.DOWN
            await self._turn(BrokerState.CONNECTIVITY_LOST if is_down else state, told)
        elif code in RESTORED or (code in FARM_BACK and self._lost_by == SERVER_AWAY):
            self._lost_by = None
            await self._reconcile(detail)
        elif code in FARM_AWAY:
            self._weather = replace(self._weather, market_data=MarketData.BROKEN)
        elif code in FARM_BACK:
            self._weather = replace(self._weather, market_data=MarketData.OK)
        elif code == COMPETING_SESSION:
            self._weather = replace(self._weather, market_data=MarketData.COMPETING_SESSION)

    def _note(self, ref: str, **heard: object) -> None:
        """Keeps what was heard of one of our orders."""
        if order_id := _uuid(ref):
            known = self._hearsay.get(order_id, Hearsay())
            self._hearsay[order_id] = replace(known, answered=True, **heard)  # type: ignore[arg-type]

    # -- booking --------------------------------------------------------------------------------

    def _booking(self, execution: BrokerExecution) -> list[Command]:
        """What books an execution of ours; nothing when it is booked with its commission."""
        order_id = _uuid(execution.order_ref)
        known = self._booked.get(execution.execution_id, NEVER)
        if order_id is None or known == execution.commission:
            return []
        self._note(execution.order_ref)
        return [BookExecution(execution)]

    async def _book(self, commands: Sequence[Command]) -> None:
        """Books in order. What the ledger cannot hold is left to the comparison to show."""
        for first in range(0, len(commands), MOST_AT_ONCE):
            await self._book_some(commands[first : first + MOST_AT_ONCE])
            await self._beat()  # a new sender may have a whole day to book

    async def _book_some(self, commands: Sequence[Command]) -> None:
        outcomes = await asyncio.gather(
            *(self._writer.submit(command) for command in commands), return_exceptions=True
        )
        for command, outcome in zip(commands, outcomes, strict=True):
            if isinstance(outcome, LedgerError):
                self._say_not_booked(command, outcome)
            elif isinstance(outcome, BaseException):
                raise outcome
            elif isinstance(command, BookExecution):
                TAKEN.inc()
                self._booked[command.execution.execution_id] = command.execution.commission
                said = command.execution
                log.info(
                    "execution_in_ledger",
                    order_id=said.order_ref,
                    execution_id=said.execution_id,
                    quantity=plain_quantity(said.quantity),
                    price=plain(said.price),
                )
            elif isinstance(command, BookCommission):
                self._booked[command.execution_id] = command.commission

    def _say_not_booked(self, command: Command, error: LedgerError) -> None:
        """Logs, once, what the ledger cannot hold now; each look tries it again."""
        NOT_BOOKED.inc()
        if (said := (repr(command), error.message)) not in self._said:
            self._said.add(said)
            log.error("evidence_not_booked", evidence=said[0], why=said[1])

    # -- sending --------------------------------------------------------------------------------

    async def _send(self) -> None:
        """Sends what waits: ids are committed first, and no id is ever used twice."""
        waiting = await self._baton.unsent()
        if any(intent.order.symbol in self._comparison.frozen for intent in waiting):
            await self._look()  # it was taken: somebody may have said whose the shares are
        fit: list[Order] = []
        for intent in waiting:
            why_not = await self._why_not(intent)
            if why_not is not None:
                await self._withdraw(intent, *why_not)
            else:
                fit.append(intent.order)
        del fit[max(self._line.room(), 0) :]  # the others go next, in less than a second
        ids = {order.order_id: self._line.next_order_id() for order in fit}
        if not ids:
            return
        assigned = await self._baton.assign(self._plan.client_id, ids)
        # Nothing is awaited from here on: whoever was allowed to send a moment ago, sends now.
        for order in fit:
            if order.order_id in assigned:
                self._hearsay[order.order_id] = Hearsay()
                self._line.place(order, ids[order.order_id])
                SENT.inc()
        if assigned:
            log.info("orders_sent", orders=[str(order_id) for order_id in assigned])

    async def _why_not(self, intent: Intent) -> tuple[Status, str] | None:
        """Why an order is not to be sent; None when it is."""
        order = intent.order
        if intent.cancel_requested:
            return Status.CANCELLED, "Cancelled before it was sent."
        if order.symbol in self._comparison.frozen:
            return Status.REJECTED, f"Not sent: {order.symbol} is frozen, see GET /reconciliation."
        if self._waited_too_long(order):
            return Status.REJECTED, self._too_late()
        far = await self._price_is_far(order)
        return (Status.REJECTED, f"Not sent: {far}") if far else None

    async def _price_is_far(self, order: Order) -> str:
        """What is wrong with the price that the strategy named; empty when nothing is."""
        distance = self._plan.price_distance
        if distance is None:
            return ""
        last = await self._beating(self._line.last_price(order.symbol))
        if last is None:
            return (
                f"the broker told no price of {order.symbol} to compare {plain(order.price)} with. "
                "If it goes on, subscribe to its market data, or set PRICE_DISTANCE=off."
            )
        if abs(order.price - last) > last * distance:
            return (
                f"the price {plain(order.price)} lies more than {distance:.1%} from the broker's "
                f"last price {plain(last)}."
            )
        return ""

    def _waited_too_long(self, order: Order) -> bool:
        waited = self._clock() - order.create_time
        return waited > timedelta(seconds=self._plan.queue_within_s)

    def _too_late(self) -> str:
        waited = f"{self._plan.queue_within_s:g} s"
        return f"Never sent: it could not be sent within {waited} ({self._weather.state})."

    async def _withdraw(self, intent: Intent, status: Status, reason: str) -> None:
        """Ends an order that no sender has sent, and that none can send any more."""
        if await self._baton.withdraw(intent.order.order_id):
            log.warning("order_not_sent", order_id=str(intent.order.order_id), why=reason)
            await self._book([EndOrder(intent.order.order_id, status, reason)])

    async def _cancel(self) -> None:
        """Asks the broker to cancel what is asked of us; the orders stay as they are until then."""
        for intent in await self._baton.sent() if self._hearsay else ():
            order = intent.order
            if intent.cancel_requested and order.order_id not in self._asked_to_cancel:
                if self._line.room() < 1:
                    return
                self._line.cancel(order, intent.broker_order_id or 0)
                self._asked_to_cancel.add(order.order_id)
                self._look_within(LOOK_AGAIN_S)

    async def _end_those_that_cannot_wait(self) -> None:
        """While nothing can be sent: ends what waited too long, and says UNKNOWN of the silent."""
        for intent in await self._baton.unsent():
            if intent.cancel_requested:
                await self._withdraw(intent, Status.CANCELLED, "Cancelled before it was sent.")
            elif self._waited_too_long(intent.order):
                await self._withdraw(intent, Status.REJECTED, self._too_late())
        silent = [i for i in await self._baton.sent() if self._is_silent(i)]
        reason = "It was sent, and the broker has not said that it has it; the line is away."
        await self._book(
            [
                EndOrder(intent.order.order_id, Status.UNKNOWN, reason)
                for intent in silent
                if intent.order.status is Status.PENDING
            ]
        )

    def _is_silent(self, intent: Intent) -> bool:
        """Whether the broker should have spoken of this order by now, and has not."""
        heard = self._hearsay.get(intent.order.order_id)
        if heard is not None and heard.answered:
            return False
        limit = timedelta(seconds=self._plan.answer_within_s)
        return intent.sent_time is None or self._clock() - intent.sent_time > limit

    async def _any_is_silent(self) -> bool:
        if all(heard.answered for heard in self._hearsay.values()) or self._doubts:
            return False
        return any(map(self._is_silent, await self._baton.sent()))

    # -- looking --------------------------------------------------------------------------------

    async def _look(self) -> None:
        """Asks for all evidence, books what was missed, judges open orders, compares positions."""
        LOOKS.inc()
        intents = await self._baton.sent()  # before asking: what is sent later is not judged
        evidence = await self._beating(self._line.evidence())
        await self._book([c for e in evidence.executions for c in self._booking(e)])
        for order in (*evidence.open_orders, *evidence.completed_orders):
            self._note(order.order_ref)
        await self._judge({intent.order.order_id for intent in intents}, evidence)
        await self._compare(evidence)
        restless = self._doubts or self._comparison.unsure or self._comparison.frozen
        pause_s = LOOK_AGAIN_S if restless else self._plan.reconcile_every_s
        if self._hearsay:  # orders are at the broker, and not all that it does may be told
            pause_s = min(pause_s, LOOK_WHILE_OPEN_S)
        self._look_due = self._clock() + timedelta(seconds=pause_s)

    async def _judge(self, looked_for: set[UUID], evidence: Evidence) -> None:
        """Ends, or doubts, the orders that the evidence speaks against."""
        doubts: dict[UUID, Doubt] = {}
        open_now: set[UUID] = set()
        commands: list[Command] = []
        for intent in await self._baton.sent():
            order_id = intent.order.order_id
            open_now.add(order_id)
            if order_id not in looked_for:
                continue
            verdict = judge(
                intent,
                evidence,
                self._hearsay.get(order_id, Hearsay()),
                self._doubts.get(order_id),
                timedelta(seconds=self._plan.sure_after_s),
            )
            if verdict.doubt is not None:
                doubts[order_id] = verdict.doubt
            if verdict.status is not None:
                log.warning("order_judged", order_id=str(order_id), verdict=verdict.reason)
                commands.append(EndOrder(order_id, verdict.status, verdict.reason))
        await self._book(commands)
        self._doubts = doubts
        self._hearsay = {k: heard for k, heard in self._hearsay.items() if k in open_now}
        self._asked_to_cancel &= open_now

    async def _compare(self, evidence: Evidence) -> None:
        """Publishes the ledger beside the broker, and says which symbols that freezes or frees."""
        _, cash = await self._baton.strategies()
        await self._funding.share(evidence.cash, cash)
        strategies, cash = await self._baton.strategies()
        acknowledged = await self._baton.acknowledged()
        before = self._comparison.frozen
        self._comparison.take(compare(evidence.positions, strategies, acknowledged), evidence.asked)
        after = self._comparison.frozen
        for symbol in after.keys() - before.keys():
            log.error("symbol_frozen", symbol=symbol, difference=plain(after[symbol].unattributed))
        for symbol in before.keys() - after.keys():
            log.info("symbol_released", symbol=symbol)
        rows = self._comparison.rows
        await self._baton.keep(
            Reconciliation(evidence.asked, rows, evidence.cash, cash, evidence.net_liquidation)
        )

    def _look_within(self, seconds: float) -> None:
        self._look_due = min(self._look_due, self._clock() + timedelta(seconds=seconds))

    # -- what others see ------------------------------------------------------------------------

    async def _turn(self, state: BrokerState, detail: str) -> None:
        """Changes the weather, and says so."""
        if state is not self._weather.state:
            log.info("broker_weather", state=state, detail=detail)
            self._weather = replace(self._weather, state=state, since=self._clock())
        self._weather = replace(self._weather, detail=detail)
        await self._beat()

    async def _say_away(self, why: str) -> None:
        await self._turn(*away(self._clock(), self._last_connected, why))

    async def _beat(self) -> None:
        """Tells the other replicas what is new, or that we are there if we have not for a while.

        It is also the proof that the lock is still ours. Told at every turn, each word would wake
        us for the next.

        Raises:
            OutvotedError: It is not.
        """
        now = self._clock()
        told = self._weather.heartbeat
        unchanged = self._weather == self._told
        if unchanged and told is not None and now - told < timedelta(seconds=BEAT_S):
            return
        self._weather = replace(self._weather, heartbeat=now)
        await self._baton.say(self._weather)
        self._told = self._weather

    async def _beating(self, waiting: Awaitable[Result]) -> Result:
        """Waits for the broker; meanwhile we say that we are there, and end what cannot wait."""
        task = asyncio.ensure_future(waiting)
        try:
            while not (await asyncio.wait({task}, timeout=BEAT_S))[0]:
                if self._weather.state is not BrokerState.CONNECTED:
                    await self._end_those_that_cannot_wait()
                await self._beat()
            return task.result()
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait({task})

    async def _stir_on_commits(self) -> None:
        """Wakes the sender when any replica has committed something that concerns the broker."""
        while True:
            with suppress(UnavailableError):
                async with self._feed.subscribe() as commits:
                    self._stir.set()
                    async for commit in commits:
                        if commit.broker:
                            self._stir.set()
            await asyncio.sleep(ELECT_EVERY_S)

    async def _stir_on_events(self) -> None:
        """Moves what the broker says into the inbox, in order, and wakes the sender."""
        while True:
            event = await self._line.events.get()
            self._inbox.append(event)  # to the inbox of now: a turn may have emptied it meanwhile
            self._stir.set()


NEVER = Decimal("NaN")  # equals no commission, and not None


def _uuid(ref: str) -> UUID | None:
    """The order that a reference names, if it is one of ours."""
    try:
        return UUID(ref)
    except ValueError:
        return None

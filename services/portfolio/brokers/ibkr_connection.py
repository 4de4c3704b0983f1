"""One connection to TWS or IB Gateway, from its opening to its end; never opened twice.

The library keeps the socket, the handshake, the encoding and the decoding. What it would make of
the messages (trades, statuses, tickers) is left aside, because it is lossy where it matters: it
takes warnings for endings and drops duplicates. We hear each message as it was decoded.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog

from services.portfolio.brokers import ib_library
from services.portfolio.brokers.ibkr_words import UNSET_INTEGER, is_warning, plain_words
from services.portfolio.live.ports import LineError

MESSAGES_A_SECOND = 45  # IB disconnects who writes more than 50

UNNUMBERED = -1

Heard = Mapping[str, Callable[..., None]]  # what to do with a message, by the library's name of it

_ENDS = ("openOrderEnd", "completedOrdersEnd", "execDetailsEnd", "positionEnd", "accountSummaryEnd")
# Said while a client logs in: its id is in use, or the gateway will not have it.
_REFUSALS = frozenset({326, 501, 502, 503, 507})
# Messages by their number on the wire, none of which may be missed: openOrder, execDetails,
# commissionReport, position, completedOrder. The library logs what it cannot read and goes on.
_VITAL = frozenset({"5", "11", "59", "61", "101"})

log = structlog.get_logger()


@dataclass(slots=True)
class _Question:
    """What is being asked now, and the message that will end the answer."""

    end: str
    number: int
    answered: asyncio.Future[str]  # empty when all is well, else why not


class Connection:
    """One connection. Made on the loop that uses it."""

    def __init__(self, heard: Heard, on_end: Callable[[str], None], timeout_s: float) -> None:
        """`on_end` is called once, when the connection ends, and told why."""
        self._heard = heard
        self._tell_end = on_end
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[str] = self._loop.create_future()  # why
        self._unplugged = asyncio.Event()
        self._question: _Question | None = None
        self._written: deque[float] = deque()
        self.library = ib_library.load()
        self.client = self._client()

    def _client(self) -> Any:
        """The library's client, with us between it and its wrapper, and before its socket."""
        ib = self.library.IB()
        ours: dict[str, Callable[..., None]] = {end: partial(self._on_end, end) for end in _ENDS}
        ours |= {**self._heard, "openOrder": self._on_open_order, "error": self._on_error}
        client = ib.client = self.library.client.Client(_Tap(ib.wrapper, ours))
        client.MaxRequests = 0  # its throttle queues in memory, and forgets the queue on a drop
        self._send = client.conn.sendMsg
        client.conn.sendMsg = self._write
        client.conn.disconnected.connect(self._on_disconnected, keep_ref=True)
        client.decoder.interpret = self._interpret
        return client

    @property
    def is_open(self) -> bool:
        """Whether messages can be written."""
        return not self._ended.done() and bool(self.client.isReady())

    def room(self) -> int:
        """How many messages may be written now."""
        now = self._loop.time()
        while self._written and now - self._written[0] > 1:
            self._written.popleft()
        return max(0, MESSAGES_A_SECOND - len(self._written))

    def new_number(self) -> int:
        """A number that no order and no question of this connection has had.

        Raises:
            LineError: The connection is gone.
        """
        self._require_open()
        return int(self.client.getReqId())

    async def open(self, host: str, port: int, client_id: int) -> list[str]:
        """Connects and logs in; returns the accounts of the login.

        Raises:
            LineError: It cannot be reached, does not answer in time, or refuses us.
        """
        where = f"{host}:{port}"
        # Without the library's own time limit, which may swallow a cancellation on Python 3.11.
        opening = asyncio.ensure_future(self.client.connectAsync(host, port, client_id, 0))
        try:
            await self._first_of(opening)
            if self._ended.done():
                raise LineError(f"{where} refused client id {client_id}: {self._ended.result()}")
            if not opening.done():
                raise LineError(
                    f"{where} did not log us in within {self._timeout_s:g} s. Is the gateway "
                    "logged in, are API clients enabled in its settings, and is client id "
                    f"{client_id} free?"
                )
            opening.result()
            return list(self.client.getAccounts())
        except OSError as error:
            raise LineError(
                f"No gateway at {where}: {error}. Start TWS or IB Gateway, and compare IBKR_HOST "
                "and IBKR_PORT with its API settings (IB Gateway: 4001 live, 4002 paper)."
            ) from error
        finally:
            opening.cancel()
            await asyncio.wait({opening})
            if not opening.cancelled():
                opening.exception()  # it has been read: the loop need not complain

    async def ask(
        self, what: str, end: str, send: Callable[[], None], number: int = UNNUMBERED
    ) -> None:
        """Asks, and returns when the answer has ended; its rows are heard in the meantime.

        `end` is the message that ends the answer, and `number` the question's, if it has one.
        A question that has not ended well ends the connection: the rest of its answer could not be
        told from the answer to the next.

        Raises:
            LineError: The answer did not come in time, or the connection is gone.
        """
        question = _Question(end, number, self._loop.create_future())
        await self.until_room()
        self._question = question
        try:
            self.write(send)
            await self._first_of(question.answered)
        finally:
            self._question = None
            refusal = self._refusal(question)
            if refusal:
                self.fail(f"The broker did not answer for {what}: {refusal}")
        if refusal:
            raise LineError(f"The broker did not answer for {what}: {refusal}")

    def write(self, send: Callable[[], None]) -> None:
        """Writes one message now.

        Raises:
            LineError: The connection is gone, or there is no room; it was not written.
        """
        self._require_open()
        if not self.room():
            raise LineError(
                f"{MESSAGES_A_SECOND} messages were written to the broker within a second, which "
                "is all that it takes. Nothing was sent; write no more than room() says."
            )
        send()

    async def until_room(self) -> None:
        """Waits, about a second at most unless others write as well, until a message may go."""
        while not self.room():  # noqa: ASYNC110 - it is time itself that is waited for
            await asyncio.sleep(self._written[0] + 1 - self._loop.time() + 0.001)

    def fail(self, why: str) -> None:
        """Ends the connection because it cannot be trusted any more."""
        if not self._ended.done():
            self._end(why)

    async def close(self) -> None:
        """Ends the connection because we want to; waits a moment until the socket is closed."""
        self.fail("We have closed the connection.")
        if self.client.conn.isConnected():
            with suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self._unplugged.wait()

    def _end(self, why: str) -> None:
        self._ended.set_result(why)
        transport = self.client.conn.transport
        if transport is not None and transport.get_write_buffer_size():
            transport.abort()  # what waits to be written must not go out after we have let go
        with suppress(OSError, RuntimeError):  # the socket may have gone this moment
            self.client.disconnect()
        self._tell_end(why)

    def _require_open(self) -> None:
        if not self.is_open:
            why = self._ended.result() if self._ended.done() else "it was never opened"
            raise LineError(f"There is no connection to the broker: {why}. Nothing was sent.")

    def _refusal(self, question: _Question) -> str:
        """Why a question was not answered; empty when it was."""
        if question.answered.done():
            return question.answered.result()
        if self._ended.done():
            return self._ended.result()
        return f"nothing came within {self._timeout_s:g} s."

    async def _first_of(self, awaited: "asyncio.Future[Any]") -> None:
        """Waits for it, for the end of the connection, or for the time limit."""
        await asyncio.wait(
            {awaited, self._ended}, timeout=self._timeout_s, return_when=asyncio.FIRST_COMPLETED
        )

    def _write(self, frame: bytes) -> None:
        self._written.append(self._loop.time())
        self._send(frame)

    def _interpret(self, fields: list[str]) -> None:
        """Has a message decoded and heard. One that cannot be read must not just be missed."""
        if self._ended.done():
            return
        kind = fields[0]
        try:
            self.client.decoder.handlers[int(kind)](fields)
        except Exception:  # whatever it was, the message is lost
            log.exception("broker_message_unreadable", kind=kind)
            if kind in _VITAL:
                self.fail(f"A message of kind {kind} could not be read; the log says why.")

    def _on_disconnected(self, why: str) -> None:
        self._unplugged.set()
        self.fail(why or "The gateway closed the connection.")

    def _on_end(self, end: str, *answered: int) -> None:
        question = self._question
        if question is None or question.end != end or question.answered.done():
            return
        if question.number in (UNNUMBERED, *answered):
            question.answered.set_result("")

    def _on_open_order(self, order_id: int, *rest: object) -> None:
        """IB wants new ids above all that it has shown us, other clients' included."""
        if order_id < UNSET_INTEGER:
            self.client.updateReqId(order_id + 1)
        self._heard["openOrder"](order_id, *rest)

    def _on_error(self, number: int, code: int, text: str, *_: object) -> None:
        said = f"{plain_words(text)} ({code})"
        question = self._question
        if not self.is_open and code in _REFUSALS:
            self.fail(said)
        elif question and question.number == number >= 0 and not is_warning(code):
            if not question.answered.done():
                question.answered.set_result(said)
        else:
            self._heard["error"](number, code, text)


class _Tap:
    """Stands where the library expects its wrapper: what we hear does not reach it."""

    def __init__(self, wrapper: Any, heard: Heard) -> None:
        self._wrapper = wrapper
        self._heard = heard

    def __getattr__(self, name: str) -> Any:
        if name in self._heard:
            return self._heard[name]
        return getattr(self._wrapper, name)

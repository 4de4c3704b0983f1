"""The ibkr feed: Interactive Brokers through IB Gateway or TWS (extra `ibkr`)."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from SureshotSDK.feeds._ib_library import find_library, load_library
from SureshotSDK.feeds._ib_link import IbkrSettings, IbLink
from SureshotSDK.feeds._protocol import Quote

T = TypeVar("T")

# More than IbLink ever waits for an answer: only a loop that is stuck takes longer.
_ANSWER_S = 60.0


class IbkrFeed:
    """The last trade's price and the daily closes of any US stock.

    The connection is made at the first question and kept, through every loss, until close(); it
    asks for prices and for nothing else. Where the login has no subscription to live prices,
    delayed ones are used, and the description says so. A price is fresh while the market shows a
    bid or an ask and its last trade was heard of within `max_age_s`; its session is the day of
    that trade in New York. `latest` waits up to `patience_s` when a symbol is asked for the first
    time, and never for a gateway that is away.

    The library lives on an event loop of its own, in a thread of its own: a strategy's code is not
    asynchronous, and nothing of it is patched. Raises: ValueError, when no library is installed.
    """

    interval_s = 60.0

    def __init__(
        self, settings: IbkrSettings, *, patience_s: float = 5.0, max_age_s: float = 1200.0
    ) -> None:
        find_library()
        self._settings = settings
        self._patience_s = patience_s
        self._max_age_s = max_age_s
        self._thread: _LinkThread | None = None
        self._why_none: dict[str, str] = {}

    @property
    def description(self) -> str:
        """Interactive Brokers, and the symbols whose prices are delayed."""
        delayed = self._thread.ask(_delayed) if self._thread and self._thread.is_alive else []
        return "Interactive Brokers" + (f" ({', '.join(delayed)} delayed)" if delayed else "")

    def history(self, symbol: str, n: int) -> list[float]:
        """The last `n` closes before the current session, oldest first."""
        return self._running().ask(lambda link: link.closes(symbol, n))

    def latest(self, symbol: str) -> Quote | None:
        """The last trade's price; None when it is not fresh, and `why_none` says why."""
        quote, self._why_none[symbol] = self._running().ask(lambda link: link.quote(symbol))
        return quote

    def why_none(self, symbol: str) -> str:
        """Why the last look at the symbol found no fresh price; empty when it found one."""
        return self._why_none.get(symbol, "")

    def advance(self) -> bool:
        """Nothing to do: the market goes on by itself."""
        return True

    def close(self) -> None:
        """Ends the connection; another question makes it anew."""
        if self._thread:
            self._thread.close()
            self._thread = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _running(self) -> "_LinkThread":
        if self._thread is None or not self._thread.is_alive:
            self._thread = _LinkThread(
                lambda: IbLink(
                    load_library(),
                    self._settings,
                    patience_s=self._patience_s,
                    max_age_s=self._max_age_s,
                )
            )
        return self._thread


async def _delayed(link: IbLink) -> list[str]:
    return link.delayed()


@dataclass(frozen=True)
class _Running:
    loop: asyncio.AbstractEventLoop
    link: IbLink
    keeper: asyncio.Task[None]


class _LinkThread:
    """A thread that keeps a link; `make` is called on its event loop."""

    def __init__(self, make: Callable[[], IbLink]) -> None:
        started: Future[_Running] = Future()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(_keep(make, started)), name="ibkr-feed", daemon=True
        )
        self._thread.start()
        self._running = started.result(_ANSWER_S)

    @property
    def is_alive(self) -> bool:
        """Whether questions are answered."""
        return self._thread.is_alive()

    def ask(self, question: Callable[[IbLink], Coroutine[Any, Any, T]]) -> T:
        """Puts a question to the link, from any other thread."""
        asked = question(self._running.link)
        return asyncio.run_coroutine_threadsafe(asked, self._running.loop).result(_ANSWER_S)

    def close(self) -> None:
        """Ends the link and the thread."""
        with suppress(RuntimeError):  # its loop has closed already
            self._running.loop.call_soon_threadsafe(self._running.keeper.cancel)
        self._thread.join(_ANSWER_S)


async def _keep(make: Callable[[], IbLink], started: "Future[_Running]") -> None:
    try:
        link = make()
    except Exception as cause:  # noqa: BLE001 - raised in the thread that waits for the start
        started.set_exception(cause)
        return
    keeper = asyncio.create_task(link.keep())
    started.set_result(_Running(asyncio.get_running_loop(), link, keeper))
    with suppress(asyncio.CancelledError):
        await keeper

"""The mesh: starts all parts in order, keeps them running, shows them, and stops them in reverse.

One loop in the main thread looks at every part and reads the news that threads have put into one
queue. Parts are started in that thread alone; services/mesh/child.py says why.
"""

import json
import queue
import signal
import sys
import threading
import time
from contextlib import ExitStack, suppress
from decimal import Decimal
from types import FrameType
from typing import Any

from services.mesh.access import Access
from services.mesh.board import (
    Board,
    Broker,
    Order,
    Portfolio,
    note_of,
    note_of_broker,
    note_of_order,
)
from services.mesh.child import Child
from services.mesh.envoy import Envoy
from services.mesh.errors import MeshError
from services.mesh.gateway import Gateway
from services.mesh.health import is_serving
from services.mesh.keeper import Keeper, Part
from services.mesh.lock import FolderLock
from services.mesh.ports import LOOPBACK, check_port, free_port
from services.mesh.postgres import EmbeddedPostgres
from services.mesh.screen import Screen
from services.mesh.settings import Settings
from services.mesh.watch import Watch

START_S = 60
LOOK_S = 0.1
TRIM_S = 10.0
RENEW_S = 600.0  # certificates and tokens last for days
QUEUED_NEWS = 10_000

News = Portfolio | Order | Broker | tuple[str, dict[str, Any]]  # the last: a strategy's log event


class Mesh:
    """One run of the whole mesh; `run` returns after Ctrl-C or SIGTERM."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._logs = settings.data_dir / "logs"
        self._access = Access(settings)
        self._router_address = f"{LOOPBACK}:{free_port()}"
        self._health_address = self._router_address
        if self._access.has_tls:
            self._health_address = f"{LOOPBACK}:{free_port()}"
        self._news: queue.Queue[News] = queue.Queue(QUEUED_NEWS)
        self._stopping = threading.Event()
        self._starting = False
        self._postgres: EmbeddedPostgres | None = None
        if settings.database_url is None:
            self._postgres = EmbeddedPostgres(
                settings.data_dir / "postgres", self._logs / "postgres.log"
            )
        self._gateway = Gateway(settings, self._logs) if settings.is_rehearsal else None
        self._router = self._make_router()
        self._envoy = Envoy(
            settings.port,
            [self._router_address],
            settings.data_dir / "envoy",
            self._logs,
            collector=settings.otel_exporter_otlp_endpoint,
            identity=self._access.door_identity,
            trust_domain=settings.trust_domain,
        )
        self._strategies = [self._make_strategy(name) for name in settings.strategies]
        is_live = settings.trading_mode == "LIVE"
        self._watch = Watch(self._router_address, self._access, self._tell, live=is_live)
        board = Board.of(settings.strategies)
        self._screen = Screen(board, settings, self._access, self._gateway)

    def run(self) -> None:
        """Starts everything, keeps it running until a signal comes, and stops everything.

        Raises:
            MeshError: it could not start. Nothing is left running.
        """
        self._catch_signals()
        with ExitStack() as running:  # ends what was started, in reverse order, whatever happens
            self._hold_folder(running)
            check_port("PORT", self._settings.port)
            if self._gateway:
                check_port("IBKR_PORT", self._gateway.port)
            with suppress(KeyboardInterrupt):
                self._start(running)
                self._keep()
            self._screen.say("Stopping ...")
        self._screen.say(f"Stopped. {self._settings.data_dir} keeps everything for the next time.")

    def _hold_folder(self, running: ExitStack) -> None:
        lock = FolderLock(self._settings.data_dir, "mesh")
        try:
            holder = lock.acquire()
        except OSError as refusal:
            raise MeshError(
                f"DATA_DIR {self._settings.data_dir} cannot be used ({refusal.strerror}): "
                "choose a folder that you may write to."
            ) from None
        if holder is not None:
            raise MeshError(
                f"A mesh already runs on {self._settings.data_dir} (process {holder}). "
                "Stop it, or give this one another DATA_DIR and PORT."
            )
        running.callback(lock.release)

    def _start(self, running: ExitStack) -> None:
        """Starts the parts in order; Envoy comes up while the router does."""
        self._starting = True
        try:
            self._screen.say("Starting PostgreSQL, the router and Envoy ...")
            self._access.keep()
            if self._gateway:  # the first: its folder marks the books as a rehearsal's
                running.callback(self._gateway.child.stop)
                self._gateway.start()
            if self._postgres:
                running.callback(self._postgres.stop)
                self._postgres.start()
                self._postgres.wait_ready(START_S)
            if self._gateway:
                wait_serving(self._gateway.child, self._gateway.control_address)
            running.callback(self._router.stop)
            self._router.start()
            running.callback(self._envoy.stop)
            self._envoy.start()
            wait_serving(self._router, self._health_address)
            self._envoy.wait_ready(START_S)
            running.callback(self._stop_strategies)
            for strategy in self._strategies:
                strategy.start()
            running.callback(self._watch.stop)
            self._watch.start()
            self._screen.say_ready()
        finally:
            self._starting = False

    def _stop_strategies(self) -> None:
        """Stops all at once: each may be in the middle of a tick."""
        for strategy in self._strategies:
            strategy.ask_to_stop()
        for strategy in self._strategies:
            strategy.stop(deadline_s=5)

    def _keep(self) -> None:
        """Shows the news and starts again what ended, until it is told to stop."""
        now = time.monotonic()
        parts: list[Part] = [self._router, self._envoy, *self._strategies]
        if self._postgres:
            parts.append(self._postgres)
        if self._gateway:
            parts.append(self._gateway.child)
        keepers = [Keeper(part, now) for part in parts]
        trim_due = now + TRIM_S
        renew_due = now + RENEW_S
        with self._screen:
            while not self._stopping.wait(LOOK_S):
                self._read_news()
                now = time.monotonic()
                for keeper in keepers:
                    if happened := keeper.look(now):
                        self._screen.say(happened)
                if now >= trim_due:
                    trim_due = now + TRIM_S
                    for keeper in keepers:
                        keeper.part.trim_log()
                if now >= renew_due:
                    renew_due = now + RENEW_S
                    self._renew()
                self._screen.refresh()

    def _renew(self) -> None:
        """Keeps certificates and tokens valid; every part reads them again by itself."""
        try:
            renewed = self._access.keep()
        except MeshError as error:
            self._screen.say(f"Certificates and tokens cannot be renewed: {error}")
        else:
            if renewed:
                self._screen.say(f"Renewed what these show: {', '.join(renewed)}")

    def _catch_signals(self) -> None:
        """SIGINT and SIGTERM stop the mesh; so does SIGHUP (a closed terminal) without nohup."""
        signal.signal(signal.SIGINT, self._on_signal)
        signal.signal(signal.SIGTERM, self._on_signal)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            signal.signal(signal.SIGHUP, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self._stopping.set()
        if self._starting:
            self._starting = False
            raise KeyboardInterrupt  # out of whatever `_start` waits for

    def _make_router(self) -> Child:
        url = self._postgres.url if self._postgres else self._settings.database_url
        return Child(
            "the router",
            [sys.executable, "-m", "services.portfolio"],
            self._logs / "router.log",
            {
                "DATABASE_URL": str(url),
                "ROUTER_ADDRESS": self._router_address,
                "METRICS_PORT": str(self._settings.metrics_port),
                "DRAIN_S": "0",  # nobody calls any more when it stops: Envoy stops first
                "TRADING_MODE": self._settings.trading_mode,
                **self._broker_environ,
                **self._access.router_environ(self._health_address),
            },
        )

    def _make_strategy(self, name: str) -> Child:
        environ = {
            "PORTFOLIO_ADDRESS": f"127.0.0.1:{self._settings.port}",
            "LOG_FORMAT": "json",
            "DATA_DIR": str(self._settings.data_dir),
            "PRICE_FEED": self._settings.price_feed,
            **self._broker_environ,
            **self._access.strategy_environ(name),
        }
        if self._settings.interval_s is not None:
            environ["INTERVAL_S"] = f"{self._settings.interval_s:g}"
        return Child(
            name,
            [sys.executable, "-m", "services.strategy", name],
            self._logs / f"{name}.log",
            environ,
            on_line=lambda line: self._tell_line(name, line),
        )

    @property
    def _broker_environ(self) -> dict[str, str]:
        """Where the broker is. A real one stands in our environment, which every child gets."""
        return self._gateway.environ if self._gateway else {}

    def _tell_line(self, name: str, line: str) -> None:
        """Puts a strategy's log line into the queue; a line that is no event stays in its log."""
        with suppress(json.JSONDecodeError):
            event = json.loads(line, parse_float=Decimal)
            if isinstance(event, dict):
                self._tell((name, event))

    def _tell(self, news: News) -> None:
        """Called by threads. News beyond the bound is dropped: the next replaces it anyway."""
        with suppress(queue.Full):
            self._news.put_nowait(news)

    def _read_news(self) -> None:
        with suppress(queue.Empty):
            while True:
                self._take(self._news.get_nowait())

    def _take(self, news: News) -> None:
        """Puts one piece of news on the board, and says what people should know of it."""
        board = self._screen.board
        match news:
            case Portfolio():
                board, note = board.with_portfolio(news), None
            case Order():
                board, note = board.with_order(news), note_of_order(news)
            case Broker():
                board, note = board.with_broker(news), note_of_broker(board.broker, news)
            case (name, event):
                board, note = board.with_event(name, event), note_of(name, event)
        self._screen.board = board
        if note:
            self._screen.say(note)


def wait_serving(part: Child, address: str) -> None:
    """Waits until a part's health says SERVING; of the router: it is migrated and takes orders.

    Raises:
        MeshError: it ended, with its last words, or did not serve in time.
    """
    give_up = time.monotonic() + START_S
    while not is_serving(address):
        if part.exit_code() is not None:
            words = part.last_words()
            if " cannot start. " in words:  # how parts refuse a wrong setting
                raise MeshError(words)
            raise MeshError(f"{sentence(part.name)} did not start: {words} (see {part.log})")
        if time.monotonic() > give_up:
            raise MeshError(
                f"{sentence(part.name)} does not serve after {START_S} s; see {part.log}."
            )
        time.sleep(0.05)


def sentence(text: str) -> str:
    """The text with its first letter upper case."""
    return text[:1].upper() + text[1:]

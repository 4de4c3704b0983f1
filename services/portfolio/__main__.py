"""The router's process: the one place where everything is composed.

python -m services.portfolio
"""

import asyncio
import gc
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from uuid import UUID

import structlog
import uuid_utils.compat
import uvloop
from prometheus_client import REGISTRY, start_http_server
from pydantic import ValidationError

from services.portfolio.allocation.allocator import Allocator
from services.portfolio.allocation.allocator import Rules as AllocationRules
from services.portfolio.allocation.optimiser import Optimiser
from services.portfolio.allocation.timetable import Timetable
from services.portfolio.allocation.treasurer import Treasurer
from services.portfolio.brokers import ib_library
from services.portfolio.brokers.ibkr import IbkrLine
from services.portfolio.brokers.paper import PaperBroker
from services.portfolio.config import Settings, described
from services.portfolio.domain.order import Mode
from services.portfolio.domain.weather import Weather, masked
from services.portfolio.history.history import History
from services.portfolio.live.funding import Funding, follow_modes
from services.portfolio.live.gate import LiveBroker, Session
from services.portfolio.live.lookout import Lookout
from services.portfolio.live.ports import LineError
from services.portfolio.live.sender import Plan, Sender
from services.portfolio.logs import configure_logs
from services.portfolio.pictures.gallery import Gallery
from services.portfolio.ports import Broker, UnavailableError
from services.portfolio.promotion.ports import PromotionReads
from services.portfolio.promotion.reviewer import Reviewer
from services.portfolio.risk.guardian import Guardian
from services.portfolio.router import Router
from services.portfolio.rpc.admission import Admission, Rate
from services.portfolio.rpc.certificates import server_credentials
from services.portfolio.rpc.identity import Certificates
from services.portfolio.rpc.server import AddressTakenError, Server
from services.portfolio.rpc.tokens import Tokens
from services.portfolio.rpc.watched import BadFileError
from services.portfolio.seed import seed
from services.portfolio.storage.address import Address, BadDatabaseUrlError
from services.portfolio.storage.allocation import PostgresAllocationReads
from services.portfolio.storage.baton import PostgresBaton
from services.portfolio.storage.broker_reads import PostgresBrokerReads
from services.portfolio.storage.database import Database
from services.portfolio.storage.feed import PostgresFeed
from services.portfolio.storage.figures import PostgresFigures
from services.portfolio.storage.history import PostgresHistory
from services.portfolio.storage.ledger import PostgresLedger
from services.portfolio.storage.promotion import PostgresPromotionReads
from services.portfolio.storage.reads import PostgresReads
from services.portfolio.storage.risk import PostgresRiskReads
from services.portfolio.telemetry import tracing
from services.portfolio.telemetry.figures import Figures
from services.portfolio.writer import Rules, Writer

log = structlog.get_logger()


class RefusedError(Exception):
    """The router does not start as it is set up; the message says what to change."""


async def serve(settings: Settings) -> None:
    """Runs the router until SIGTERM or SIGINT, then drains and stops it."""
    require_complete(settings)
    admitted = admission(settings)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    database = await Database.connect(settings.database_url)
    feed = PostgresFeed(database.address)
    reads = PostgresReads(database)
    trading_mode = Mode(settings.trading_mode)
    broker_reads = PostgresBrokerReads(database)
    if trading_mode is Mode.LIVE:
        require_same_account(settings, await broker_reads.weather())
    lookout = Lookout(broker_reads, feed, now, trading_mode)
    rule = settings.promotion_rule
    rules = Rules(
        await brokers(settings, lookout),
        now,
        new_id,
        trading_mode,
        check_invariants=settings.check_invariants,
        promote_at_once=rule.at_once,
    )
    writer = Writer(PostgresLedger(database), rules)
    history = History(PostgresHistory(database))
    promotion_reads = PostgresPromotionReads(database)
    reviewer = Reviewer(writer, promotion_reads, feed, now, rule, trading_mode)
    risk_reads = PostgresRiskReads(database)
    guardian = Guardian(writer, risk_reads, feed, now)
    books = PostgresAllocationReads(database)
    allocator = Allocator(
        writer,
        reads,
        books,
        broker_reads,
        Optimiser(database.address.text),
        AllocationRules(now, new_id, trading_mode, settings.capital_of_live),
    )
    router = Router(
        writer,
        reads,
        feed,
        lookout,
        now,
        history=history,
        reviewer=reviewer,
        risk=risk_reads,
        allocator=allocator,
        gallery=Gallery(reads, history, books),
    )
    server = Server(
        router,
        settings.router_address,
        admission=admitted,
        health_address=settings.health_address,
    )
    figures = Figures(
        PostgresFigures(database),
        risk_reads,
        lookout.seen,
        now,
        trading_mode=trading_mode,
        session=session_of(rules.brokers),
        every_s=settings.metrics_every_s,
    )
    if settings.metrics_port:
        serve_metrics(settings.metrics_port, figures)
    await seed(writer, reads, settings.portfolio_capital)
    await follow_modes(writer, promotion_reads, trading_mode, at_once=rule.at_once)
    await server.start()
    tasks = [
        asyncio.create_task(reviewer.run(), name="promotion-reviewer"),
        asyncio.create_task(guardian.run(), name="risk-guardian"),
        asyncio.create_task(Treasurer(writer, books, feed).run(), name="treasurer"),
        asyncio.create_task(Timetable(allocator, books, trading_mode).run(), name="timetable"),
    ]
    if settings.metrics_port:
        tasks.append(asyncio.create_task(figures.run(), name="figures"))
    if trading_mode is Mode.LIVE:
        sender = sender_of(settings, database.address, writer, promotion_reads, feed)
        tasks.append(asyncio.create_task(sender.run(), name="sender"))
    keep_what_is_built()
    log.info("serving", address=settings.router_address, trading_mode=settings.trading_mode)
    await stop.wait()
    log.info("stopping", drain_s=settings.drain_s)
    # Watchers are told to call again, which lands them on another replica.
    await lookout.stop()
    await feed.stop()
    await server.stop(settings.drain_s)
    await end(tasks)
    await router.stop()
    await database.close()


def keep_what_is_built() -> None:
    """What was built until now stays for good.

    Calls leave hardly any cycles, and looking for them as often as Python does by default took 4%
    of a loaded router's time.
    """
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


async def end(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Ends the router's own tasks; what is left to do is done even if one had failed."""
    for task in tasks:
        task.cancel()
    for task, ended in zip(
        tasks, await asyncio.gather(*tasks, return_exceptions=True), strict=True
    ):
        if isinstance(ended, Exception):
            log.error("task_had_failed", task=task.get_name(), exc_info=ended)


def require_complete(settings: Settings) -> None:
    """LIVE is never reached by accident.

    Raises:
        RefusedError: TRADING_MODE is LIVE, and something that LIVE needs is missing.
    """
    if settings.trading_mode == "PAPER":
        return
    missing = settings.missing_for_live()
    if missing:
        raise RefusedError(
            f"TRADING_MODE=LIVE needs {', '.join(missing)}. Set them, or use TRADING_MODE=PAPER."
        )
    if settings.outside_session == "refuse" and find_spec("exchange_calendars") is None:
        raise RefusedError(
            "OUTSIDE_SESSION=refuse needs the exchange's calendar. Install the extra `calendar`: "
            "pip install 'efficientfrontier-portfolio[calendar]'"
        )
    try:
        ib_library.load()
    except LineError as error:
        raise RefusedError(str(error)) from None


def admission(settings: Settings) -> Admission:
    """Who comes in, how often, and the TLS that the router speaks, if any.

    Raises:
        RefusedError: AUTH needs what is not set.
        BadFileError: A file that AUTH needs cannot be used.
    """
    rate = None if settings.rate_limit is None else Rate(settings.rate_limit)
    domain = settings.trust_domain
    if settings.auth == "mtls":
        if settings.identity_dir is None:
            raise RefusedError(
                "AUTH=mtls needs IDENTITY_DIR, the folder with the router's certificate: tls.crt, "
                "tls.key and ca.crt."
            )
        credentials = server_credentials(settings.identity_dir, domain)
        return Admission(Certificates(domain).identify, rate, credentials)
    if settings.auth == "token":
        if settings.token_keys is None:
            raise RefusedError(
                "AUTH=token needs TOKEN_KEYS, a JWKS file with the public keys of who signs tokens."
            )
        return Admission(Tokens(settings.token_keys, domain).identify, rate)
    return Admission(None, rate)


def require_same_account(settings: Settings, weather: Weather | None) -> None:
    """A ledger is of one account: another's shares would look like UNATTRIBUTED ones.

    Raises:
        RefusedError: The LIVE books of this ledger are of another account.
    """
    known = weather.account if weather else ""
    if known and known != settings.ibkr_account:
        raise RefusedError(
            f"The LIVE books in this database are of another account than IBKR_ACCOUNT: of "
            f"{masked(known)}. Give each account a database (DATABASE_URL, or DATA_DIR) of its own."
        )


async def brokers(settings: Settings, lookout: Lookout) -> dict[Mode, Broker]:
    """Who executes the orders of each mode."""
    paper = PaperBroker(settings.paper_commission, by_hand=settings.paper_fills == "by_hand")
    if settings.trading_mode == "PAPER":
        return {Mode.PAPER: paper}
    session = await Session.load(now()) if settings.outside_session == "refuse" else None
    return {Mode.PAPER: paper, Mode.LIVE: LiveBroker(lookout.seen, settings.price_buffer, session)}


def session_of(given: Mapping[Mode, Broker]) -> Session | None:
    """The exchange's sessions, if LIVE orders keep to them."""
    live = given.get(Mode.LIVE)
    return live.session if isinstance(live, LiveBroker) else None


def serve_metrics(port: int, figures: Figures) -> None:
    """Answers Prometheus, in a thread of its own.

    Raises:
        RefusedError: The port is taken.
    """
    REGISTRY.register(figures)
    try:
        start_http_server(port)
    except OSError as error:
        raise RefusedError(
            f"METRICS_PORT {port} cannot be listened on: {error.strerror}. 0 serves no metrics."
        ) from None


def sender_of(
    settings: Settings,
    address: Address,
    writer: Writer,
    reads: PromotionReads,
    feed: PostgresFeed,
) -> Sender:
    """The sender of this replica; whether it sends is decided by the election."""
    plan = Plan(
        client_id=settings.ibkr_client_id or 0,
        replica=f"{socket.gethostname()}:{os.getpid()}",
        answer_within_s=settings.answer_within_s,
        queue_within_s=settings.queue_within_s,
        reconcile_every_s=settings.reconcile_every_s,
        price_distance=settings.price_distance,
    )
    line = IbkrLine(
        settings.ibkr_host or "",
        settings.ibkr_port or 0,
        plan.client_id,
        settings.ibkr_account or "",
        clock=now,
    )
    baton = PostgresBaton(address)
    at_once = settings.promotion_rule.at_once
    funding = Funding(writer, reads, settings.capital_of_live, at_once=at_once)
    return Sender(line, baton, writer, funding, feed, plan, now)


def now() -> datetime:
    """The time, in UTC."""
    return datetime.now(UTC)


def new_id() -> UUID:
    """A UUIDv7; within a process each is greater than the one before."""
    return uuid_utils.compat.uuid7()


def main() -> None:
    """Reads the settings and serves; a set-up that cannot work ends with one clear line."""
    try:
        settings = Settings()  # type: ignore[call-arg]  # from the environment
    except ValidationError as error:
        sys.exit(f"The router cannot start. {described(error)}.")
    configure_logs(settings.log_level)
    tracing.start(settings.otel_exporter_otlp_endpoint)
    try:
        uvloop.run(serve(settings))
    except (
        *(BadDatabaseUrlError, AddressTakenError, BadFileError, RefusedError),
        UnavailableError,  # the database went away before the router served
    ) as error:
        sys.exit(f"The router cannot start. {error}")
    finally:
        tracing.stop()


if __name__ == "__main__":
    main()

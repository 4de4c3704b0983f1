"""The router's process: the one place where everything is composed.

python -m services.portfolio
"""

import asyncio
import gc
import signal
import sys
from datetime import UTC, datetime
from uuid import UUID

import structlog
import uuid_utils.compat
import uvloop
from prometheus_client import start_http_server
from pydantic import ValidationError

from services.portfolio.brokers.paper import PaperBroker
from services.portfolio.config import Settings
from services.portfolio.logs import configure_logs
from services.portfolio.router import Router
from services.portfolio.rpc.server import AddressTakenError, Server
from services.portfolio.seed import seed
from services.portfolio.storage.database import BadDatabaseUrlError, Database
from services.portfolio.storage.feed import PostgresFeed
from services.portfolio.storage.ledger import PostgresLedger
from services.portfolio.storage.reads import PostgresReads
from services.portfolio.writer import Rules, Writer

log = structlog.get_logger()


class RefusedError(Exception):
    """The router does not start as it is set up; the message says what to change."""


async def serve(settings: Settings) -> None:
    """Runs the router until SIGTERM or SIGINT, then drains and stops it."""
    refuse_live(settings)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    database = await Database.connect(settings.database_url)
    feed = PostgresFeed(database.url)
    reads = PostgresReads(database)
    broker = PaperBroker(settings.paper_commission, by_hand=settings.paper_fills == "by_hand")
    rules = Rules(broker, now, new_id, check_invariants=settings.check_invariants)
    router = Router(Writer(PostgresLedger(database), rules), reads, feed, now)
    server = Server(router, settings.router_address)
    if settings.metrics_port:
        start_http_server(settings.metrics_port)
    await seed(router, settings.portfolio_capital)
    await server.start()
    # What was built until now stays for good. Calls leave hardly any cycles, and looking for them
    # as often as Python does by default took 4% of a loaded router's time.
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    log.info("serving", address=settings.router_address, trading_mode=settings.trading_mode)
    await stop.wait()
    log.info("stopping", drain_s=settings.drain_s)
    await feed.stop()  # watchers are told to call again, which lands them on another replica
    await server.stop(settings.drain_s)
    await router.stop()
    await database.close()


def refuse_live(settings: Settings) -> None:
    """LIVE is never reached by accident.

    Raises:
        RefusedError: TRADING_MODE is LIVE.
    """
    if settings.trading_mode == "PAPER":
        return
    missing = settings.missing_for_live()
    if missing:
        raise RefusedError(
            f"TRADING_MODE=LIVE needs {', '.join(missing)}. Set them, or use TRADING_MODE=PAPER."
        )
    raise RefusedError(
        "TRADING_MODE=LIVE is not part of this version: it trades on PAPER only. "
        "Use TRADING_MODE=PAPER."
    )


def now() -> datetime:
    """The time, in UTC."""
    return datetime.now(UTC)


def new_id() -> UUID:
    """A UUIDv7; within a process each is greater than the one before."""
    return uuid_utils.compat.uuid7()


def described(error: ValidationError) -> str:
    """The settings that are wrong, without their values: one may be a password."""
    return "; ".join(
        f"{str(problem['loc'][0]).upper()}: {problem['msg']}" for problem in error.errors()
    )


def main() -> None:
    """Reads the settings and serves; a set-up that cannot work ends with one clear line."""
    try:
        settings = Settings()  # type: ignore[call-arg]  # from the environment
    except ValidationError as error:
        sys.exit(f"The router cannot start. {described(error)}.")
    configure_logs(settings.log_level)
    try:
        uvloop.run(serve(settings))
    except (BadDatabaseUrlError, AddressTakenError, RefusedError) as error:
        sys.exit(f"The router cannot start. {error}")


if __name__ == "__main__":
    main()

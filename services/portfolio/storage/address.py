"""Where the database is: one server, or several of which one is the primary at a time.

`postgresql://user:password@h1:5432,h2:5432/name`, or `...@/name?host=h1,h2`, as libpq reads it. A
connection is always to a server that takes writes: with several, whichever that is now, so after a
failover everything that connects finds the new primary by itself. The driver would try the servers
one after another under one time limit, and a machine that vanished would use all of it up; here
each server has a share of it, and whoever asks next begins behind the one that failed.

An old primary that is started again as it was takes writes too, and what it took would be lost. A
failover begins a new timeline; so all servers are looked at before the first connection, and none
of an older timeline than has been seen is ever used.
"""

import asyncio
import re
import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import TypeAlias

import asyncpg
from asyncpg.connect_utils import SessionAttribute
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

CONNECT_TIMEOUT_S = 5.0
LIKE = "It looks like postgresql://user:password@host:5432/name."
WRITABLE = ("read-write", "primary")  # what target_session_attrs may say; it is so in any case
# As SQLAlchemy has it, but for the hosts: a password must not hold an @.
PARTS = re.compile(r"([\w+]+://(?:[^:/@]*(?::[^@]*)?@)?)([^/?]*)(.*)", re.DOTALL)
# The server is away, starting, stopping, full, read-only, or the connection broke.
AWAY = (
    OSError,  # TimeoutError included
    EOFError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InternalClientError,
)
# Its first 8 hex digits are the timeline.
WRITES_TO = "SELECT pg_walfile_name(pg_current_wal_lsn())"
# How a client finds out, in 10 s, that the server's machine has vanished: what was sent is not
# acknowledged, or nobody is there when nothing is sent. The system's own limit is 15 minutes.
VANISHED = {
    "TCP_USER_TIMEOUT": 10_000,
    "TCP_KEEPIDLE": 4,
    "TCP_KEEPINTVL": 2,
    "TCP_KEEPCNT": 3,
}

Session: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


class BadDatabaseUrlError(Exception):
    """DATABASE_URL cannot be used; the message says why, without the password."""


class UnreachableError(BadDatabaseUrlError):
    """No server that DATABASE_URL names can be used now; that may pass."""


class Address:
    """A DATABASE_URL. `text` holds the password; `shown` does not, and is what may be logged."""

    def __init__(self, text: str) -> None:
        """Reads an address.

        Raises:
            BadDatabaseUrlError: It is not a PostgreSQL URL, or asks for a server that only reads.
        """
        self.text = text
        self._servers = _servers(text)
        self._first = 0  # the server to try first: the one that answered last
        self._timeline: int | None = None  # the newest that was seen, of several servers

    @property
    def shown(self) -> str:
        """The address without the password."""
        first, *others = [
            server.set(drivername="postgresql")
            .difference_update_query(["password", "sslpassword"])
            .render_as_string(hide_password=True)
            for server in self._servers
        ]
        return " or ".join([first, *(other.partition("@")[2] or other for other in others)])

    def __repr__(self) -> str:
        """As `shown`: a traceback may quote it."""
        return f"Address({self.shown})"

    async def connect(
        self, settings: Mapping[str, str], *, timeout_s: float = CONNECT_TIMEOUT_S
    ) -> Session:
        """A session on the server that takes writes; `settings` are the session's, in SQL's words.

        Raises:
            OSError, asyncpg.PostgresError, asyncpg.InterfaceError: No such server is reached within
                `timeout_s`; see AWAY. Of several servers it says what each of them said.
        """
        count = len(self._servers)
        if count == 1:
            return await _reach(self._servers[0], settings, timeout_s)
        share_s = timeout_s / count
        if self._timeline is None:
            share_s = timeout_s / (count + 1)  # to look at them, all at once, takes one more
            await asyncio.gather(*(self._look_at(index, share_s) for index in range(count)))
        said = []
        for index in [(self._first + turn) % count for turn in range(count)]:
            server = self._servers[index]
            try:
                session = await self._reach_newest(server, settings, share_s)
            except BaseException as error:
                # Whoever gave up waiting (a cancellation) begins with the next server too.
                self._first = (index + 1) % count
                if not isinstance(error, AWAY):
                    raise
                said.append(f"{server.host or server.query.get('host')}: {why(error)}")
                continue
            self._first = index
            return session
        raise ConnectionError("; ".join(said))

    async def _look_at(self, index: int, timeout_s: float) -> None:
        """Learns a server's timeline; the newest of those that take writes is tried first."""
        with suppress(*AWAY):
            (await self._reach_newest(self._servers[index], {}, timeout_s)).terminate()
            self._first = index

    async def _reach_newest(
        self, server: URL, settings: Mapping[str, str], timeout_s: float
    ) -> Session:
        """A session on one of several servers.

        Raises:
            ConnectionError: It is an old primary.
        """
        session = await _reach(server, settings, timeout_s)
        try:
            timeline = await _timeline(session, timeout_s)
        except BaseException:
            session.terminate()
            raise
        if timeline < (newest := self._timeline or 0):
            session.terminate()
            raise ConnectionError(
                f"takes writes, but is an old primary (timeline {timeline}; there is a server of "
                f"timeline {newest}). End it, or make it a standby"
            )
        self._timeline = timeline
        return session


def _servers(text: str) -> list[URL]:
    """One address for each server of an address."""
    parts = PARTS.fullmatch(text)
    if parts is None:
        raise BadDatabaseUrlError(f"DATABASE_URL is not a URL. {LIKE}")
    before, hosts, after = parts.groups()
    if "@" in hosts:
        raise BadDatabaseUrlError("A password in DATABASE_URL must not hold an @: write it as %40.")
    if "," in hosts and not all(hosts.split(",")):
        raise BadDatabaseUrlError(f"DATABASE_URL has a comma without a server beside it: {hosts}")
    try:
        servers = [make_url(f"{before}{host}{after}") for host in hosts.split(",")]
        servers = [one for server in servers for one in _named_in_query(server)]
    except (ArgumentError, ValueError):
        raise BadDatabaseUrlError(f"DATABASE_URL is not a URL. {LIKE}") from None
    backend = servers[0].get_backend_name()
    if backend not in ("postgresql", "postgres"):
        raise BadDatabaseUrlError(
            f"DATABASE_URL names {backend}; only postgresql://... is supported."
        )
    wanted = servers[0].query.get("target_session_attrs", WRITABLE[0])
    if wanted not in WRITABLE:
        raise BadDatabaseUrlError(
            f"DATABASE_URL has target_session_attrs={wanted}; the router writes, so it can only be "
            "read-write, which it is without it too."
        )
    return servers


def _named_in_query(server: URL) -> list[URL]:
    """The servers of ...?host=h1,h2&port=p1,p2; the address itself when it has no such list."""
    hosts = str(server.query.get("host", "")).split(",")
    ports = str(server.query.get("port", "")).split(",")
    if len(hosts) == 1:
        return [server]
    if len(ports) == 1:
        ports *= len(hosts)
    plain = server.difference_update_query(["port"])
    return [
        plain.update_query_dict({"host": host} | ({"port": port} if port else {}))
        for host, port in zip(hosts, ports, strict=True)
    ]


def _dsn(server: URL) -> str:
    """The address of one server as asyncpg has it."""
    return server.set(drivername="postgresql").render_as_string(hide_password=False)


async def _reach(server: URL, settings: Mapping[str, str], timeout_s: float) -> Session:
    """A session on one server, if that takes writes."""
    # A session that itself wants to read only would look like one on a server that does.
    reads = "default_transaction_read_only" in settings
    session: Session = await asyncpg.connect(
        _dsn(server),
        timeout=timeout_s,
        server_settings=dict(settings),
        target_session_attrs=SessionAttribute.primary if reads else SessionAttribute.read_write,
    )
    _notice_when_it_vanishes(session)
    return session


async def _timeline(session: Session, timeout_s: float) -> int:
    """How many failovers a server's data has been through, and 1; 0: it does not count them."""
    try:
        return int((await session.fetchval(WRITES_TO, timeout=timeout_s))[:8], 16)
    except AWAY:
        raise
    except asyncpg.PostgresError:
        return 0


def why(error: BaseException) -> str:
    """What a server said, in a few words."""
    if isinstance(error, asyncpg.InternalClientError):
        return "takes no writes (a standby)"
    if isinstance(error, TimeoutError):
        return "no answer"
    return str(error) or type(error).__name__


def _notice_when_it_vanishes(session: Session) -> None:
    """Has the system end a connection whose other end is gone without a word."""
    # The driver has no public way to its socket.
    connected = session._transport.get_extra_info("socket")  # type: ignore[attr-defined]  # noqa: SLF001
    if connected is None or connected.family == socket.AF_UNIX:
        return
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in VANISHED.items():
        if hasattr(socket, name):  # not every system has each of them
            connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

"""What the ledger needs of its database, tried on it at each start: some engines only say they can.

Several speak PostgreSQL's language and are not PostgreSQL. One accepts an advisory lock and locks
nothing: two routers would both believe that they are the sender. A pooler that hands out another
session for each transaction loses locks and LISTEN in the same silence. So nothing is concluded
from a name or a version alone; two sessions try what counts, in a few milliseconds.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import asyncpg

from services.portfolio.storage.address import AWAY, Address, BadDatabaseUrlError, Session

OLDEST = 140000  # PostgreSQL 14, as server_version_num has it; older ones were never tested
WITHIN_S = 2.0  # for what a pooler or a deaf listener would wait for
SETTINGS = {"application_name": "efficientfrontier-engine-check", "lock_timeout": "1s"}

Probe: TypeAlias = Callable[[Session, Session], Awaitable[bool]]


class EngineError(BadDatabaseUrlError):
    """The database is none that the ledger can be kept on; the message says what it lacks."""


async def check_engine(address: Address) -> None:
    """Returns when the database can do what the ledger needs; it is left as it was.

    Raises:
        EngineError: It cannot; everything that it lacks is named.
        OSError, asyncpg.PostgresError, asyncpg.InterfaceError: It is away; see AWAY.
    """
    one = await address.connect(SETTINGS)
    try:
        other = await address.connect(SETTINGS)
        try:
            missing = [what for what, probe in PROBES.items() if not await _can(probe, one, other)]
        finally:
            other.terminate()
    finally:
        one.terminate()
    if missing:
        raise EngineError(
            f"DATABASE_URL {address.shown} cannot be used: this database lacks "
            f"{'; '.join(missing)}. The ledger needs PostgreSQL 14 or newer, directly or through a "
            "pooler in session mode."
        )


async def _can(probe: Probe, one: Session, other: Session) -> bool:
    """Whether a probe succeeds; to be told that something is not supported is a failure too."""
    try:
        return await probe(one, other)
    except TimeoutError:
        return False
    except AWAY:
        raise
    except asyncpg.PostgresError:
        return False


async def _is_new_enough(one: Session, _other: Session) -> bool:
    return int(await one.fetchval("SHOW server_version_num")) >= OLDEST


async def _keeps_sessions(one: Session, other: Session) -> bool:
    """Whether a connection is one session: it has the same backend, whatever others do meanwhile.

    A pooler that gives a session for each transaction takes the one that was used last: while the
    other connection has one, and again when it has given that back, ours is another.
    """
    backends = {await _backend(one)}
    await other.execute("BEGIN")
    backends.add(await _backend(one))
    await other.execute("COMMIT")
    backends.add(await _backend(one))
    return len(backends) == 1


async def _backend(session: Session) -> int:
    backend: int = await session.fetchval("SELECT pg_backend_pid()", timeout=WITHIN_S)
    return backend


async def _locks(one: Session, other: Session) -> bool:
    """Whether an advisory lock of one session is refused to the other, until it is given back."""
    take, key = "SELECT pg_try_advisory_lock($1)", secrets.randbits(63)
    taken = await one.fetchval(take, key)
    refused = not await other.fetchval(take, key)
    given_back = await one.fetchval("SELECT pg_advisory_unlock($1)", key)
    return bool(taken and refused and given_back and await other.fetchval(take, key))


async def _notifies(one: Session, other: Session) -> bool:
    """Whether one session hears what the other tells."""
    heard = asyncio.Event()
    channel = f"probe_{secrets.token_hex(8)}"
    await other.add_listener(channel, lambda *_: heard.set())
    try:
        await one.execute(f"NOTIFY {channel}")
    except asyncpg.LockNotAvailableError:
        # Its commit takes a lock that a commit holds which waits for its standby: only an engine
        # that has NOTIFY has that.
        return True
    async with asyncio.timeout(WITHIN_S):
        await heard.wait()
    return True


async def _reads_committed(one: Session, _other: Session) -> bool:
    """Whether each statement sees what was committed before it, as "lock first, then read" needs.

    YugabyteDB tells under a name of its own what it makes of READ COMMITTED.
    """
    level = await one.fetchval(
        "SELECT coalesce(current_setting('yb_effective_transaction_isolation_level', true),"
        " current_setting('transaction_isolation'))"
    )
    return bool(level == "read committed")


async def _takes_json(one: Session, _other: Session) -> bool:
    rows = 'SELECT count(*) FROM json_to_recordset(\'[{"n": 1}, {"n": 2}]\') AS row(n numeric)'
    return bool(await one.fetchval(rows) == 2)


async def _locks_tables(one: Session, other: Session) -> bool:
    """Whether a locked table is locked: the other session, which cannot see it, sees the lock."""
    block = one.transaction()
    await block.start()
    try:
        await one.execute("CREATE TEMPORARY TABLE engine_probe (n int)")
        await one.execute("LOCK TABLE engine_probe IN EXCLUSIVE MODE")
        held = await other.fetchval(
            "SELECT count(*) FROM pg_locks WHERE mode = 'ExclusiveLock' AND granted"
            " AND locktype = 'relation' AND pid = $1",
            await one.fetchval("SELECT pg_backend_pid()"),
        )
    finally:
        await block.rollback()
    return bool(held)


PROBES: dict[str, Probe] = {
    "version 14 or newer of PostgreSQL": _is_new_enough,
    "sessions that last (a pooler in transaction mode is in between)": _keeps_sessions,
    "advisory locks that hold (two routers would both send orders to the broker)": _locks,
    "LISTEN and NOTIFY": _notifies,
    "READ COMMITTED as the isolation of transactions": _reads_committed,
    "json_to_recordset": _takes_json,
    "LOCK TABLE ... IN EXCLUSIVE MODE (the kill switch)": _locks_tables,
}

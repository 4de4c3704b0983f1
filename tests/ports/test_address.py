"""Addresses of one server and of several: which is connected to, and what is said when none is."""

import asyncio
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest

from services.portfolio.ports import UnavailableError
from services.portfolio.storage.address import Address, BadDatabaseUrlError, UnreachableError
from services.portfolio.storage.database import SERVER_SETTINGS, Database
from tests.ports.line import Line
from tests.ports.stores import run_sql
from tests.support.process import Process

MIGRATED = "SELECT count(*) FROM alembic_version"


@contextmanager
def silence() -> Iterator[int]:
    """The port of somebody who takes connections and never says a word, as a frozen server."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def several(first: int, line: Line) -> str:
    """The address of a port of this machine, and of the server behind the line."""
    before, _, after = line.url.rpartition("@127.0.0.1:")
    return f"{before}@127.0.0.1:{first},127.0.0.1:{after}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("postgresql://u:secret@h1:5432,h2:port/x", "is not a URL"),
        ("postgresql://u:secret@h1,h2/x?target_session_attrs=standby", "can only be read-write"),
        ("postgresql://u:secret@h1/x?target_session_attrs=any", "can only be read-write"),
        ("cockroachdb://u:secret@h1,h2/x", "only postgresql"),
        ("postgresql://u:se@cret@h1/x", "write it as %40"),
        ("postgresql://u:secret@h1,/x", "a comma without a server"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused_without_its_password(
    text: str, said: str
) -> None:
    with pytest.raises(BadDatabaseUrlError, match=said) as refused:
        Address(text)
    assert "cret" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://u:secret@h:1/x", "postgresql://u:***@h:1/x"),
        ("postgresql://u:secret@h1:1,h2:2/x", "postgresql://u:***@h1:1/x or h2:2/x"),
        ("postgresql://h/x?user=u&password=secret", "postgresql://h/x?user=u"),
    ],
)
def test_an_address_is_shown_without_its_password(text: str, shown: str) -> None:
    address = Address(text)
    assert address.shown == shown
    assert "secret" not in repr(address)
    assert address.text == text


async def test_each_server_that_cannot_be_used_is_named_with_its_reason(migrated_url: str) -> None:
    with silence() as silent, Line(migrated_url) as line:
        url = several(silent, line)
        line.cut()
        with pytest.raises(UnreachableError) as refused:
            await Database.connect(url)
    assert "127.0.0.1: no answer; 127.0.0.1: " in str(refused.value)
    assert "\n" not in str(refused.value)


async def test_a_server_that_says_nothing_takes_its_share_of_the_time_and_only_once(
    migrated_url: str,
) -> None:
    with silence() as silent, Line(migrated_url) as line:
        address = Address(several(silent, line))
        session = await address.connect(SERVER_SETTINGS, timeout_s=1.0)
        await session.close()
        began = time.monotonic()
        session = await address.connect(SERVER_SETTINGS, timeout_s=60.0)
        assert time.monotonic() - began < 10
        await session.close()


async def test_who_gave_up_waiting_for_a_server_begins_with_the_next(migrated_url: str) -> None:
    with silence() as silent, Line(migrated_url) as line:
        address = Address(several(silent, line))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await address.connect(SERVER_SETTINGS, timeout_s=60.0)
        session = await address.connect(SERVER_SETTINGS, timeout_s=60.0)
        await session.close()


async def test_servers_may_be_named_in_the_query(migrated_url: str) -> None:
    with silence() as silent, Line(migrated_url) as line:
        before, _, after = line.url.rpartition("127.0.0.1:")
        port, _, name = after.partition("/")
        url = f"{before}/{name}?host=127.0.0.1,127.0.0.1&port={silent},{port}"
        session = await Address(url).connect(SERVER_SETTINGS, timeout_s=2.0)
        await session.close()


async def test_a_connection_notices_that_the_servers_machine_vanished(migrated_url: str) -> None:
    with Line(migrated_url) as line:
        session = await Address(line.url).connect(SERVER_SETTINGS)
        connected = session._transport.get_extra_info("socket")  # type: ignore[attr-defined]
        assert connected.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            limit_ms = connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
            assert 0 < limit_ms <= 10_000
        await session.close()


async def test_a_session_that_takes_no_writes_any_more_is_dropped(migrated_url: str) -> None:
    database = await Database.connect(migrated_url)

    async def write() -> int:
        async with database.hot() as connection:
            await connection.execute("DELETE FROM marks")
            return connection.get_server_pid()

    before = await write()
    async with database.hot() as connection:  # the one that has just been given back
        assert connection.get_server_pid() == before
        await connection.execute("SET default_transaction_read_only = on")
    with pytest.raises(UnavailableError):
        await write()
    assert await write() != before
    await database.close()


async def test_migrate_waits_for_the_database_and_brings_the_tables_up_to_date(
    database_url: str, tmp_path: Path
) -> None:
    with Line(database_url) as line:
        line.cut()
        environ = {"DATABASE_URL": line.url, "MIGRATE_WITHIN_S": "60"}
        job = Process.of_module("services.portfolio.migrate", log=tmp_path / "log", environ=environ)
        with job:
            job.wait_for_line("waiting")
            line.mend()
            assert job.wait() == 0
            assert '"migrated"' in job.output()
    rows = await run_sql(database_url, MIGRATED)
    assert rows[0][0] == 1


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", "DATABASE_URL: Field required"),
        ("postgresql://u:secret@127.0.0.1:x/x", "is not a URL"),
        ("postgresql://u:secret@127.0.0.1:1,127.0.0.1:1/x", "cannot be used"),
    ],
)
def test_migrate_says_in_one_line_why_it_could_not(url: str, said: str, tmp_path: Path) -> None:
    environ = {"DATABASE_URL": url, "MIGRATE_WITHIN_S": "0.2", "LOG_LEVEL": "ERROR"}
    job = Process.of_module("services.portfolio.migrate", log=tmp_path / "log", environ=environ)
    with job:
        assert job.wait() == 1
    (line,) = job.output().splitlines()
    assert line.startswith("The tables cannot be brought up to date. ")
    assert said in line
    assert "secret" not in line


async def test_who_may_not_make_tables_is_told_so_in_one_line(
    database_url: str, tmp_path: Path
) -> None:
    role = f"reader_{uuid.uuid4().hex}"
    await run_sql(database_url, f"CREATE ROLE {role} LOGIN")
    try:
        parts = urlsplit(database_url)
        netloc = f"{role}@{parts.netloc.rpartition('@')[2]}"
        environ = {"DATABASE_URL": urlunsplit(parts._replace(netloc=netloc)), "LOG_LEVEL": "ERROR"}
        job = Process.of_module("services.portfolio.migrate", log=tmp_path / "log", environ=environ)
        with job:
            assert job.wait() == 1
        (line,) = job.output().splitlines()
        assert line.endswith(
            "may not bring the tables up to date (permission denied for schema public)"
        )
    finally:
        await run_sql(database_url, f"DROP ROLE {role}")

"""Databases that speak PostgreSQL's language and lack what the ledger needs are refused by name.

Some are real here: a pooler (Debian's pgbouncer), and a standby (in tests/ha). The others are a
PostgreSQL whose functions lie as such a database does: they are found before PostgreSQL's own.
"""

import os
import pwd
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from services.mesh.ports import free_port
from services.mesh.postgres import give_to, running_as
from services.portfolio.storage.address import Address, BadDatabaseUrlError
from services.portfolio.storage.database import Database
from services.portfolio.storage.engine_check import EngineError, check_engine
from tests.ports.line import Line
from tests.ports.stores import run_sql
from tests.support.database import psql
from tests.support.process import Process
from tests.support.router import Router
from tests.support.waiting import wait_until

# What such a database does, and what is said of it.
LIES = {
    "advisory locks that hold": (
        "CREATE FUNCTION lies.pg_try_advisory_lock(bigint) RETURNS bool LANGUAGE sql"
        " AS 'SELECT true'"
    ),
    "sessions that last": (
        "CREATE SEQUENCE lies.pids; CREATE FUNCTION lies.pg_backend_pid() RETURNS int LANGUAGE sql"
        " AS $$SELECT nextval('lies.pids')::int$$"
    ),
    "READ COMMITTED": (
        "CREATE FUNCTION lies.current_setting(text) RETURNS text LANGUAGE sql"
        " AS $$SELECT 'serializable'$$"
    ),
    "json_to_recordset": (
        "CREATE FUNCTION lies.json_to_recordset(json) RETURNS SETOF record LANGUAGE sql"
        " AS 'SELECT 1::numeric WHERE false'"
    ),
    "LOCK TABLE": "CREATE VIEW lies.pg_locks AS SELECT * FROM pg_catalog.pg_locks WHERE false",
}


async def test_postgresql_passes_quickly_and_is_left_as_it_was(migrated_url: str) -> None:
    address = Address(migrated_url)
    await check_engine(address)  # what is loaded once is loaded
    began = time.monotonic()
    await check_engine(address)
    assert time.monotonic() - began < 1  # some 20 ms on a quiet machine
    held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
    assert (await run_sql(migrated_url, held))[0][0] == 0


@pytest.mark.parametrize("what", LIES)
async def test_a_database_that_only_says_it_can_is_refused_by_what_it_lacks(
    database_url: str, what: str
) -> None:
    psql(database_url, "CREATE SCHEMA lies")
    psql(database_url, LIES[what])
    name = urlsplit(database_url).path.removeprefix("/")
    psql(database_url, f"ALTER DATABASE {name} SET search_path = lies, pg_catalog, public")
    with pytest.raises(EngineError, match=what) as refused:
        await Database.connect(database_url)
    if what != "sessions that last":  # by its pid the lock on a table is looked for too
        assert "; " not in str(refused.value), "it lacks nothing else"
    tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
    assert (await run_sql(database_url, tables))[0][0] == 0


def test_the_router_says_so_in_one_line(database_url: str, tmp_path: Path) -> None:
    psql(database_url, "CREATE SCHEMA lies")
    psql(database_url, LIES["advisory locks that hold"])
    name = urlsplit(database_url).path.removeprefix("/")
    psql(database_url, f"ALTER DATABASE {name} SET search_path = lies, pg_catalog, public")
    router = Router(database_url, tmp_path / "router.log")
    Process.start(router)
    assert router.wait() == 1
    (line,) = router.output().splitlines()
    assert line.startswith("The router cannot start. DATABASE_URL ")
    assert "two routers would both send orders" in line


@contextmanager
def pooler(server_url: str, folder: Path, mode: str, ignored: str) -> Iterator[str]:
    """pgbouncer before a database; the database's address through it."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("needs pgbouncer (Debian: apt-get install pgbouncer)")
    owner = pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else os.geteuid()
    port = free_port()
    database = urlsplit(server_url)
    settings = folder / "pgbouncer"
    settings.mkdir()
    (settings / "users").write_text('"postgres" ""\n')
    (settings / "pgbouncer.ini").write_text(
        f"[databases]\n* = host=127.0.0.1 port={database.port} user=postgres\n[pgbouncer]\n"
        f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n"
        f"auth_file = {settings}/users\npool_mode = {mode}\nignore_startup_parameters = {ignored}\n"
        "max_client_conn = 50\ndefault_pool_size = 20\n"
    )
    give_to(settings, owner)
    command = [*running_as(owner), program, str(settings / "pgbouncer.ini")]
    url = f"postgresql://postgres@127.0.0.1:{port}{database.path}"
    with Process("pgbouncer", command, folder / "pgbouncer.log") as process:
        wait_until(lambda: "process up" in process.output(), 20, "pgbouncer is up")
        yield url


IGNORED = "statement_timeout,lock_timeout,idle_in_transaction_session_timeout"


@pytest.mark.parametrize(
    ("mode", "ignored", "said"),
    [
        ("transaction", IGNORED, "sessions that last"),
        ("transaction", "application_name", "cannot be used"),
        ("session", IGNORED, ""),
    ],
)
async def test_a_pooler_is_refused_unless_it_keeps_sessions(
    database_url: str, tmp_path: Path, mode: str, ignored: str, said: str
) -> None:
    with Line(database_url) as line, pooler(line.url, tmp_path, mode, ignored) as url:
        if not said:
            await (await Database.connect(url)).close()
            return
        with pytest.raises(BadDatabaseUrlError, match=said) as refused:
            await Database.connect(url)
        assert "\n" not in str(refused.value)

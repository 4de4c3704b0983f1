"""Empty databases on a PostgreSQL server, one for each test that wants one."""

import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit, urlunsplit

from services.mesh.postgres import programs


def psql(url: str, statement: str) -> str:
    """Runs one SQL statement and returns its rows, unaligned.

    A program of its own, so that it works inside and outside any event loop.
    """
    command = [str(programs() / "psql"), url, "-XqAt", "-v", "ON_ERROR_STOP=1", "-c", statement]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@contextmanager
def fresh_database(server_url: str) -> Iterator[str]:
    """The address of a new, empty database on the server; it is dropped in the end."""
    name = f"test_{uuid.uuid4().hex}"
    psql(server_url, f"CREATE DATABASE {name}")
    try:
        yield urlunsplit(urlsplit(server_url)._replace(path=f"/{name}"))
    finally:
        psql(server_url, f"DROP DATABASE {name} WITH (FORCE)")

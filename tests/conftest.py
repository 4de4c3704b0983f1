"""Fixtures on real parts: PostgreSQL (one server a worker), databases, routers and whole meshes."""

import itertools
import os
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from services.mesh.postgres import EmbeddedPostgres
from services.portfolio.config import Settings
from tests.support.database import fresh_database
from tests.support.mesh import Mesh, running_mesh
from tests.support.process import shown_on_failure
from tests.support.router import Router

LOG_TAIL_CHARACTERS = 4000


@pytest.fixture(scope="session")
def postgres_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A PostgreSQL server: DATABASE_URL when it is set (its role needs CREATEDB), else our own."""
    if theirs := os.environ.get("DATABASE_URL"):
        yield theirs
        return
    folder = tmp_path_factory.mktemp("postgres")
    server = EmbeddedPostgres(folder / "data", folder / "postgres.log")
    try:
        server.start()
        server.wait_ready()
        yield server.url
    finally:
        server.stop()


@pytest.fixture
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes the router's settings out of the environment, DATABASE_URL aside."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("DATABASE_URL", "postgresql://localhost/x")


@pytest.fixture
def database_url(postgres_url: str) -> Iterator[str]:
    """An empty database of the test's own."""
    with fresh_database(postgres_url) as url:
        yield url


@pytest.fixture
def router(tmp_path: Path) -> Iterator[Callable[..., Router]]:
    """Starts routers: `router(database_url, NAME=value, ...)`; ready when it returns."""
    numbers = itertools.count()
    with ExitStack() as running:

        def start(database_url: str, **environ: str) -> Router:
            one = Router(database_url, tmp_path / f"router-{next(numbers)}.log", environ)
            running.callback(one.stop)
            one.start()
            return one

        yield start


@pytest.fixture(scope="session")
def shared_mesh(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """One mesh for all tests of a worker; take `mesh`, which checks its ledger after the test."""
    with running_mesh(postgres_url, tmp_path_factory.mktemp("mesh")) as one:
        yield one


@pytest.fixture
def mesh(shared_mesh: Mesh) -> Iterator[Mesh]:
    """The worker's mesh. Other tests use it too: make strategies of your own on it."""
    yield shared_mesh
    shared_mesh.assert_balanced()


@pytest.fixture
def own_mesh(postgres_url: str, tmp_path: Path) -> Iterator[Mesh]:
    """A mesh of the test's own, to kill parts of; its ledger is checked after the test."""
    with running_mesh(postgres_url, tmp_path) as one:
        yield one
        one.assert_balanced()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Shows the logs of the processes that are up when a test fails."""
    report = yield
    if report.failed:
        for process in list(shown_on_failure):
            tail = process.output()[-LOG_TAIL_CHARACTERS:]
            report.sections.append((f"log of {process.name}", tail))
    return report

import os
import shutil
import signal
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from services.mesh import postgres
from services.mesh.errors import MeshError
from services.mesh.postgres import EmbeddedPostgres
from tests.support.database import psql
from tests.support.process import Process
from tests.support.waiting import wait_until


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    one = EmbeddedPostgres(tmp_path / "postgres", tmp_path / "postgres.log")
    one.start()
    one.wait_ready()
    yield one
    one.stop()


def start_again(server: EmbeddedPostgres) -> None:
    server.start()
    server.wait_ready()


def test_a_stopped_server_is_gone_and_its_data_is_there_at_the_next_start(
    server: EmbeddedPostgres,
) -> None:
    psql(server.url, "CREATE TABLE kept AS SELECT 42 AS answer")
    pid, url = server.pid, server.url

    server.stop()
    assert not psutil.pid_exists(pid)
    start_again(server)

    assert server.url == url
    assert psql(server.url, "SELECT answer FROM kept") == "42"


def test_what_was_committed_before_kill_9_is_there_at_the_next_start(
    server: EmbeddedPostgres,
) -> None:
    psql(server.url, "CREATE TABLE kept AS SELECT 42 AS answer")

    os.kill(server.pid, signal.SIGKILL)
    wait_until(lambda: server.exit_code() is not None)
    start_again(server)

    assert psql(server.url, "SELECT answer FROM kept") == "42"


def test_commits_wait_for_the_disk(server: EmbeddedPostgres) -> None:
    assert psql(server.url, "SHOW fsync") == "on"
    assert psql(server.url, "SHOW synchronous_commit") == "on"


def test_it_listens_on_no_port(server: EmbeddedPostgres) -> None:
    assert psql(server.url, "SHOW listen_addresses") == ""


def test_a_second_server_on_the_same_folder_is_refused_and_the_first_lives(
    server: EmbeddedPostgres,
) -> None:
    second = EmbeddedPostgres(server.folder, server.log)

    with pytest.raises(MeshError, match=f"Process {os.getpid()} already runs a PostgreSQL on"):
        second.start()

    assert psql(server.url, "SELECT 1") == "1"


def test_it_runs_below_folders_that_nobody_else_may_enter_and_leaves_them_so(
    tmp_path: Path,
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    server = EmbeddedPostgres(closed / "data" / "postgres", closed / "postgres.log")

    start_again(server)
    owner = psutil.Process(server.pid).uids().effective
    answer = psql(server.url, "SELECT 1")
    server.stop()

    assert answer == "1"
    assert owner != 0
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700
    assert closed.stat().st_uid == os.geteuid()


def test_its_programs_may_lie_below_such_folders_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    wheel, installed = postgres.programs().parents[1:3]
    for folder in installed.glob(f"{wheel.name}*"):  # the wheel, and its libraries beside it
        shutil.copytree(folder, closed / folder.name)
    programs = closed / postgres.programs().relative_to(installed)
    monkeypatch.setattr(postgres, "programs", lambda: programs)
    server = EmbeddedPostgres(tmp_path / "postgres", tmp_path / "postgres.log")

    start_again(server)
    answer = psql(server.url, "SELECT 1")
    server.stop()

    assert answer == "1"


def test_a_long_path_is_no_obstacle(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path / ("long" * 40) / "postgres", tmp_path / "postgres.log")

    start_again(server)
    answer = psql(server.url, "SELECT 1")
    server.stop()

    assert answer == "1"


def test_a_killed_owner_leaves_no_server_and_the_next_start_takes_over(tmp_path: Path) -> None:
    owner = Process(
        "owner",
        [sys.executable, "-c", OWNER, tmp_path],
        tmp_path / "owner.log",
    )
    with owner:
        pid = int(owner.wait_for_line("ready").split()[1])
        owner.kill()
    server = EmbeddedPostgres(tmp_path / "postgres", tmp_path / "postgres.log")

    start_again(server)
    answer = psql(server.url, "SELECT answer FROM kept")
    server.stop()

    assert answer == "42"
    assert not psutil.pid_exists(pid)


OWNER = """
import sys, time
from pathlib import Path
from services.mesh.postgres import EmbeddedPostgres
from tests.support.database import psql
folder = Path(sys.argv[1])
server = EmbeddedPostgres(folder / "postgres", folder / "postgres.log")
server.start()
server.wait_ready()
psql(server.url, "CREATE TABLE kept AS SELECT 42 AS answer")
print("ready", server.pid, flush=True)
time.sleep(600)
"""


def test_a_pid_file_that_names_a_stranger_does_not_keep_it_from_starting(
    server: EmbeddedPostgres,
) -> None:
    os.kill(server.pid, signal.SIGKILL)
    wait_until(lambda: server.exit_code() is not None)
    pid_file = server.folder / "postmaster.pid"
    lines = pid_file.read_text().splitlines()
    pid_file.write_text("\n".join([str(os.getppid()), *lines[1:]]))

    start_again(server)

    assert psql(server.url, "SELECT 1") == "1"


def test_a_half_made_folder_is_made_anew(tmp_path: Path) -> None:
    half = tmp_path / "postgres.new"
    half.mkdir()
    (half / "PG_VERSION").write_text("18\n")
    server = EmbeddedPostgres(tmp_path / "postgres", tmp_path / "postgres.log")

    start_again(server)
    answer = psql(server.url, "SELECT 1")
    server.stop()

    assert answer == "1"
    assert not half.exists()


def test_a_server_that_cannot_start_says_why(server: EmbeddedPostgres) -> None:
    server.stop()
    (server.folder / "PG_VERSION").write_text("9.6\n")

    server.start()
    with pytest.raises(MeshError, match="database files are incompatible with server"):
        server.wait_ready()

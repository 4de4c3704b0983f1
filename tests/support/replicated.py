"""PostgreSQL as it runs on more than one machine: a primary, and a standby that it waits for."""

import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

import psutil

from services.mesh.child import Child
from services.mesh.ports import free_port
from services.mesh.postgres import give_to, programs, running_as
from tests.support.database import psql
from tests.support.waiting import wait_until

STANDBY = "standby"  # its application_name, by which the primary knows it


class Server:
    """A server on a free TCP port of 127.0.0.1; `start` may be called again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self._owner = pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else os.geteuid()
        self._child = Child(
            folder.name,
            [
                *running_as(self._owner),
                str(programs() / "postgres"),
                f"-D{folder}",
                f"-cport={self.port}",
                "-clisten_addresses=127.0.0.1",
                "-cunix_socket_directories=",
                "-cmax_connections=100",
                "-ctimezone=UTC",
            ],
            folder.with_suffix(".log"),
            stop_signal=signal.SIGINT,
            orphan_signal=signal.SIGINT,
        )

    @property
    def url(self) -> str:
        """Its own address."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    @property
    def pid(self) -> int:
        """The process id of the server."""
        return self._child.pid

    def make(self) -> None:
        """Makes its data folder anew."""
        self._run("initdb", f"-D{self.folder}", "-Upostgres", "-Atrust", "-EUTF8", "--no-locale")

    def copy(self, primary: "Server") -> None:
        """Makes its data folder as a standby's of `primary`."""
        conninfo = f"host=127.0.0.1 port={primary.port} user=postgres application_name={STANDBY}"
        self._run("pg_basebackup", f"-D{self.folder}", "-R", "-cfast", f"-d{conninfo}")

    def start(self) -> None:
        """Starts it, and waits until it takes connections."""
        (self.folder / "postmaster.pid").unlink(missing_ok=True)
        self._child.start()
        wait_until(self._answers, 30, f"{self.folder.name} answers")

    def kill(self) -> None:
        """SIGKILL to all of its processes at once, as when its machine loses power."""
        server = psutil.Process(self._child.pid)
        for process in (server, *server.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        wait_until(lambda: self._child.exit_code() is not None, 10, "it is gone")

    def stop(self) -> None:
        """Ends it, by force if need be."""
        self._child.stop()

    def _answers(self) -> bool:
        assert self._child.exit_code() is None, self._child.output()
        ready = [str(programs() / "pg_isready"), "-q", "-h127.0.0.1", f"-p{self.port}"]
        return subprocess.run(ready, check=False, timeout=10).returncode == 0

    def _run(self, program: str, *arguments: str) -> None:
        self.folder.mkdir(mode=0o700)
        give_to(self.folder, self._owner)
        command = [*running_as(self._owner), str(programs() / program), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr


class Replicated:
    """Two servers. What is committed on the primary is on the standby before it is answered."""

    def __init__(self, folder: Path) -> None:
        self.primary = Server(folder / "primary")
        self.standby = Server(folder / "standby")

    @property
    def url(self) -> str:
        """The address of both; the standby comes first, so that it must be passed over."""
        hosts = f"127.0.0.1:{self.standby.port},127.0.0.1:{self.primary.port}"
        return f"postgresql://postgres:no-secret@{hosts}/postgres?target_session_attrs=read-write"

    def start(self) -> Self:
        """Makes and starts both, and waits until the primary waits for the standby."""
        self.primary.make()
        self.primary.start()
        self.standby.copy(self.primary)
        self.standby.start()
        # Not before the copy was made: promoted, the standby shall not wait for one of its own.
        self.wait_for_standby(True)
        wait_until(self._is_synchronous, 30, "the standby is synchronous")
        return self

    def wait_for_standby(self, wanted: bool) -> None:
        """Whether commits wait for the standby: what an operator changes when it is lost."""
        names = STANDBY if wanted else ""
        psql(self.primary.url, f"ALTER SYSTEM SET synchronous_standby_names = '{names}'")
        psql(self.primary.url, "SELECT pg_reload_conf()")

    def fail_over(self) -> None:
        """Kills the primary, and makes the standby one."""
        self.primary.kill()
        assert psql(self.standby.url, "SELECT pg_promote(true, 60)") == "t"

    def stop(self) -> None:
        """Ends both."""
        self.standby.stop()
        self.primary.stop()

    def _is_synchronous(self) -> bool:
        state = "SELECT sync_state FROM pg_stat_replication WHERE application_name = 'standby'"
        return psql(self.primary.url, state) == "sync"


@contextmanager
def replicated(folder: Path) -> Iterator[Replicated]:
    """A running pair."""
    pair = Replicated(folder)
    try:
        yield pair.start()
    finally:
        pair.stop()
        shutil.rmtree(folder / "primary", ignore_errors=True)
        shutil.rmtree(folder / "standby", ignore_errors=True)

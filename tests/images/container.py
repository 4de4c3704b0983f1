"""A container of a test, as strict as a cluster's restricted pods: crun runs it, without a daemon.

Its root is read-only but for /tmp; it has the image's user, no capability and no way to gain any.
It shares the machine's network, which has loopback alone for sure.
"""

import json
import os
import subprocess
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit, urlunsplit

from tests.images.workshop import Workshop, run
from tests.support.process import Process

EXEC_S = 120
# crun refuses a machine that has both kinds of cgroups, though it is to use none.
ONE_KIND_OF_CGROUPS = (
    "umount -R /sys/fs/cgroup 2>/dev/null; mount -t cgroup2 none /sys/fs/cgroup; "
    'exec crun --root "$0" --cgroup-manager=disabled "$@"'
)
SOCKETS = "/tmp/postgresql"


class Container(Process):
    """One container of an image; its process's output is the log's."""

    def __init__(
        self,
        workshop: Workshop,
        image: str,
        environ: Mapping[str, str],
        files: Mapping[str, Path] | None = None,
    ) -> None:
        """`files` are those of the machine that it sees, by the path at which it does."""
        self.settings = workshop.settings(image)
        self.tree = workshop.tree(image)
        self._id = f"images-{uuid.uuid4().hex[:12]}"
        self._bundle = workshop.folder / self._id
        self._state = workshop.folder / "crun"
        own = [f"{name}={value}" for name, value in environ.items()]
        self._write_bundle([*self.settings["Env"], *own], files or {})
        command = self._crun("run", "--bundle", str(self._bundle), self._id)
        super().__init__(image, command, self._bundle / "log", environ)

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Runs a command inside, as the image's user; its outcome."""
        return subprocess.run(
            self._crun("exec", "--user", self.settings["User"], self._id, *command),
            capture_output=True,
            text=True,
            timeout=EXEC_S,
            check=False,
        )

    def check_health(self) -> subprocess.CompletedProcess[str]:
        """Runs the image's HEALTHCHECK inside; its outcome."""
        kind, *command = self.settings["Healthcheck"]["Test"]
        assert kind == "CMD"
        return self.execute(*command)

    def python(self, program: str) -> str:
        """What a Python program prints inside. Raises: AssertionError."""
        ran = self.execute("python", "-c", program)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout.strip()

    def signal(self, name: str) -> None:
        """Sends the container's first process a signal, such as TERM."""
        run(self._crun("kill", self._id, name))

    def stop(self, deadline_s: float = 10) -> None:
        """Ends it, by force if need be."""
        if self._process is not None:
            subprocess.run(
                self._crun("delete", "--force", self._id), check=False, capture_output=True
            )
        super().stop(deadline_s)

    def _crun(self, *words: str) -> list[str]:
        private = ["unshare", "--mount", "--propagation", "private"]
        return [*private, "sh", "-c", ONE_KIND_OF_CGROUPS, str(self._state), *words]

    def _write_bundle(self, environ: list[str], files: Mapping[str, Path]) -> None:
        self._bundle.mkdir()
        run(self._crun("spec", "--bundle", str(self._bundle)))
        path = self._bundle / "config.json"
        bundle: dict[str, Any] = json.loads(path.read_text())
        user, _, group = self.settings["User"].partition(":")
        bundle["root"] = {"path": str(self.tree), "readonly": True}
        bundle["process"] |= {
            "terminal": False,
            "user": {"uid": int(user), "gid": int(group)},
            "cwd": self.settings["WorkingDir"],
            "env": environ,
            "args": self.settings["Entrypoint"],
            "noNewPrivileges": True,
            "capabilities": {},
            "rlimits": [],
        }
        kinds = ("pid", "ipc", "uts", "mount")
        bundle["linux"]["namespaces"] = [{"type": kind} for kind in kinds]
        del bundle["linux"]["resources"]
        mounts = [mount for mount in bundle["mounts"] if mount["type"] != "cgroup"]
        bundle["mounts"] = [*mounts, TMP, *(bind(*item) for item in files.items())]
        path.write_text(json.dumps(bundle))


TMP = {
    "destination": "/tmp",
    "type": "tmpfs",
    "source": "tmpfs",
    "options": ["nosuid", "nodev", "noexec", "mode=1777"],
}


def bind(destination: str, source: Path) -> dict[str, Any]:
    """A mount of a machine's file or folder."""
    options = ["rbind", "nosuid", "nodev"]
    return {"destination": destination, "type": "bind", "source": str(source), "options": options}


def database_inside(url: str) -> tuple[str, dict[str, Path]]:
    """A database's address as a container has it, and the files that it needs for that."""
    parts = urlsplit(url)
    folder = parse_qs(parts.query).get("host", [""])[0]
    if not folder.startswith("/"):
        return url, {}
    socket = Path(folder) / ".s.PGSQL.5432"
    if "DATABASE_URL" not in os.environ:
        socket.chmod(0o777)  # it is our own server's, and the folder around it stays private
    inside = urlunsplit(parts._replace(query=f"host={SOCKETS}"))
    return inside, {f"{SOCKETS}/{socket.name}": socket}

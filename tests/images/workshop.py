"""A workshop that builds images without a daemon: buildah, on a base made by debootstrap.

The Dockerfiles' own base can only be had from a registry. The one made here is of the same Debian
and the same Python, laid out as that one is: python3 and pip in /usr/local.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

ROOT = Path(__file__).parents[2]
TOOLS = ("buildah", "crun", "debootstrap", "unshare")
PACKAGES = "buildah crun debootstrap util-linux"
BASE = "localhost/base"
PATH = "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
DEBIAN = re.compile(r"^ARG BASE=python:3\.11\.\d+-slim-(\w+)$", re.MULTILINE)
# As in the Dockerfiles' base; and no fsync, for what is deleted after the tests.
DPKG = """\
force-unsafe-io
path-exclude /usr/share/doc/*
path-exclude /usr/share/locale/*
path-exclude /usr/share/man/*
"""
BUILD_S = 900
PIP_PLACES = ("extra-index-url", "find-links", "index-url", "no-index")
PIP_SETTINGS = (*PIP_PLACES, "cert", "client-cert", "proxy", "timeout", "trusted-host")


class NoMirrorError(Exception):
    """debootstrap could not make a base; its last words."""


def why_not_here() -> str:
    """What this machine lacks for building and running images; empty: nothing."""
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        return f"{', '.join(missing)} not found (Debian: apt install {PACKAGES})"
    if os.geteuid() != 0:
        return "only root can make a base image and run containers without a daemon"
    probe = ["unshare", "--mount", "true"]
    if subprocess.run(probe, check=False, capture_output=True).returncode != 0:
        return "root may make no mount namespaces here (CAP_SYS_ADMIN)"
    return ""


@dataclass
class Workshop:
    """Builds images in `folder`, which may be deleted afterwards."""

    folder: Path
    _environ: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        (self.folder / "tmp").mkdir(parents=True)
        storage = self.folder / "storage.conf"
        storage.write_text(
            f'[storage]\ndriver = "vfs"\ngraphroot = "{self.folder}/images"\n'
            f'runroot = "{self.folder}/run"\n'
        )
        self._environ = {
            **os.environ,
            "BUILDAH_ISOLATION": "chroot",
            "CONTAINERS_STORAGE_CONF": str(storage),
            "STORAGE_DRIVER": "vfs",
            "TMPDIR": str(self.folder / "tmp"),
        }

    def make_base(self) -> None:
        """Makes BASE. Raises: NoMirrorError."""
        container = self._buildah("from", "scratch")
        tree = Path(self._buildah("mount", container))
        settings = tree / "etc/dpkg/dpkg.cfg.d"
        settings.mkdir(parents=True)
        (settings / "slim").write_text(DPKG)
        packages = "--include=python3,python3-venv"
        suite = DEBIAN.findall(dockerfile("portfolio"))[0]
        try:
            run(["debootstrap", "--variant=minbase", packages, suite, str(tree), *mirror(suite)])
        except AssertionError as failed:
            raise NoMirrorError(str(failed).strip().rpartition("\n")[2]) from None
        run(["chroot", str(tree), "python3", "-m", "venv", "/usr/local"])
        run(["rm", "-rf", str(tree / "var/cache/apt"), str(tree / "var/lib/apt/lists")])
        self._buildah("config", "--env", f"PATH={PATH}", container)
        self._buildah("commit", "--quiet", "--rm", container, BASE)

    def build(self, service: str, **arguments: str) -> str:
        """Builds services/{service}/Dockerfile from the repository's root; the image's name.

        Raises: AssertionError, with what the build said.
        """
        settings, mounts = pip_settings()
        secret = self.folder / "pip.conf"
        secret.write_text(settings)
        name = f"localhost/{service}"
        options = [f"--volume={path}:{path}:ro" for path in mounts]
        options += [f"--build-arg={key}={value}" for key, value in arguments.items()]
        self._buildah(
            "build",
            *("--format=docker", "--layers=false", "--pull-never", f"--build-arg=BASE={BASE}"),
            *(f"--secret=id=pip,src={secret}", *options),
            *(f"--tag={name}", f"--file=services/{service}/Dockerfile", "."),
        )
        return name

    def settings(self, image: str) -> dict[str, Any]:
        """How the image is to be run: User, Env, Entrypoint, WorkingDir, Healthcheck, Labels ..."""
        told = json.loads(self._buildah("inspect", "--type=image", image))
        settings: dict[str, Any] = told["Docker"]["config"]
        return settings

    def tree(self, image: str) -> Path:
        """The image's files, to be read only. To have buildah mount them would copy them all."""
        images = json.loads((self.folder / "images/vfs-images/images.json").read_text())
        layer: str = next(
            one["layer"] for one in images if f"{image}:latest" in one.get("names", [])
        )
        return self.folder / "images/vfs/dir" / layer

    def size_mb(self, image: str, *folders: str) -> float:
        """What these folders of the image take on a disk."""
        told = run(
            ["du", "-sc", "--block-size=1", *(str(self.tree(image) / one) for one in folders)]
        )
        return int(told.splitlines()[-1].split()[0]) / 1e6

    def _buildah(self, *words: str) -> str:
        return run(["buildah", *words], self._environ)


def dockerfile(service: str) -> str:
    """The text of a service's Dockerfile."""
    return (ROOT / "services" / service / "Dockerfile").read_text()


def run(command: list[str], environ: dict[str, str] | None = None) -> str:
    """Runs a command in the repository's root; what it wrote. Raises: AssertionError."""
    ran = subprocess.run(
        command,
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        timeout=BUILD_S,
        check=False,
    )
    said = (ran.stdout + ran.stderr)[-8000:]
    assert ran.returncode == 0, f"{shlex.join(command)}\n{said}"
    return ran.stdout.strip()


def mirror(suite: str) -> list[str]:
    """The mirror that this machine's apt has the suite from; empty: debootstrap knows one."""
    told = run(["apt-get", "indextargets", "--format", "$(RELEASE) $(REPO_URI)"])
    return [line.split()[1] for line in told.splitlines() if line.startswith(f"{suite} ")][:1]


def pip_settings() -> tuple[str, set[str]]:
    """This machine's pip.conf in one, and the folders that it speaks of.

    An index in a folder refers to its neighbours, so it comes with the folder around it.
    """
    told = run([sys.executable, "-m", "pip", "config", "list"])
    settings: dict[str, str] = {}
    for line in sorted(told.splitlines(), reverse=True):  # the environment last: it counts
        name, _, value = line.partition("=")
        key = name.rpartition(".")[2]
        if key in PIP_SETTINGS:
            settings[key] = " ".join(shlex.split(value))
    mounts = set()
    for word in " ".join(settings.values()).split():
        path = Path(urlsplit(word).path if word.startswith("file:") else word)
        if path.is_absolute() and path.exists():
            mounts.add(str(path.parent if word.startswith("file:") else path))
    lines = [f"{key} = {value}" for key, value in settings.items()]
    return "\n".join(["[global]", *lines, ""]), mounts

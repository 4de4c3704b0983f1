"""The load drivers: h2load for gRPC, wrk for REST, pgbench for SQL. All native, none in Python.

(LIVE is driven at a slow pace by live.py: it is about one order's way, not about load.)

Each function loads one system with a fixed number of callers, each of which sends its next request
when it has its answer, and returns a Sample. A request that fails fails the benchmark: a rate of
refusals means nothing.
"""

import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from services.mesh.postgres import programs

HERE = Path(__file__).resolve().parent
PACKAGES = {"h2load": "nghttp2-client", "wrk": "wrk"}


class BenchmarkError(Exception):
    """What was measured would mean nothing; the message says why."""


@dataclass(frozen=True)
class Sample:
    """What one driver saw in one run."""

    rate: float  # answers a second
    p50_ms: float
    p99_ms: float
    done: int  # answers in all
    driver_share: float  # of the time of all cores that the driver itself used, 0 to 1


@dataclass(frozen=True)
class Finished:
    """Processes that have ended: what they printed, and what they cost."""

    outputs: list[str]
    share: float  # of the time of all cores, 0 to 1


def missing_drivers() -> list[str]:
    """The Debian packages of the drivers that are not installed."""
    return [package for program, package in PACKAGES.items() if shutil.which(program) is None]


def drive_grpc(
    url: str,
    crews: Sequence[tuple[bytes, int]],
    *,
    seconds: int,
    answer_bytes: int | None = None,
) -> Sample:
    """Calls the unary method at `url`, each crew its message from so many callers.

    h2load sends one body a process, so a crew is a process; each caller has its own connection.
    Counted are the calls that end while all crews are at work. h2load sees the HTTP status only,
    which is 200 for a refused call too: give `answer_bytes`, the size of the answer's message, when
    it is always the same, or count what was written.
    """
    with tempfile.TemporaryDirectory() as folder:
        commands = []
        logs = [Path(folder, f"{number}.log") for number in range(len(crews))]
        for log, (message, callers) in zip(logs, crews, strict=True):
            body = log.with_suffix(".body")
            body.write_bytes(b"\0" + len(message).to_bytes(4, "big") + message)
            commands.append(h2load_command(url, body, log, callers, seconds))
        finished = run(commands)
        calls = [read_h2load_log(log.read_text()) for log in logs]
    sample = sample_of_calls(calls, finished.share)
    if answer_bytes is not None:
        got = sum(read_h2load_data_bytes(output) for output in finished.outputs)
        if got < sample.done * (5 + answer_bytes):
            raise BenchmarkError(
                f"{url}: {sample.done} answers of {5 + answer_bytes} bytes are more than the "
                f"{got} bytes that came: calls were refused."
            )
    return sample


def drive_rest(url: str, requests: str, *, strategies: int, callers: int, seconds: int) -> Sample:
    """Sends `requests` (orders or invested) for strategies picked at random."""
    command = [
        *("wrk", "--threads=1", f"--connections={callers}", f"--duration={seconds}s"),
        *("--timeout=30s", f"--script={HERE / 'pick.lua'}", url),
        *("--", requests, str(strategies)),
    ]
    finished = run([command])
    return read_wrk(finished.outputs[0], finished.share)


def drive_sql(
    url: str, *, strategies: int, callers: int, seconds: int, tells: bool = True
) -> Sample:
    """Runs order.sql, prepared, in the database at `url`, which a router has prepared."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(pgbench(), "--no-vacuum", "--protocol=prepared", f"--client={callers}", "--jobs=1"),
            *(f"--time={seconds}", f"--define=strategies={strategies}", "--log"),
            f"--define=tells={tells:d}",
            *(f"--log-prefix={folder}/log", f"--file={HERE / 'pgbench' / 'order.sql'}", url),
        ]
        finished = run([command])
        logs = [path.read_text() for path in Path(folder).iterdir()]
    return read_pgbench(finished.outputs[0], logs, finished.share)


def run(commands: Sequence[Sequence[str]]) -> Finished:
    """Runs the commands, all started at the same moment, and waits for all.

    Raises:
        BenchmarkError: one of them failed, with what it printed last.
    """
    cpu_s = 0.0
    outputs = []
    with ExitStack() as running:
        gate, opening = os.pipe()
        running.callback(os.close, gate)
        processes = [start_behind(gate, command, running) for command in commands]
        os.close(opening)
        start = time.perf_counter()
        for process in processes:
            assert process.stdout is not None
            outputs.append(process.stdout.read())
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            cpu_s += usage.ru_utime + usage.ru_stime
        wall_s = time.perf_counter() - start
    for process, output in zip(processes, outputs, strict=True):
        if process.returncode:
            last = output.strip().splitlines()[-1:]
            raise BenchmarkError(f"{process.args!r} failed with {process.returncode}: {last}")
    return Finished(outputs, cpu_s / wall_s / (os.cpu_count() or 1))


def start_behind(gate: int, command: Sequence[str], running: ExitStack) -> subprocess.Popen[str]:
    """Starts a process that waits until the gate's other end is closed; `running` ends it."""
    process = running.enter_context(
        subprocess.Popen(
            ["sh", "-c", 'read -r opened; exec "$@" < /dev/null', "sh", *command],
            env={**os.environ, "LC_ALL": "C"},
            stdin=gate,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    )
    running.callback(process.kill)
    return process


def h2load_command(url: str, body: Path, log: Path, callers: int, seconds: int) -> list[str]:
    """So many callers that send `body` for so many seconds and log each call."""
    return [
        *("h2load", f"--clients={callers}", f"--duration={seconds}", f"--data={body}"),
        *(f"--log-file={log}", "--header=content-type: application/grpc", "--header=te: trailers"),
        url,
    ]


def read_h2load_log(log: str) -> list[tuple[int, int]]:
    """The calls in an h2load log, as (start, end) in microseconds.

    Raises:
        BenchmarkError: there is none, or one has another HTTP status than 200.
    """
    calls = []
    for line in log.splitlines():
        start, status, took = line.split("\t")
        if status != "200":
            raise BenchmarkError(f"A call ended with HTTP status {status} instead of 200.")
        calls.append((int(start), int(start) + int(took)))
    if not calls:
        raise BenchmarkError("A crew had no answer at all.")
    return calls


def read_h2load_data_bytes(output: str) -> int:
    """How many bytes of HTTP/2 DATA came, message prefixes included."""
    return int(found(r"\((\d+)\) data$", output))


def sample_of_calls(calls_by_crew: Sequence[list[tuple[int, int]]], share: float) -> Sample:
    """The sample of the calls that end while every crew is at work."""
    begin = max(min(start for start, _ in calls) for calls in calls_by_crew)
    end = min(max(end for _, end in calls) for calls in calls_by_crew)
    if end <= begin:
        raise BenchmarkError("The crews were never all at work at the same time.")
    counted = [e - s for calls in calls_by_crew for s, e in calls if begin < e <= end]
    return Sample(
        rate=len(counted) / (end - begin) * 1e6,
        p50_ms=percentile(counted, 50) / 1e3,
        p99_ms=percentile(counted, 99) / 1e3,
        done=sum(len(calls) for calls in calls_by_crew),
        driver_share=share,
    )


def read_wrk(output: str, share: float) -> Sample:
    """Reads the line of JSON that pick.lua prints.

    Raises:
        BenchmarkError: a request was refused or its connection broke.
    """
    seen = json.loads(output.strip().splitlines()[-1])
    if seen["refused"] or seen["broken"] or not seen["done"]:
        raise BenchmarkError(f"wrk saw requests that failed: {seen}")
    return Sample(
        rate=seen["done"] / seen["seconds"],
        p50_ms=seen["p50_us"] / 1e3,
        p99_ms=seen["p99_us"] / 1e3,
        done=seen["done"],
        driver_share=share,
    )


def read_pgbench(output: str, logs: Iterable[str], share: float) -> Sample:
    """Reads pgbench's summary, and its logs, whose third column is the latency in microseconds.

    Raises:
        BenchmarkError: a transaction failed.
    """
    if int(found(r"^number of failed transactions: (\d+)", output)):
        raise BenchmarkError("pgbench saw transactions that failed.")
    latencies = [int(line.split()[2]) for log in logs for line in log.splitlines()]
    return Sample(
        rate=float(found(r"^tps = ([\d.]+) \(without", output)),
        p50_ms=percentile(latencies, 50) / 1e3,
        p99_ms=percentile(latencies, 99) / 1e3,
        done=int(found(r"^number of transactions actually processed: (\d+)", output)),
        driver_share=share,
    )


def percentile(values: Sequence[int], percent: int) -> int:
    """The smallest value that at least `percent` of the values do not exceed."""
    return sorted(values)[max(0, -(-len(values) * percent // 100) - 1)]


def found(pattern: str, output: str) -> str:
    """What the pattern's group matches in a driver's output."""
    match = re.search(pattern, output, re.MULTILINE)
    if match is None:
        raise BenchmarkError(f"The driver did not print {pattern!r}: {output.strip()[-500:]}")
    return match[1]


def pgbench() -> str:
    """Where pgbench is: in the wheel of the embedded PostgreSQL."""
    return str(programs() / "pgbench")

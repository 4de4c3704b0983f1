"""The optimiser's process, and the router's side of it, on the real database."""

import asyncio
import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import numpy as np
import psutil
import pytest
import structlog
import uvloop
from pydantic import TypeAdapter

from services.portfolio.allocation.optimiser import Optimiser
from services.portfolio.allocation.request import Answer, Question, Request
from services.portfolio.domain.capital import AllocationPolicy, Bound, Method
from services.portfolio.domain.order import Mode
from services.portfolio.ports import UnavailableError
from tests.allocation.books import close_books, make_tables
from tests.support.waiting import wait_until, wait_until_async

COMMAND = [sys.executable, "-m", "services.portfolio.allocation.worker"]
ROOT = Path(__file__).parents[2]
NAMES = ("calm", "middling", "wild")
REQUEST = Request(
    AllocationPolicy(Method.INVERSE_VOLATILITY, cash_floor=Decimal("0.1"), min_days=20),
    Mode.PAPER,
    dict.fromkeys((*NAMES, "new"), Decimal("0.25")),
    frontier_points=5,
)
PASSWORD = "not-to-be-seen"


@pytest.fixture
async def curves_url(database_url: str) -> str:
    """A database with a few strategies' curves, each wilder than the one before."""
    await make_tables(database_url)
    random = np.random.default_rng(1)
    returns = random.normal(0.001, 1, (60, 3)) * np.array([0.005, 0.01, 0.02])
    growth = np.cumprod(1 + returns, axis=0)
    connection = await asyncpg.connect(database_url)
    await close_books(
        connection,
        {
            name: {day: Decimal(repr(float(value))) for day, value in enumerate(growth[:, place])}
            for place, name in enumerate(NAMES)
        },
    )
    await connection.close()
    return database_url


def nobody_at(url: str) -> str:
    """An address where no database listens, with a password in it."""
    return urlunsplit(urlsplit(url)._replace(netloc=f"someone:{PASSWORD}@127.0.0.1:1", query=""))


def children() -> set[psutil.Process]:
    """The processes this one has started and that are there, finished ones not yet reaped too."""
    return set(psutil.Process().children())


@pytest.fixture(autouse=True)
def nothing_is_left(postgres_url: str) -> Iterator[None]:
    """No test leaves a process, whatever it does to the caller."""
    before = children()
    yield
    gc.collect()
    assert children() <= before


async def started(task: "asyncio.Task[object]") -> psutil.Process:
    """The task's process, once it runs the worker."""

    async def found() -> psutil.Process | None:
        assert not task.done()
        for process in children():
            if process.cmdline()[-1:] == COMMAND[-1:]:
                return process
        return None

    process = await wait_until_async(found, what="the optimiser's process")
    assert process is not None
    return process


async def test_it_reads_the_curves_and_answers_with_weights(curves_url: str) -> None:
    solution = await Optimiser(curves_url).solve(REQUEST)

    assert solution.because == ""
    assert solution.method is Method.INVERSE_VOLATILITY
    assert sum(solution.weights.values()) == pytest.approx(0.9)
    assert solution.weights["new"] == pytest.approx(0.225)
    assert solution.weights["calm"] > solution.weights["middling"] > solution.weights["wild"]
    assert solution.days == 60
    assert len(solution.frontier) == 5
    assert solution.notes == {"new": "new: 0 of 20 days of history; its share is an equal one"}


async def test_bounds_fixed_weights_and_fallback_cross_the_line(curves_url: str) -> None:
    policy = AllocationPolicy(
        Method.MAXIMUM_SHARPE,
        fallback=Method.FIXED,
        bounds=tuple(
            Bound(name, fixed_weight=Decimal(fixed), max_weight=Decimal("0.3"))
            for name, fixed in zip(NAMES, ("0.5", "0.2", "0.1"), strict=True)
        ),
        max_turnover=Decimal(1),
        min_days=90,
    )
    request = Request(policy, Mode.PAPER, dict.fromkeys(NAMES, Decimal("0.1")))

    solution = await Optimiser(curves_url).solve(request)

    assert solution.method is Method.FIXED
    assert "MAXIMUM_SHARPE was asked for" in solution.because
    assert solution.weights == pytest.approx({"calm": 0.3, "middling": 0.2, "wild": 0.1})


async def test_there_is_one_at_a_time(curves_url: str) -> None:
    optimiser = Optimiser(curves_url)
    first = asyncio.create_task(optimiser.solve(REQUEST))
    await started(first)

    with pytest.raises(UnavailableError) as refused:
        await optimiser.solve(REQUEST)

    assert refused.value.reason == "ALLOCATION_BUSY"
    assert (await first).because == ""


async def test_it_never_blocks_the_loop(curves_url: str) -> None:
    task = asyncio.create_task(Optimiser(curves_url).solve(REQUEST))
    loop, longest = asyncio.get_running_loop(), 0.0
    start = loop.time()
    while not task.done():
        before = loop.time()
        await asyncio.sleep(0.005)
        longest = max(longest, loop.time() - before)

    await task
    assert longest < (loop.time() - start) / 2


async def test_the_process_gives_way_to_all_others(curves_url: str) -> None:
    task = asyncio.create_task(Optimiser(curves_url).solve(REQUEST))
    process = await started(task)

    async def polite() -> bool:
        return process.nice() == 19

    await wait_until_async(polite, what="nice 19")
    await task


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_cancelled_caller_leaves_no_process(loop: str) -> None:
    async def cancelled_after(turns: int) -> None:
        optimiser = Optimiser("postgresql://someone@127.0.0.1:1/none")
        task = asyncio.create_task(optimiser.solve(REQUEST))
        for _ in range(turns):
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(UnavailableError, match="cannot read the strategies' curves"):
            await optimiser.solve(REQUEST)  # it is free again

    async def main() -> None:
        await asyncio.gather(*(cancelled_after(turns) for turns in (0, 1, 3, 300)))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop if loop == "uvloop" else None) as runner:
        runner.run(main())


SERVES_AND_ASKS = """
import asyncio, sys, uvloop
from services.portfolio import rpc  # before grpc, as in the router
from grpc import aio
async def main():
    server = aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        for _ in range(5):
            try:
                await channel.unary_unary("/none/None")(b"")
            except aio.AioRpcError:
                pass
            await (await asyncio.create_subprocess_exec(sys.executable, "-c", "")).wait()
    await server.stop(None)
uvloop.run(main())
"""


def test_grpc_says_nothing_of_a_process_that_the_router_starts() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", SERVES_AND_ASKS],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith("GRPC_")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")


async def test_a_timeout_kills_the_process_and_says_so(curves_url: str) -> None:
    with pytest.raises(UnavailableError, match=r"not computed within 0\.2 s") as error:
        await Optimiser(curves_url, timeout_s=0.2).solve(REQUEST)

    assert error.value.reason == "ALLOCATION_FAILED"


async def test_a_process_that_is_killed_is_an_allocation_that_failed(curves_url: str) -> None:
    task = asyncio.create_task(Optimiser(curves_url).solve(REQUEST))
    (await started(task)).kill()

    with pytest.raises(UnavailableError, match=r"ended without an answer \(exit status -9\)"):
        await task


async def test_a_database_that_is_away_is_said_so_without_its_password(curves_url: str) -> None:
    optimiser = Optimiser(nobody_at(curves_url))
    with structlog.testing.capture_logs() as logs:
        task = asyncio.create_task(optimiser.solve(REQUEST))
        process = await started(task)
        shown = [*process.cmdline(), *process.environ().values()]
        with pytest.raises(UnavailableError) as error:
            await task

    assert error.value.reason == "DATABASE_UNAVAILABLE"
    assert PASSWORD not in f"{error.value} {logs} {shown}"


@pytest.mark.parametrize("url", [f"postgresql://someone:{PASSWORD}@[::1/x", f"nonsense {PASSWORD}"])
async def test_an_address_that_is_none_is_not_quoted(url: str) -> None:
    with structlog.testing.capture_logs() as logs, pytest.raises(UnavailableError) as error:
        await Optimiser(url).solve(REQUEST)

    assert PASSWORD not in f"{error.value} {logs}"


def test_a_question_that_makes_no_sense_gets_a_sentence_that_does_not_quote_it() -> None:
    question = f'{{"database_url": "{PASSWORD}", "request": 3}}'

    done = subprocess.run(
        COMMAND, input=question, capture_output=True, text=True, cwd=ROOT, check=True
    )

    answer = TypeAdapter(Answer).validate_json(done.stdout)
    assert answer.message.startswith("The optimiser failed (ValidationError)")
    assert PASSWORD not in done.stdout + done.stderr


def test_the_process_ends_with_its_caller() -> None:
    # The worker waits for the end of a question that does not come: we hold the other end.
    script = (
        "import subprocess, time\n"
        f"print(subprocess.Popen({COMMAND!r}).pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=pipe, stdout=pipe, cwd=ROOT, text=True
    ) as caller:
        assert caller.stdout is not None
        worker = psutil.Process(int(caller.stdout.readline()))
        wait_until(lambda: worker.nice() == 19, what="the worker knows its caller")
        assert worker.is_running()

        caller.kill()

        wait_until(lambda: not worker.is_running(), what="the worker has ended")


def test_what_crosses_the_line_comes_back_the_same() -> None:
    question = Question(replace(REQUEST, frontier_points=0), "postgresql://host/name")
    codec = TypeAdapter(Question)

    assert codec.validate_json(codec.dump_json(question)) == question
    assert "host" not in repr(question)

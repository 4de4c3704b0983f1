"""The router's side of the optimiser: starts its process, asks the question, takes the answer."""

import asyncio
import sys
from pathlib import Path

import structlog
from prometheus_client import Histogram
from pydantic import TypeAdapter, ValidationError

from services.portfolio.allocation.request import Answer, Question, Request, Solution
from services.portfolio.ports import UnavailableError

WORKER = "services.portfolio.allocation.worker"
ROOT = Path(__file__).parents[3]  # where `services` is found
TIMEOUT_S = 120.0
COMPLAINT_CHARACTERS = 4000

SECONDS = Histogram(
    "portfolio_optimiser_seconds",
    "From the question to the answer, or to the end of the process.",
    buckets=(0.5, 1, 2, 5, 10, 20, 30, 60, 120),
)

log = structlog.get_logger()


class Optimiser:
    """Solves one allocation at a time, in a process that lives as long as the question."""

    def __init__(self, database_url: str, *, timeout_s: float = TIMEOUT_S) -> None:
        """`database_url` is one that asyncpg takes: postgresql://user:password@host:port/name."""
        self._database_url = database_url
        self._timeout_s = timeout_s
        self._turn = asyncio.Lock()

    async def solve(self, request: Request) -> Solution:
        """Reads the strategies' curves and finds the weights; with 1,000 of them in half a minute.

        Raises:
            UnavailableError: ALLOCATION_BUSY, another is being computed; ALLOCATION_FAILED, the
                optimiser failed or took too long; DATABASE_UNAVAILABLE, it could not read.
        """
        if self._turn.locked():
            raise UnavailableError(
                "ALLOCATION_BUSY",
                "An allocation is being computed, and there is one at a time. Try again after it.",
            )
        async with self._turn:
            with SECONDS.time():
                answer = await self._ask(request)
        if answer.solution is None:
            raise UnavailableError(answer.reason, answer.message)
        return answer.solution

    async def _ask(self, request: Request) -> Answer:
        question = TypeAdapter(Question).dump_json(Question(request, self._database_url))
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", WORKER, stdin=pipe, stdout=pipe, stderr=pipe, cwd=ROOT
        )
        try:
            async with asyncio.timeout(self._timeout_s):
                output, complaint = await process.communicate(question)
        except TimeoutError:
            raise UnavailableError(
                "ALLOCATION_FAILED",
                f"The allocation was not computed within {self._timeout_s:g} s. Nothing was moved; "
                "ask for fewer strategies, or for a shorter lookback.",
            ) from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        return _heard(output, complaint, process.returncode)


def _heard(output: bytes, complaint: bytes, returncode: int | None) -> Answer:
    """The process's answer, or that it had none (it was killed, or could not start)."""
    if complaint:
        log.warning("optimiser_complained", text=complaint.decode()[-COMPLAINT_CHARACTERS:])
    try:
        return TypeAdapter(Answer).validate_json(output)
    except ValidationError:
        return Answer(
            reason="ALLOCATION_FAILED",
            message=f"The optimiser's process ended without an answer (exit status {returncode}). "
            "Nothing was moved; try again.",
        )

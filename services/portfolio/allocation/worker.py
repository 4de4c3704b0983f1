"""The optimiser's process: one Question on standard input, one Answer on standard output, as JSON.

`python -m services.portfolio.allocation.worker`. A process of its own, so that hundreds of
megabytes of libraries and seconds of arithmetic never meet the router's event loop, and go away
with it. It uses one core, gives way to everything else on the machine, and ends when its caller
does. The database's address may hold a password, so it comes by standard input, and nothing that
is said of a failure quotes what was given.
"""

import os
import sys
import threading
import traceback
from importlib import import_module

from pydantic import TypeAdapter

from services.portfolio.allocation.request import Answer, Question

LIBRARIES = ("OMP", "OPENBLAS", "MKL", "NUMEXPR", "RAYON")  # that take a number of threads
LOOK_EVERY_S = 1.0


def main() -> None:
    """Answers one question. Priority and threads are set before the libraries are loaded."""
    os.nice(19)
    os.environ.update({f"{library}_NUM_THREADS": "1" for library in LIBRARIES})
    threading.Thread(target=_end_with, args=[os.getppid()], daemon=True).start()
    answers = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints is no answer
    with os.fdopen(answers, "wb") as stream:
        stream.write(TypeAdapter(Answer).dump_json(_answer(sys.stdin.buffer.read())))


def _answer(text: bytes) -> Answer:
    try:
        question = TypeAdapter(Question).validate_json(text)
        answering = import_module("services.portfolio.allocation.answering")
        answer: Answer = answering.answer(question)
    except Exception as error:  # noqa: BLE001 - the outermost: the caller hears of whatever happened
        sys.stderr.write("".join(traceback.format_tb(error.__traceback__)))
        return Answer(
            reason="ALLOCATION_FAILED",
            message=f"The optimiser failed ({type(error).__name__}). Nothing was moved; the "
            "router's log shows where.",
        )
    return answer


def _end_with(caller: int) -> None:
    """Ends this process when the caller's has ended: nobody waits for the answer any more."""
    while os.getppid() == caller:
        threading.Event().wait(LOOK_EVERY_S)
    os._exit(1)


if __name__ == "__main__":
    main()

"""The ledger writer: one worker in each router that turns waiting commands into one transaction.

It takes all that waits, reads and locks the books they touch, lets the pure domain decide each
command in order, writes everything, commits once, and answers everyone. A command that fails, fails
alone. Replicas stay correct through the row locks and the unique constraints: a batch that meets a
conflict is rolled back and run again one command at a time.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import structlog
from prometheus_client import Counter, Gauge, Histogram

from services.portfolio.allocation.commands import KeepPlan
from services.portfolio.batch import Batch, Desk
from services.portfolio.caller import CALLER, METHOD, TRACE_ID, TRACES, Caller
from services.portfolio.coalescer import Coalescer
from services.portfolio.commands import (
    Command,
    DeletePosition,
    PortfolioOf,
    PositionOf,
    Result,
    fingerprint,
)
from services.portfolio.domain.capital import Plan
from services.portfolio.domain.errors import LedgerError, RequestIdReusedError
from services.portfolio.domain.mutation import Mutation
from services.portfolio.domain.order import Mode, Order
from services.portfolio.ports import (
    Answer,
    Broker,
    Changes,
    Clock,
    Ledger,
    LockedError,
    Needs,
    NewId,
    Snapshot,
    StorageConflictError,
    StoredRequest,
    Transaction,
    UnavailableError,
)
from services.portfolio.telemetry import committed, tracing

MAX_BATCH = 256
MAX_WAITING = 4096
TRIES_ALONE = 5

BATCH_SIZE = Histogram(
    "portfolio_writer_batch_commands",
    "Commands in one transaction.",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
)
BATCH_SECONDS = Histogram(
    "portfolio_writer_batch_seconds",
    "From the first read of a batch to its commit.",
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 5),
)
WAIT_SECONDS = Histogram(
    "portfolio_writer_wait_seconds",
    "How long the command of each batch that waited longest had waited for its begin.",
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 5),
)
WAITING = Gauge("portfolio_writer_waiting_commands", "Commands that wait for the next batch.")
CONFLICTS = Counter("portfolio_writer_conflicts", "Batches that met another and were rolled back.")

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Rules:
    """What the writer is composed of besides the ledger."""

    brokers: Mapping[Mode, Broker]  # PAPER at least; LIVE too when TRADING_MODE is LIVE
    clock: Clock
    new_id: NewId
    trading_mode: Mode = Mode.PAPER
    check_invariants: bool = False
    promote_at_once: bool = False  # PROMOTION=at_once


class Asked(NamedTuple):
    """A command, and who asks for it."""

    command: Command
    caller: Caller
    method: str  # that was called; empty for what the router does by itself
    trace_id: str
    traced: tracing.Traced | None
    since_s: float  # when it began to wait, on time.perf_counter's clock


class Writer:
    """Runs commands on the ledger."""

    def __init__(self, ledger: Ledger, rules: Rules) -> None:
        self._ledger = ledger
        self._rules = rules
        self._queue: Coalescer[Asked, Answer] = Coalescer(
            "ledger-writer", self._run, max_batch=MAX_BATCH, max_waiting=MAX_WAITING
        )
        WAITING.set_function(lambda: self.waiting)

    @property
    def waiting(self) -> int:
        """How many commands wait."""
        return self._queue.waiting

    async def submit(self, command: Command, *, by: Caller | None = None) -> Answer:
        """Runs a command and returns its answer once it is durable.

        It is the caller's within whose call this is, unless it is said to be another's.

        Raises:
            LedgerError: The ledger forbids it; nothing was written.
            UnavailableError: The database or the broker is away, or the router is full or
                stopping.
        """
        method = METHOD.get() if by is None else ""
        return await self._queue.submit(
            Asked(
                command,
                by or CALLER.get(),
                method,
                TRACE_ID.get(),
                tracing.traced(),
                time.perf_counter(),
            )
        )

    async def stop(self) -> None:
        """Finishes what waits and takes no more."""
        await self._queue.stop()

    async def _run(self, commands: Sequence[Asked]) -> Sequence[Answer | Exception]:
        BATCH_SIZE.observe(len(commands))
        WAIT_SECONDS.observe(time.perf_counter() - commands[0].since_s)
        with BATCH_SECONDS.time():
            try:
                return await self._transact(commands)
            except UnavailableError:
                raise
            except StorageConflictError as error:
                CONFLICTS.inc()
                if isinstance(error, LockedError) and len(commands) == 1:
                    return [_locked()]
            except Exception:
                # A fault of ours in one command must not take the others down with it.
                if len(commands) == 1:
                    raise
                log.exception("batch_failed", size=len(commands), next="running them one by one")
            return await self._run_one_by_one(commands)

    async def _run_one_by_one(self, commands: Sequence[Asked]) -> Sequence[Answer | Exception]:
        """Each command in a transaction of its own, until one finds its strategies locked.

        They were all the while that the batch waited, so the rest would wait as long, each by
        itself, with everybody who comes behind them.
        """
        answers: list[Answer | Exception] = []
        for asked in commands:
            try:
                answers.append(await self._run_alone(asked))
            except LockedError:
                return [*answers, *([_locked()] * (len(commands) - len(answers)))]
        return answers

    async def _run_alone(self, asked: Asked) -> Answer | Exception:
        """One command in a transaction of its own, tried again while it meets others."""
        for _ in range(TRIES_ALONE):
            try:
                (answer,) = await self._transact([asked])
            except LockedError:
                raise
            except StorageConflictError:
                continue
            except UnavailableError as error:
                return error
            except Exception as error:
                log.exception("command_failed", command=type(asked.command).__name__)
                return error
            return answer
        return UnavailableError(
            "ROUTER_BUSY",
            f"Other changes came between {TRIES_ALONE} times in a row. Nothing was written; "
            "repeat the call.",
        )

    async def _transact(self, commands: Sequence[Asked]) -> list[Answer | Exception]:
        """All commands in one transaction; a command that the ledger forbids writes nothing."""
        TRACES.set([asked.trace_id for asked in commands if asked.trace_id])
        with tracing.batch([asked.traced for asked in commands]):
            return await self._decide_and_write(commands)

    async def _decide_and_write(self, commands: Sequence[Asked]) -> list[Answer | Exception]:
        rules = self._rules
        async with self._ledger.transaction() as transaction:
            snapshot = await transaction.load(_merged(commands))
            batch = Batch(
                snapshot,
                Desk(
                    rules.brokers,
                    rules.new_id,
                    rules.clock(),
                    rules.trading_mode,
                    promote_at_once=rules.promote_at_once,
                ),
                check_invariants=rules.check_invariants,
            )
            decided = _decide(commands, batch, snapshot)
            if batch.changes:
                with tracing.step("write"):
                    await transaction.save(batch.changes)
            answers = [await _answer(transaction, outcome) for outcome in decided.outcomes]
            if decided.fresh:
                await transaction.remember(
                    [
                        StoredRequest(
                            commands[i].command.request_id,
                            type(commands[i].command).__name__,
                            fingerprint(commands[i].command),
                            _stored(answers[i]),
                        )
                        for i in decided.fresh
                    ]
                )
            for i, first in decided.repeats.items():
                answers[i] = answers[first]
        _count(batch.changes, snapshot)
        return answers


def _count(changes: Changes, before: Snapshot) -> None:
    """Counts what was committed; a fault in that must not have the batch run a second time."""
    try:
        committed.count(changes, before)
    except Exception:
        log.exception("counting_failed")


def _locked() -> UnavailableError:
    return UnavailableError(
        "DATABASE_UNAVAILABLE",
        "The database lets this change wait behind another router's, which does not end (its "
        "synchronous standby may be away). Nothing was written; repeat the call with the same "
        "request_id.",
    )


@dataclass(slots=True)
class _Decided:
    """The outcome of each command of a batch, by its place."""

    outcomes: list[Result | Answer | Exception]
    fresh: list[int]  # succeeded under a new request_id
    repeats: dict[int, int]  # repeats an earlier command of the same batch


def _decide(commands: Sequence[Asked], batch: Batch, snapshot: Snapshot) -> _Decided:
    """Runs each command in order; one that is refused has its error as outcome, and no trace."""
    decided = _Decided([], [], {})
    first_use: dict[str, int] = {}
    for place, asked in enumerate(commands):
        outcome: Result | Answer | Exception
        rid = asked.command.request_id
        if asked.caller is not batch.desk.caller:
            batch.desk = replace(batch.desk, caller=asked.caller)
        try:
            if rid and rid in snapshot.requests:
                outcome = _first_answer(asked.command, snapshot.requests[rid])
                _require_own(batch.desk, outcome)
            elif rid and rid in first_use:
                first = first_use[rid]
                _require_same(asked.command, commands[first].command)
                _require_own(batch.desk, decided.outcomes[first])
                outcome = None
                decided.repeats[place] = first
            else:
                outcome = _run(asked, batch)
                if rid:
                    first_use[rid] = place
                    decided.fresh.append(place)
        except (LedgerError, UnavailableError) as error:
            outcome = error
        decided.outcomes.append(outcome)
    return decided


def _run(asked: Asked, batch: Batch) -> Result:
    """Runs a command; what changes anything is kept as a mutation beside it."""
    before = len(batch.touched)
    outcome = asked.command.run(batch)
    if len(batch.touched) > before:
        batch.changes.mutations.append(_mutation(asked, outcome, batch, before))
    return outcome


def _mutation(asked: Asked, outcome: Result, batch: Batch, before: int) -> Mutation:
    """Who changed what; `before`: how much of the batch others had touched."""
    touched = set(batch.touched[before:])
    return Mutation(
        batch.desk.new_id(),
        batch.desk.now,
        asked.caller.actor,
        asked.method or type(asked.command).__name__,
        touched.pop() if len(touched) == 1 else "",
        _subject(asked.command, outcome),
        asked.command.request_id,
        asked.trace_id,
    )


def _subject(command: Command, outcome: Result) -> str:
    """The id of what a command was about, if it has one."""
    if isinstance(outcome, Order):
        return str(outcome.order_id)
    if isinstance(outcome, PositionOf):
        return str(outcome.position_id)
    if isinstance(outcome, Plan):
        return str(outcome.plan_id)
    if isinstance(command, DeletePosition):
        return str(command.position_id)
    return str(command.plan.plan_id) if isinstance(command, KeepPlan) else ""


def _first_answer(command: Command, stored: StoredRequest) -> Answer:
    if stored.fingerprint != fingerprint(command):
        raise RequestIdReusedError(command.request_id, stored.method)
    return stored.answer


def _require_own(desk: Desk, answer: object) -> None:
    """Checks that who repeats a request, by an order's id say, might have made it."""
    if isinstance(answer, Order):
        desk.require_trader(answer.strategy_name)


def _require_same(command: Command, first: Command) -> None:
    if fingerprint(command) != fingerprint(first):
        raise RequestIdReusedError(command.request_id, type(first).__name__)


async def _answer(
    transaction: Transaction, outcome: Result | Answer | Exception
) -> Answer | Exception:
    """What the caller gets: views are read inside the transaction, after everything is written."""
    if isinstance(outcome, PortfolioOf):
        return await transaction.portfolio(outcome.strategy_name)
    if isinstance(outcome, PositionOf):
        return await transaction.position(outcome.position_id)
    return outcome


def _stored(answer: Answer | Exception) -> Answer:
    assert not isinstance(answer, Exception)  # noqa: S101 - only commands that succeeded are kept
    return answer


def _merged(commands: Sequence[Asked]) -> Needs:
    """The needs of all commands together."""
    needs = [asked.command.needs() for asked in commands]
    return Needs(
        strategies={name for need in needs for name in need.strategies},
        orders={order_id for need in needs for order_id in need.orders},
        positions={position_id for need in needs for position_id in need.positions},
        requests={asked.command.request_id for asked in commands if asked.command.request_id},
        fills={order_id for need in needs for order_id in need.fills},
        accounts={symbol for need in needs for symbol in need.accounts},
        valued=any(need.valued for need in needs),
        everyone=any(need.everyone for need in needs),
        plans={plan_id for need in needs for plan_id in need.plans},
        decided=any(need.decided for need in needs),
        open_orders=any(need.open_orders for need in needs),
    )

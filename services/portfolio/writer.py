"""The ledger writer: one worker in each router that turns waiting commands into one transaction.

It takes all that waits, reads and locks the books they touch, lets the pure domain decide each
command in order, writes everything, commits once, and answers everyone. A command that fails, fails
alone. Replicas stay correct through the row locks and the unique constraints: a batch that meets a
conflict is rolled back and run again one command at a time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import structlog
from prometheus_client import Counter, Histogram

from services.portfolio.batch import Batch, Desk
from services.portfolio.coalescer import Coalescer
from services.portfolio.commands import (
    Command,
    PortfolioOf,
    PositionOf,
    Result,
    fingerprint,
)
from services.portfolio.domain.errors import LedgerError, RequestIdReusedError
from services.portfolio.domain.order import Mode
from services.portfolio.ports import (
    Answer,
    Broker,
    Clock,
    Ledger,
    Needs,
    NewId,
    Snapshot,
    StorageConflictError,
    StoredRequest,
    Transaction,
    UnavailableError,
)

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
CONFLICTS = Counter("portfolio_writer_conflicts", "Batches that were run again one by one.")

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


class Writer:
    """Runs commands on the ledger."""

    def __init__(self, ledger: Ledger, rules: Rules) -> None:
        self._ledger = ledger
        self._rules = rules
        self._queue: Coalescer[Command, Answer] = Coalescer(
            "ledger-writer", self._run, max_batch=MAX_BATCH, max_waiting=MAX_WAITING
        )

    @property
    def waiting(self) -> int:
        """How many commands wait."""
        return self._queue.waiting

    async def submit(self, command: Command) -> Answer:
        """Runs a command and returns its answer once it is durable.

        Raises:
            LedgerError: The ledger forbids it; nothing was written.
            UnavailableError: The database or the broker is away, or the router is full or
                stopping.
        """
        return await self._queue.submit(command)

    async def stop(self) -> None:
        """Finishes what waits and takes no more."""
        await self._queue.stop()

    async def _run(self, commands: Sequence[Command]) -> Sequence[Answer | Exception]:
        BATCH_SIZE.observe(len(commands))
        with BATCH_SECONDS.time():
            try:
                return await self._transact(commands)
            except UnavailableError:
                raise
            except StorageConflictError:
                CONFLICTS.inc()
            except Exception:
                # A fault of ours in one command must not take the others down with it.
                if len(commands) == 1:
                    raise
                log.exception("batch_failed", size=len(commands), next="running them one by one")
            return [await self._run_alone(command) for command in commands]

    async def _run_alone(self, command: Command) -> Answer | Exception:
        """One command in a transaction of its own, tried again while it meets others."""
        for _ in range(TRIES_ALONE):
            try:
                (answer,) = await self._transact([command])
            except StorageConflictError:
                continue
            except UnavailableError as error:
                return error
            except Exception as error:
                log.exception("command_failed", command=type(command).__name__)
                return error
            return answer
        return UnavailableError(
            "ROUTER_BUSY",
            f"Other changes came between {TRIES_ALONE} times in a row. Nothing was written; "
            "repeat the call.",
        )

    async def _transact(self, commands: Sequence[Command]) -> list[Answer | Exception]:
        """All commands in one transaction; a command that the ledger forbids writes nothing."""
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
                await transaction.save(batch.changes)
            answers = [await _answer(transaction, outcome) for outcome in decided.outcomes]
            if decided.fresh:
                await transaction.remember(
                    [
                        StoredRequest(
                            commands[i].request_id,
                            type(commands[i]).__name__,
                            fingerprint(commands[i]),
                            _stored(answers[i]),
                        )
                        for i in decided.fresh
                    ]
                )
            for i, first in decided.repeats.items():
                answers[i] = answers[first]
        return answers


@dataclass(slots=True)
class _Decided:
    """The outcome of each command of a batch, by its place."""

    outcomes: list[Result | Answer | Exception]
    fresh: list[int]  # succeeded under a new request_id
    repeats: dict[int, int]  # repeats an earlier command of the same batch


def _decide(commands: Sequence[Command], batch: Batch, snapshot: Snapshot) -> _Decided:
    """Runs each command in order; one that is refused has its error as outcome, and no trace."""
    decided = _Decided([], [], {})
    first_use: dict[str, int] = {}
    for place, command in enumerate(commands):
        outcome: Result | Answer | Exception
        rid = command.request_id
        try:
            if rid and rid in snapshot.requests:
                outcome = _first_answer(command, snapshot.requests[rid])
            elif rid and rid in first_use:
                _require_same(command, commands[first_use[rid]])
                outcome = None
                decided.repeats[place] = first_use[rid]
            else:
                outcome = command.run(batch)
                if rid:
                    first_use[rid] = place
                    decided.fresh.append(place)
        except (LedgerError, UnavailableError) as error:
            outcome = error
        decided.outcomes.append(outcome)
    return decided


def _first_answer(command: Command, stored: StoredRequest) -> Answer:
    if stored.fingerprint != fingerprint(command):
        raise RequestIdReusedError(command.request_id, stored.method)
    return stored.answer


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


def _merged(commands: Sequence[Command]) -> Needs:
    """The needs of all commands together."""
    needs = [command.needs() for command in commands]
    return Needs(
        strategies={name for need in needs for name in need.strategies},
        orders={order_id for need in needs for order_id in need.orders},
        positions={position_id for need in needs for position_id in need.positions},
        requests={command.request_id for command in commands if command.request_id},
        fills={order_id for need in needs for order_id in need.fills},
        accounts={symbol for need in needs for symbol in need.accounts},
        valued=any(need.valued for need in needs),
        everyone=any(need.everyone for need in needs),
        plans={plan_id for need in needs for plan_id in need.plans},
        decided=any(need.decided for need in needs),
        open_orders=any(need.open_orders for need in needs),
    )

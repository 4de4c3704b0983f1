"""The plan of a run: which part is killed when, and what the broker plays meanwhile. Pure.

A seed gives the same plan each time. What the plan meets, the timing of real processes decides.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

T = TypeVar("T")


class Kill(StrEnum):
    """What is broken, and how."""

    SENDER = "kill -9 the router that sends"
    OTHER = "kill -9 the other router"
    BOTH = "kill -9 both routers"
    GATEWAY = "kill -9 the gateway"
    DATABASE = "kill -9 PostgreSQL"
    LINE = "break the line to the gateway"
    SESSION = "end the sender's database session"
    FREEZE = "SIGSTOP, later SIGCONT, the router that sends"


# Twelve, so that a run of twelve meets every kind.
KILLS = [
    *[Kill.SENDER] * 3,
    Kill.OTHER,
    Kill.BOTH,
    *[Kill.GATEWAY] * 2,
    *[Kill.DATABASE] * 2,
    Kill.LINE,
    Kill.SESSION,
    Kill.FREEZE,
]
SCENARIOS = [
    *["IMMEDIATE_FILL"] * 4,
    "PARTIAL_FILLS",
    "HELD",
    "REJECT_201",
    "REJECT_201_THEN_INACTIVE",
    "REJECT_200",
    "SILENT",
    *["ORDER_LOST"] * 2,
    *["ANSWER_LOST"] * 2,
    "DROP_AFTER_PLACE",
    "DROP_AFTER_OPEN_ORDER",
    "DROP_AFTER_SUBMITTED",
    "DROP_IN_PARTIAL",
    "DROP_AFTER_EXECUTION",
    "DROP_AFTER_COMMISSION",
    "FILL_BEFORE_STATUS",
    "NO_STATUS",
    "STATUS_TWICE",
    "STATUS_FILLED_BEFORE_FILL",
    "DUPLICATE_EXECUTION",
    "CORRECTED_EXECUTION",
    *["LATE_COMMISSION"] * 2,
    *["FALSE_CANCEL_10349"] * 2,
    "FALSE_END_105",
    "WARNING_399",
    "CANCEL_RACE",
    "CANCELLED_WITH_FILLS",
    "CANCEL_REFUSED",
    "CONNECTIVITY_LOST_IN_FILL",
    "DATA_LOST",
]
OF_CONNECTIONS = ["ID_ROLLBACK", "CLIENT_ID_TAKEN"]


@dataclass(frozen=True, slots=True)
class Scene:
    """What the broker plays for a symbol (empty: a connection), `times` orders long (0: for ever).

    Where its script waits, it goes on after `delay_s`; with 0 it waits to be released.
    """

    scenario: str
    symbol: str
    times: int
    delay_s: float


@dataclass(frozen=True, slots=True)
class Step:
    """One kill. Times in seconds."""

    number: int
    scenes: tuple[Scene, ...]  # set first
    release: bool  # then orders that wait at the broker go on
    waits_for_order: bool  # then an order must be accepted
    pause_s: float  # then time passes
    kill: Kill
    down_s: float  # so long the part stays away, or frozen
    router: int  # which of the two, where the sender cannot be told


def steps(seed: int, kills: int, symbols: Sequence[str]) -> list[Step]:
    """The steps of a run."""
    chance = random.Random(seed)
    kinds, scenarios = _drawn(chance, KILLS), _drawn(chance, SCENARIOS)
    plan: list[Step] = []
    for number in range(1, kills + 1):
        # No order is accepted while the sender is frozen, so what hits it then must not wait.
        is_frozen = bool(plan) and plan[-1].kill is Kill.FREEZE
        waits = chance.random() < (0.3 if is_frozen else 0.8)
        plan.append(_step(chance, number, next(kinds), waits, scenarios, symbols))
    return plan


def _step(
    chance: random.Random,
    number: int,
    kill: Kill,
    waits: bool,
    scenarios: Iterator[str],
    symbols: Sequence[str],
) -> Step:
    scenes = [
        Scene(next(scenarios), symbol, 0, chance.choice([0.0, 0.02, 0.2, 1.0]))
        for symbol in symbols
    ]
    if chance.random() < 0.2:
        scenes.append(Scene(chance.choice(OF_CONNECTIONS), "", 1, 0.0))
    return Step(
        number,
        tuple(scenes),
        release=chance.random() < 0.7,
        waits_for_order=waits,
        pause_s=chance.choice([0.0, 0.02, 0.1, 0.4, 1.2, 3.0]) * chance.random(),
        kill=kill,
        down_s=chance.uniform(1, 8) if kill is Kill.FREEZE else chance.choice([0, 0, 0.5, 2]),
        router=chance.randrange(2),
    )


def _drawn(chance: random.Random, bag: Sequence[T]) -> Iterator[T]:
    """Draws from a bag that is filled again once it is empty."""
    while True:
        yield from chance.sample(bag, len(bag))

"""A mutation: who changed what, kept beside each change."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Mutation:
    """A change of the ledger, and who asked for it. A fact: never changed or deleted."""

    mutation_id: UUID
    create_time: datetime
    actor: str
    method: str  # what was called; of what the router does by itself, the command
    strategy_name: str  # empty when it is about several, or the whole
    subject: str  # the order, position or plan, if any
    request_id: str
    trace_id: str

"""What the allocation needs of the world: reads, and somebody who finds weights."""

from collections.abc import Sequence
from datetime import date
from typing import Protocol
from uuid import UUID

from services.portfolio.allocation.request import Request, Solution
from services.portfolio.domain.capital import AllocationPolicy, Plan
from services.portfolio.domain.order import Mode
from services.portfolio.domain.transfers import Purse


class AllocationReads(Protocol):
    """Reads what is committed. Raises UnavailableError when the database is away."""

    async def policy(self) -> AllocationPolicy:
        """The policy that is set; the default one before that."""

    async def purses(self, mode: Mode) -> Sequence[Purse]:
        """Books in a mode from which or to which anything is due, and the reserve's, by name.

        Their equity is not read: it is 0.
        """

    async def plans(self, before: UUID | None, limit: int) -> Sequence[Plan]:
        """The newest plans that were made before one, newest first."""

    async def last_plan(self, mode: Mode) -> Plan | None:
        """The plan that was carried out last."""

    async def newest_session(self) -> date | None:
        """The newest session that a strategy's prices are of; one fast read."""

    async def closed_sessions(self, mode: Mode) -> tuple[date, date] | None:
        """The oldest and the newest closed session of any strategy in this mode."""


class Solver(Protocol):
    """Finds weights."""

    async def solve(self, request: Request) -> Solution:
        """Finds the weights by the strategies' own curves.

        Raises:
            UnavailableError: ALLOCATION_BUSY, ALLOCATION_FAILED or DATABASE_UNAVAILABLE.
        """

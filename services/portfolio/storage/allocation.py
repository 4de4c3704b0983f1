"""Reads of the allocation: the policy, dues, plans, and which sessions are closed."""

from collections.abc import Sequence
from datetime import date
from uuid import UUID

from services.portfolio.domain.capital import AllocationPolicy, Plan
from services.portfolio.domain.money import ZERO
from services.portfolio.domain.order import Mode
from services.portfolio.domain.transfers import Purse
from services.portfolio.storage import statements as sql
from services.portfolio.storage.database import Database
from services.portfolio.storage.rows import PLAN, POLICY

PURSES = """
SELECT strategy_name, cash - reserved_cash AS spare, due,
       reserved_cash = 0 AND NOT EXISTS (
           SELECT FROM positions p
           WHERE p.strategy_name = b.strategy_name AND p.mode = b.mode
             AND (p.quantity <> 0 OR p.reserved_quantity <> 0)
       ) AS is_flat
FROM books b
WHERE mode = $1 AND (due <> 0 OR strategy_name = 'RESERVE')
"""

NEWEST_PLANS = "SELECT plan FROM plans ORDER BY plan_id DESC LIMIT $1"

PLANS_BEFORE = "SELECT plan FROM plans WHERE plan_id < $2 ORDER BY plan_id DESC LIMIT $1"

LAST_PLAN = """
SELECT plan FROM plans WHERE mode = $1 AND carry_out_time IS NOT NULL
ORDER BY carry_out_time DESC LIMIT 1
"""

NEWEST_SESSION = "SELECT max(session) FROM strategies"

# Two looks into the index for each strategy; a scan of all closes would take seconds.
CLOSED_SESSIONS = """
SELECT min(closed.oldest), max(closed.newest)
FROM strategies s CROSS JOIN LATERAL (
    SELECT min(session) AS oldest, max(session) AS newest FROM valuations v
    WHERE v.strategy_name = s.strategy_name AND v.mode = $1 AND v.kind = 'CLOSE'
) closed
WHERE s.mode = $1
"""


class PostgresAllocationReads:
    """Reads from PostgreSQL. Raises UnavailableError when it is away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def policy(self) -> AllocationPolicy:
        """The policy that is set; the default one before that."""
        async with self._database.hot() as connection:
            found = await connection.fetchval(sql.POLICY)
        return AllocationPolicy() if found is None else POLICY.validate_json(found)

    async def purses(self, mode: Mode) -> Sequence[Purse]:
        """Books from which or to which anything is due, and the reserve's, by name."""
        async with self._database.hot() as connection:
            rows = await connection.fetch(PURSES, mode.value)
        purses = (Purse(name, ZERO, spare, due, flat) for name, spare, due, flat in rows)
        return sorted(purses, key=lambda purse: purse.strategy_name)

    async def plans(self, before: UUID | None, limit: int) -> Sequence[Plan]:
        """The newest plans that were made before one, newest first."""
        async with self._database.hot() as connection:
            if before is None:
                rows = await connection.fetch(NEWEST_PLANS, limit)
            else:
                rows = await connection.fetch(PLANS_BEFORE, limit, before)
        return [PLAN.validate_json(row[0]) for row in rows]

    async def last_plan(self, mode: Mode) -> Plan | None:
        """The plan that was carried out last."""
        async with self._database.hot() as connection:
            found = await connection.fetchval(LAST_PLAN, mode.value)
        return None if found is None else PLAN.validate_json(found)

    async def newest_session(self) -> date | None:
        """The newest session that a strategy's prices are of."""
        async with self._database.hot() as connection:
            found: date | None = await connection.fetchval(NEWEST_SESSION)
        return found

    async def closed_sessions(self, mode: Mode) -> tuple[date, date] | None:
        """The oldest and the newest closed session of any strategy in this mode."""
        async with self._database.hot() as connection:
            row = await connection.fetchrow(CLOSED_SESSIONS, mode.value)
        assert row is not None  # noqa: S101 - an aggregate has a row
        return None if row[0] is None else (row[0], row[1])

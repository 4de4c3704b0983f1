"""Reads of what is committed: hot ones as prepared SQL, all others in SQLAlchemy Core."""

from collections.abc import Collection, Sequence
from datetime import date
from decimal import Decimal
from typing import Any
from uuid import UUID

from prometheus_client import Gauge
from sqlalchemy import Select, case, func, select, tuple_
from sqlalchemy.sql.elements import ColumnElement

from services.portfolio.domain.audit import Difference
from services.portfolio.domain.mutation import Mutation
from services.portfolio.domain.order import Mode, Order
from services.portfolio.ports import (
    MarkKey,
    MutationFilter,
    OrderFilter,
    PositionFilter,
    PositionKey,
    PriceMark,
)
from services.portfolio.storage import statements as sql
from services.portfolio.storage.database import COMMIT_WITHIN_S, Database, translated
from services.portfolio.storage.facts import audit_books
from services.portfolio.storage.notices import notices
from services.portfolio.storage.rows import (
    Row,
    json_rows,
    mutation_of,
    order_of,
    portfolio_view_of,
    position_view_of,
)
from services.portfolio.storage.tables import marks, mutations, orders, positions, strategies
from services.portfolio.views import InvestedView, PortfolioView, PositionView

# Of this replica alone: Envoy picks the one that answers.
AUDITED = Gauge("portfolio_audit_timestamp_seconds", "When the last audit was answered; 0: never.")
DIFFERENCES = Gauge("portfolio_audit_differences", "Figures that the last audit did not confirm.")


class PostgresReads:
    """Reads from PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def order(self, order_id: UUID) -> Order | None:
        """One order."""
        found = await self.orders_by_id([order_id])
        return found[0] if found else None

    async def orders(self, which: OrderFilter, before: UUID | None, limit: int) -> list[Order]:
        """The newest orders older than `before`, newest first."""
        return [order_of(row) for row in await self._fetch(newest_orders(which, before, limit))]

    async def orders_by_id(self, order_ids: Collection[UUID]) -> list[Order]:
        """The named orders, oldest first."""
        async with self._database.hot() as connection:
            rows = await connection.fetch(sql.ORDERS_BY_ID, list(order_ids))
        return [order_of(row) for row in rows]

    async def positions(
        self, which: PositionFilter, after: PositionKey | None, limit: int
    ) -> list[PositionView]:
        """Open positions after a key, by strategy, symbol and mode; without those of twins."""
        key = (positions.c.strategy_name, positions.c.symbol, positions.c.mode)
        query = (
            select(
                *(column for column in positions.c if column.name != "update_time"),
                _market_price().label("market_price"),
                func.greatest(positions.c.update_time, marks.c.time).label("update_time"),
            )
            .outerjoin(
                marks,
                (marks.c.strategy_name == positions.c.strategy_name)
                & (marks.c.symbol == positions.c.symbol),
            )
            .join(strategies, strategies.c.strategy_name == positions.c.strategy_name)
            .where(positions.c.quantity > 0)
            .where((positions.c.mode == "LIVE") | (strategies.c.mode == "PAPER"))
            .order_by(*key)
            .limit(limit)
        )
        if which.strategy_name is not None:
            query = query.where(positions.c.strategy_name == which.strategy_name)
        if which.symbol is not None:
            query = query.where(positions.c.symbol == which.symbol)
        if after is not None:
            query = query.where(tuple_(*key) > tuple_(*after))
        rows = await self._fetch(query)
        return [position_view_of(row) for row in rows]

    async def mutations(
        self, which: MutationFilter, before: UUID | None, limit: int
    ) -> list[Mutation]:
        """The newest mutations older than `before`, newest first."""
        query = select(mutations).order_by(mutations.c.mutation_id.desc()).limit(limit)
        if which.strategy_name is not None:
            query = query.where(mutations.c.strategy_name == which.strategy_name)
        if which.actor is not None:
            query = query.where(mutations.c.actor == which.actor)
        if before is not None:
            query = query.where(mutations.c.mutation_id < before)
        return [mutation_of(row) for row in await self._fetch(query)]

    async def portfolios(self, names: Collection[str] | None = None) -> list[PortfolioView]:
        """Strategies by name; all of them unless named."""
        async with self._database.hot() as connection:
            rows = await connection.fetch(
                sql.PORTFOLIO_VIEWS, None if names is None else list(names)
            )
        return [portfolio_view_of(row) for row in rows]

    async def invested(self, names: Collection[str]) -> dict[str, InvestedView]:
        """What each named strategy holds; unknown names are left out."""
        async with self._database.hot() as connection:
            rows = await connection.fetch(sql.INVESTED, list(names))
        return {
            name: InvestedView(name, Mode(mode), tuple(symbols)) for name, mode, symbols in rows
        }

    async def mark(
        self, seen: Sequence[PriceMark], today: date | None = None
    ) -> dict[MarkKey, bool]:
        """Keeps prices that strategies saw, unless they begin a session; says which were kept."""
        latest = {(mark.strategy_name, mark.symbol, mark.session): mark for mark in seen}
        kept = list(latest.values())
        async with self._database.hot() as connection:
            rows = await connection.fetch(
                sql.MARK,
                json_rows(kept),
                notices({mark.strategy_name for mark in kept}, ()),
                today,
                # Cancelled then, it is seen before a standby has it: a price may be lost.
                timeout=COMMIT_WITHIN_S,
            )
        return {(name, session): kept for name, session, kept, _ in rows}

    async def audit(self) -> tuple[int, list[Difference]]:
        """How many books there are, and every figure that the facts do not support."""
        async with (
            self._database.hot() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            await connection.execute("SET LOCAL statement_timeout = 0")
            books, differences = await audit_books(connection)
        AUDITED.set_to_current_time()
        DIFFERENCES.set(len(differences))
        return books, differences

    async def ping(self) -> None:
        """Returns when the database answers."""
        async with self._database.hot() as connection:
            await connection.fetchval("SELECT 1", timeout=2)

    async def _fetch(self, query: Select[Any]) -> Sequence[Row]:
        with translated():
            async with self._database.engine.connect() as connection:
                rows: Sequence[Row] = (await connection.execute(query)).mappings().all()
                return rows


def newest_orders(which: OrderFilter, before: UUID | None, limit: int) -> Select[Any]:
    """The newest orders older than `before`, newest first: by keyset, never by offset.

    Twins are skipped as they come by: there is one at most for each LIVE order, so that an index of
    their own would save little, and cost each order some.
    """
    query = select(orders).order_by(orders.c.order_id.desc()).limit(limit)
    if which.strategy_name is not None:
        query = query.where(orders.c.strategy_name == which.strategy_name)
    if which.symbol is not None:
        query = query.where(orders.c.symbol == which.symbol)
    if which.status is not None:
        query = query.where(orders.c.status == which.status.value)
    if before is not None:
        query = query.where(orders.c.order_id < before)
    if not which.twins:
        query = query.where(orders.c.twin_of.is_(None))
    return query


def _market_price() -> ColumnElement[Decimal]:
    """What the strategy saw last, or traded at since; as in the hot statements."""
    return case(
        (marks.c.time > positions.c.update_time, marks.c.price),
        (positions.c.last_price > 0, positions.c.last_price),
        else_=func.round(positions.c.cost / positions.c.quantity, 8),
    )

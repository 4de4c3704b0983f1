"""What PostgreSQL itself enforces, and how its tables come to be."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import asyncpg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import CheckConstraint, Connection, UniqueConstraint

from services.portfolio.ports import (
    Needs,
    OrderFilter,
    PositionFilter,
    StorageConflictError,
    UnavailableError,
)
from services.portfolio.storage.address import Address, BadDatabaseUrlError
from services.portfolio.storage.database import Database, translated
from services.portfolio.storage.ledger import PostgresLedger
from services.portfolio.storage.reads import PostgresReads
from services.portfolio.storage.tables import metadata
from tests.ports.line import Line
from tests.ports.makers import filled_day, save, with_orders
from tests.ports.stores import run_sql
from tests.support.waiting import wait_until_async

DECIDE = (
    "INSERT INTO decisions SELECT '00000000-0000-7000-8000-000000000000'::uuid, {name}, now(),"
    " 'promotion', 'AUTO', 'PAPER', 'LIVE', {outcome}, '', '[]'::jsonb"
)

PLAN = (
    "INSERT INTO plans"
    " SELECT '00000000-0000-7000-8000-000000000000'::uuid, '{state}', '{mode}', '[]', {time}"
)
VALUE = (
    "INSERT INTO valuations"
    " SELECT {name}, 'PAPER', 1, '2024-05-06'::date, {kind}, 1, 0, 0, {flow}, 1, now()"
)
# Each constraint, and a statement that breaks it and no other, on the day that `saved` saved.
BROKEN = {
    "strategies_pk": "INSERT INTO strategies SELECT * FROM strategies",
    "strategies_requested_mode_ck": "UPDATE strategies SET requested_mode = 'MAYBE'",
    "strategies_mode_ck": "UPDATE strategies SET mode = 'AUTO'",
    "strategies_state_ck": "UPDATE strategies SET state = 'IDLE'",
    "books_pk": "INSERT INTO books SELECT * FROM books",
    "books_mode_ck": (
        "INSERT INTO books (strategy_name, mode, version, cash, reserved_cash, update_time)"
        " VALUES ('A', 'DEMO', 1, 0, 0, now())"
    ),
    "books_strategy_name_fk": (
        "INSERT INTO books (strategy_name, mode, version, cash, reserved_cash, update_time)"
        " VALUES ('Nobody', 'PAPER', 1, 0, 0, now())"
    ),
    "books_reserved_cash_not_negative_ck": "UPDATE books SET reserved_cash = -0.00000001",
    "books_paper_cash_covers_reserved_ck": "UPDATE books SET cash = reserved_cash - 0.00000001",
    "positions_pk": (
        "INSERT INTO positions SELECT position_id, strategy_name, mode, 'GLD', quantity,"
        " reserved_quantity, cost, realized_pnl, last_price, update_time FROM positions"
    ),
    "positions_strategy_name_mode_symbol_uq": (
        "INSERT INTO positions SELECT gen_random_uuid(), strategy_name, mode, symbol, quantity,"
        " reserved_quantity, cost, realized_pnl, last_price, update_time FROM positions"
    ),
    "positions_strategy_name_mode_fk": "UPDATE positions SET strategy_name = 'Nobody'",
    "positions_quantity_covers_reserved_ck": "UPDATE positions SET reserved_quantity = 10.00000001",
    "positions_cost_not_negative_ck": "UPDATE positions SET cost = -0.00000001",
    "orders_pk": "INSERT INTO orders SELECT * FROM orders",
    "orders_strategy_name_mode_fk": "UPDATE orders SET strategy_name = 'Nobody'",
    "orders_side_ck": "UPDATE orders SET side = 'SHORT'",
    "orders_status_ck": "UPDATE orders SET status = 'DONE'",
    "orders_quantity_and_price_positive_ck": "UPDATE orders SET price = 0",
    "orders_filled_quantity_within_ck": "UPDATE orders SET filled_quantity = 10.00000001",
    "orders_reserved_cash_not_negative_ck": "UPDATE orders SET reserved_cash = -0.00000001",
    "fills_pk": "INSERT INTO fills SELECT * FROM fills",
    "fills_order_id_fk": "UPDATE fills SET order_id = gen_random_uuid()",
    "fills_quantity_and_value_positive_ck": "UPDATE fills SET value = 0",
    "fills_kind_ck": "UPDATE fills SET kind = 'GUESS'",
    "fills_commission_moves_no_shares_ck": "UPDATE fills SET kind = 'COMMISSION'",
    "cash_entries_pk": "INSERT INTO cash_entries SELECT * FROM cash_entries",
    "cash_entries_strategy_name_mode_fk": "UPDATE cash_entries SET mode = 'LIVE'",
    "cash_entries_kind_ck": "UPDATE cash_entries SET kind = 'GIFT' WHERE book_version = 1",
    "position_adjustments_pk": (
        "INSERT INTO position_adjustments SELECT 'A', 'PAPER', 7, 'AVL', 1, 1, 1, '', '', now()"
        " FROM generate_series(1, 2)"
    ),
    "position_adjustments_strategy_name_mode_fk": (
        "INSERT INTO position_adjustments"
        " SELECT 'Nobody', 'PAPER', 7, 'AVL', 1, 1, 1, '', '', now()"
    ),
    "order_events_pk": "INSERT INTO order_events SELECT * FROM order_events",
    "order_events_order_id_fk": "UPDATE order_events SET order_id = gen_random_uuid()",
    "requests_pk": (
        "INSERT INTO requests SELECT 'r', 'BuyAll', '', 'null', now() FROM generate_series(1, 2)"
    ),
    "marks_pk": "INSERT INTO marks SELECT 'A', 'SPXL', 1, now() FROM generate_series(1, 2)",
    "marks_strategy_name_fk": "INSERT INTO marks VALUES ('Nobody', 'SPXL', 1, now())",
    "marks_price_positive_ck": "INSERT INTO marks VALUES ('A', 'SPXL', 0, now())",
    "broker_orders_pk": (
        "INSERT INTO broker_orders (order_id)"
        " SELECT min(order_id::text)::uuid FROM orders, generate_series(1, 2) AS n GROUP BY n"
    ),
    "broker_orders_order_id_fk": "INSERT INTO broker_orders VALUES (gen_random_uuid())",
    "broker_orders_client_id_broker_order_id_uq": (
        "INSERT INTO broker_orders SELECT order_id, 1, 1, now() FROM orders"
    ),
    "broker_orders_sent_or_not_ck": (
        "INSERT INTO broker_orders SELECT order_id, 1, 1 FROM orders LIMIT 1"
    ),
    "broker_ids_pk": "INSERT INTO broker_ids SELECT 1, 1 FROM generate_series(1, 2)",
    "broker_ids_last_id_positive_ck": "INSERT INTO broker_ids VALUES (1, 0)",
    "broker_weather_pk": (
        "INSERT INTO broker_weather SELECT true, '', now(), '', '', '', '', now()"
        " FROM generate_series(1, 2)"
    ),
    "broker_weather_one_row_ck": (
        "INSERT INTO broker_weather VALUES (false, '', now(), '', '', '', '', now())"
    ),
    "broker_account_pk": (
        "INSERT INTO broker_account SELECT true, now(), 0, 0 FROM generate_series(1, 2)"
    ),
    "broker_account_one_row_ck": "INSERT INTO broker_account VALUES (false, now(), 0, 0)",
    "broker_positions_pk": (
        "INSERT INTO broker_positions SELECT 'SPXL', 1, 1 FROM generate_series(1, 2)"
    ),
    "acknowledgements_pk": (
        "INSERT INTO acknowledgements OVERRIDING SYSTEM VALUE"
        " SELECT 'SPXL', 1, 1, '', '', now() FROM generate_series(1, 2)"
    ),
    "valuations_pk": VALUE.format(name="'A'", kind="'CLOSE'", flow=0)
    + " FROM generate_series(1, 2)",
    "valuations_strategy_name_mode_fk": VALUE.format(name="'Nobody'", kind="'CLOSE'", flow=0),
    "valuations_kind_ck": VALUE.format(name="'A'", kind="'GUESS'", flow=0),
    "valuations_close_of_session_ck": VALUE.format(name="'A'", kind="'CLOSE'", flow=1),
    "mutations_pk": (
        "WITH one AS (SELECT gen_random_uuid() AS id) INSERT INTO mutations"
        " SELECT id, now(), '', '', '', '', '', '' FROM one, generate_series(1, 2)"
    ),
    "risk_events_pk": (
        "INSERT INTO risk_events"
        " SELECT '00000000-0000-0000-0000-000000000001'::uuid, '', 'HALT', '', '', now()"
        " FROM generate_series(1, 2)"
    ),
    "risk_events_kind_ck": (
        "INSERT INTO risk_events VALUES (gen_random_uuid(), '', 'PANIC', '', '', now())"
    ),
    "portfolio_state_pk": (
        "INSERT INTO portfolio_state SELECT true, false, '', NULL, now() FROM generate_series(1, 2)"
    ),
    "portfolio_state_one_row_ck": (
        "INSERT INTO portfolio_state VALUES (false, false, '', NULL, now())"
    ),
    "allocation_policy_pk": (
        "INSERT INTO allocation_policy SELECT true, '{}' FROM generate_series(1, 2)"
    ),
    "allocation_policy_one_row_ck": "INSERT INTO allocation_policy VALUES (false, '{}')",
    "plans_pk": PLAN.format(state="PLANNED", mode="PAPER", time="NULL")
    + " FROM generate_series(1, 2)",
    "plans_state_ck": PLAN.format(state="DROPPED", mode="PAPER", time="NULL"),
    "plans_mode_ck": PLAN.format(state="PLANNED", mode="DEMO", time="NULL"),
    "plans_carried_out_or_not_ck": PLAN.format(state="CARRIED_OUT", mode="PAPER", time="NULL"),
    "decisions_pk": DECIDE.format(name="'A'", outcome="'STAYS'") + " FROM generate_series(1, 2)",
    "decisions_strategy_name_fk": DECIDE.format(name="'Nobody'", outcome="'STAYS'"),
    "decisions_outcome_ck": DECIDE.format(name="'A'", outcome="'WENT'"),
}


@pytest.fixture
async def saved(migrated_url: str) -> AsyncIterator[str]:
    """A database on which strategy A has had a day."""
    database = await Database.connect(migrated_url)
    try:
        await save(PostgresLedger(database), filled_day("A"))
        yield migrated_url
    finally:
        await database.close()


def test_every_constraint_of_the_tables_is_tried() -> None:
    names = set()
    for table in metadata.sorted_tables:
        for constraint in table.constraints:
            convention = {CheckConstraint: "ck", UniqueConstraint: "uq"}
            kind = convention.get(type(constraint))
            assert constraint.name or kind is None, constraint
            names.add(str(constraint.name))
    assert names == set(BROKEN)


@pytest.mark.parametrize("constraint", BROKEN)
async def test_a_broken_constraint_is_refused(saved: str, constraint: str) -> None:
    with pytest.raises(asyncpg.IntegrityConstraintViolationError) as refused:
        await run_sql(saved, BROKEN[constraint])
    assert getattr(refused.value, "constraint_name", None) == constraint


async def test_a_live_book_may_owe_cash(saved: str) -> None:
    await run_sql(saved, "INSERT INTO books VALUES ('A', 'LIVE', 1, -5, 3, now())")


async def test_the_migrations_make_the_tables(migrated_url: str) -> None:
    engine = Database(Address(migrated_url)).engine

    def differences(connection: Connection) -> list[object]:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return list(compare_metadata(context, metadata))

    async with engine.connect() as connection:
        assert await connection.run_sync(differences) == []
    await engine.dispose()


async def test_the_migrations_make_the_checks_of_the_tables(migrated_url: str) -> None:
    # compare_metadata does not look at CHECK constraints.
    rows = await run_sql(migrated_url, "SELECT conname FROM pg_constraint WHERE contype = 'c'")
    checks = {name for name in BROKEN if name.endswith("_ck")}
    assert {row[0] for row in rows} >= checks


async def test_replicas_that_start_together_migrate_once(database_url: str) -> None:
    databases = await asyncio.gather(*(Database.connect(database_url) for _ in range(3)))
    await asyncio.gather(*(database.migrate() for database in databases))
    for database in databases:
        await database.close()
    assert [row[0] for row in await run_sql(database_url, "SELECT * FROM alembic_version")] == [
        "0006"
    ]


async def test_migrating_again_keeps_what_there_is(saved: str) -> None:
    before = await run_sql(saved, "SELECT * FROM orders ORDER BY order_id")
    database = await Database.connect(saved)
    await database.migrate()
    await database.close()
    assert await run_sql(saved, "SELECT * FROM orders ORDER BY order_id") == before
    assert before


async def test_migrating_leaves_no_lock_behind(migrated_url: str) -> None:
    database = await Database.connect(migrated_url)
    held = await run_sql(migrated_url, "SELECT * FROM pg_locks WHERE locktype = 'advisory'")
    await database.close()
    assert held == []


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nonsense", "is not a URL"),
        ("mysql://u:secret@127.0.0.1/x", "only postgresql"),
        ("postgresql://u:secret@127.0.0.1:1/x", "cannot be used"),
    ],
)
async def test_an_address_that_cannot_be_used_is_told_without_its_password(
    url: str, said: str
) -> None:
    with pytest.raises(BadDatabaseUrlError, match=said) as refused:
        await Database.connect(url)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("error", "meaning"),
    [
        (asyncpg.UniqueViolationError("x"), StorageConflictError),
        (asyncpg.SerializationError("x"), StorageConflictError),
        (asyncpg.DeadlockDetectedError("x"), StorageConflictError),
        (asyncpg.LockNotAvailableError("x"), StorageConflictError),
        (asyncpg.AdminShutdownError("x"), UnavailableError),
        (asyncpg.CannotConnectNowError("x"), UnavailableError),
        (asyncpg.TooManyConnectionsError("x"), UnavailableError),
        (asyncpg.QueryCanceledError("x"), UnavailableError),
        (asyncpg.ReadOnlySQLTransactionError("x"), UnavailableError),
        (ConnectionResetError("x"), UnavailableError),
        (TimeoutError("x"), UnavailableError),
        (ZeroDivisionError("x"), ZeroDivisionError),
    ],
)
def test_the_drivers_errors_become_the_ports_own(error: Exception, meaning: type) -> None:
    with pytest.raises(meaning), translated():
        raise error


async def test_reads_say_that_the_database_is_away_and_work_when_it_is_back(
    migrated_url: str,
) -> None:
    with Line(migrated_url) as line:
        database = await Database.connect(line.url)
        reads = PostgresReads(database)
        all_reads: list[Callable[[], Awaitable[object]]] = [
            reads.ping,
            reads.portfolios,
            reads.audit,
            lambda: reads.orders(OrderFilter(), None, 1),
            lambda: reads.positions(PositionFilter(), None, 1),
            lambda: reads.invested(["A"]),
            lambda: reads.mark([]),
        ]
        for read in all_reads:
            await read()
        line.cut()
        for read in all_reads:
            with pytest.raises(UnavailableError):
                await read()
        line.mend()
        for read in all_reads:
            await read()
        await database.close()


async def test_an_address_may_carry_the_settings_that_addresses_carry(migrated_url: str) -> None:
    joined = "&" if "?" in migrated_url else "?"
    database = await Database.connect(f"{migrated_url}{joined}sslmode=prefer")
    assert await PostgresReads(database).orders(OrderFilter(), None, 1) == []
    await database.close()


async def test_a_transaction_that_the_server_gave_up_is_unavailable(saved: str) -> None:
    # As when the router was stopped for longer than idle_in_transaction_session_timeout.
    database = await Database.connect(saved)
    ledger = PostgresLedger(database)

    async def idle() -> None:
        async with ledger.transaction() as transaction:
            await transaction.load(Needs({"A"}))
            connection = transaction._connection
            await connection.execute("SET LOCAL idle_in_transaction_session_timeout = 50")
            pid = connection.get_server_pid()
            gone = "SELECT 1 WHERE NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)"
            await wait_until_async(lambda: run_sql(saved, gone, pid))
            await transaction.load(Needs({"A"}))

    with pytest.raises(UnavailableError):
        await idle()
    await save(ledger, with_orders("A", []))
    await database.close()

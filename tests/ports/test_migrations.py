"""A database of the version before is brought up to date with all that is in it."""

import asyncio

import asyncpg
import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection

from services.portfolio.domain.order import Fill, FillKind
from services.portfolio.ports import Needs
from services.portfolio.storage.address import Address
from services.portfolio.storage.database import MIGRATIONS, Database
from services.portfolio.storage.ledger import PostgresLedger
from services.portfolio.storage.reads import PostgresReads
from tests.ledger.values import d, new_id
from tests.ports.makers import at
from tests.ports.stores import run_sql
from tests.support.database import psql

BOUGHT = new_id()

# As a router of version 0001 writes: it names its columns, and knows of no kind.
INSERT_FILL = """
INSERT INTO fills (order_id, execution_id, book_version, quantity, price, value, commission, time)
VALUES ($1, $2, $3, 10, 1.25, 12.5, 0.25, $4)
"""
A_DAY_OF_0001 = f"""
INSERT INTO strategies VALUES ('A', 'AUTO', 'PAPER', 'ACTIVE', '', now());
INSERT INTO books VALUES ('A', 'PAPER', 2, 987.25, 0, now());
INSERT INTO positions
    VALUES (gen_random_uuid(), 'A', 'PAPER', 'SPXL', 10, 0, 12.5, -0.25, 1.25, now());
INSERT INTO orders VALUES ('{BOUGHT}', 'A', 'PAPER', 'SPXL', 'BUY', 10, 1.25, 'EXECUTED', 10, 12.5,
                           0.25, 0, '', '', now(), now());
INSERT INTO cash_entries VALUES
    ('A', 'PAPER', 1, 'DEPOSIT', 1000, '', '', now()),
    ('A', 'PAPER', 2, 'TRADE', -12.5, '', '', now()),
    ('A', 'PAPER', 2, 'COMMISSION', -0.25, '', '', now());
"""
FILENODE = "SELECT pg_relation_filenode('fills')"


@pytest.fixture
async def old_url(database_url: str) -> str:
    """A database of version 0001 on which strategy A has had a day."""
    await migrate(database_url, "0001")
    psql(database_url, A_DAY_OF_0001)
    await run_sql(database_url, INSERT_FILL, BOUGHT, "x1", 2, at(2))
    return database_url


async def test_a_database_of_0001_keeps_all_and_is_not_rewritten(old_url: str) -> None:
    before = await run_sql(old_url, FILENODE)
    database = await Database.connect(old_url)
    try:
        assert await run_sql(old_url, FILENODE) == before
        assert await PostgresReads(database).audit() == (1, [])
        async with PostgresLedger(database).transaction() as transaction:
            found = await transaction.load(Needs(orders={BOUGHT}, fills={BOUGHT}))
        assert found.fills == {
            BOUGHT: [
                Fill(BOUGHT, "x1", 2, d(10), d("1.25"), d("12.5"), d("0.25"), at(2), FillKind.FILL)
            ]
        }
    finally:
        await database.close()


async def test_a_router_of_0001_goes_on_writing_while_others_are_newer(old_url: str) -> None:
    await migrate(old_url, "head")
    await run_sql(old_url, INSERT_FILL, BOUGHT, "x2", 3, at(3))
    kinds = await run_sql(old_url, "SELECT DISTINCT kind FROM fills")
    assert [row[0] for row in kinds] == ["FILL"]


async def test_the_new_checks_hold_for_old_rows_that_change(old_url: str) -> None:
    await migrate(old_url, "head")
    with pytest.raises(asyncpg.CheckViolationError):
        await run_sql(old_url, "UPDATE fills SET value = 0")
    assert await run_sql(old_url, "SELECT conname FROM pg_constraint WHERE NOT convalidated") == []


async def test_fills_are_locked_for_a_moment_only(old_url: str) -> None:
    # 0002 locks them and reads nothing, 0003 reads all of them beside whoever writes.
    await migrate(old_url, "0002")
    writer = await asyncpg.connect(old_url)
    try:
        async with writer.transaction():
            await writer.execute(INSERT_FILL, BOUGHT, "x2", 3, at(3))
            async with asyncio.timeout(10):
                await migrate(old_url, "0003")
    finally:
        await writer.close()


async def test_a_migration_can_be_taken_back_and_made_again(old_url: str) -> None:
    await migrate(old_url, "head")
    await migrate(old_url, "0001", back=True)
    with pytest.raises(asyncpg.CheckViolationError):
        await run_sql(old_url, "UPDATE fills SET value = 0")
    await migrate(old_url, "head")
    assert [row[0] for row in await run_sql(old_url, "SELECT execution_id FROM fills")] == ["x1"]


async def test_no_migration_is_taken_back_over_what_the_old_tables_cannot_say(old_url: str) -> None:
    await migrate(old_url, "head")
    await run_sql(old_url, "UPDATE fills SET kind = 'CORRECTION', value = -1")
    with pytest.raises(Exception, match="fills_quantity_and_value_positive_ck"):
        await migrate(old_url, "0001", back=True)
    assert [row[0] for row in await run_sql(old_url, "SELECT kind FROM fills")] == ["CORRECTION"]


async def test_an_older_router_starts_on_the_tables_of_a_newer_one(database_url: str) -> None:
    await migrate(database_url, "head")
    await run_sql(database_url, "UPDATE alembic_version SET version_num = '9999'")
    database = await Database.connect(database_url)
    try:
        assert await PostgresReads(database).audit() == (0, [])
    finally:
        await database.close()
    assert [row[0] for row in await run_sql(database_url, "SELECT * FROM alembic_version")] == [
        "9999"
    ]


async def migrate(url: str, revision: str, *, back: bool = False) -> None:
    """Brings a database to a revision."""

    def run(connection: Connection) -> None:
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        config.attributes["connection"] = connection
        (command.downgrade if back else command.upgrade)(config, revision)

    engine = Database(Address(url)).engine
    try:
        async with engine.connect() as connection:
            await connection.run_sync(run)
            await connection.commit()
    finally:
        await engine.dispose()

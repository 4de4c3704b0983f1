"""Books with a history of closes, for the tests of what reads them."""

from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal

from services.portfolio.domain.order import Mode
from services.portfolio.storage.address import Address
from services.portfolio.storage.curves import Connection
from services.portfolio.storage.database import Database
from services.portfolio.storage.tables import metadata, valuations

MONDAY = date(2024, 1, 1)
ZERO = Decimal(0)


def session(number: int) -> date:
    """The day of a session, counted from 0."""
    return MONDAY + timedelta(days=number)


async def make_tables(database_url: str) -> None:
    """Makes the router's tables in an empty database."""
    engine = Database(Address(database_url)).engine
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    await engine.dispose()


async def close_books(
    connection: Connection,
    growths: Mapping[str, Mapping[int, Decimal]],
    mode: Mode = Mode.PAPER,
) -> None:
    """Makes books whose growth at the close of these sessions was this."""
    now = datetime(2024, 1, 1, tzinfo=UTC)
    await connection.executemany(
        "INSERT INTO strategies (strategy_name, requested_mode, mode, state, halt_reason,"
        " update_time) VALUES ($1, 'AUTO', 'PAPER', 'ACTIVE', '', $2) ON CONFLICT DO NOTHING",
        [(name, now) for name in growths],
    )
    await connection.executemany(
        "INSERT INTO books (strategy_name, mode, version, cash, reserved_cash, update_time)"
        " VALUES ($1, $2, 1, 0, 0, $3)",
        [(name, mode, now) for name in growths],
    )
    rows = [
        (
            name, mode, number, session(number), "CLOSE", 1, ZERO, ZERO, ZERO, growth,
            datetime.combine(session(number), time(21), UTC),
        )
        for name, curve in growths.items()
        for number, growth in curve.items()
    ]  # fmt: skip
    await connection.copy_records_to_table(
        valuations.name, records=rows, columns=[column.name for column in valuations.columns]
    )

"""Equity curves as they are read from the database."""

from collections.abc import AsyncIterator
from decimal import Decimal

import asyncpg
import numpy as np
import pytest

from services.portfolio.domain.order import Mode
from services.portfolio.storage.curves import Connection, read_curves
from tests.allocation.books import close_books, make_tables, session

NAN = float("nan")


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Connection]:
    await make_tables(database_url)
    one = await asyncpg.connect(database_url)
    yield one
    await one.close()


def curve(*growths: str) -> dict[int, Decimal]:
    return {number: Decimal(growth) for number, growth in enumerate(growths)}


def equal(one: object, other: object) -> bool:
    return np.allclose(np.array(one), np.array(other), rtol=0, atol=1e-15, equal_nan=True)


async def test_a_book_begins_with_1_before_its_first_close(connection: Connection) -> None:
    old, young = curve("1.1", "1.21", "1.21"), {2: Decimal("0.9")}
    await close_books(connection, {"old": old, "young": young})

    curves = await read_curves(connection, Mode.PAPER, ["young", "old"], 100)

    assert curves.names == ("young", "old")
    assert curves.sessions == (session(0), session(1), session(2))
    assert equal(curves.growth, [[NAN, 1], [NAN, 1.1], [1, 1.21], [0.9, 1.21]])
    assert equal(curves.returns, [[NAN, 0.1], [NAN, 0.1], [-0.1, 0]])


async def test_a_session_without_a_close_carries_the_growth_on(connection: Connection) -> None:
    away = {0: Decimal("1.1"), 3: Decimal("1.32")}
    await close_books(connection, {"away": away, "there": curve("1", "1", "1", "1", "1")})

    curves = await read_curves(connection, Mode.PAPER, ["away", "there"], 100)

    assert equal(curves.returns[:, 0], [0.1, 0, 0, 0.2, 0])


async def test_the_lookback_keeps_the_growth_before_its_first_session(
    connection: Connection,
) -> None:
    ends, comes = curve("2", "3"), {3: Decimal("1.5"), 4: Decimal(3)}
    await close_books(
        connection, {"all": curve("1", "2", "3", "4", "5"), "ends": ends, "comes": comes}
    )

    curves = await read_curves(connection, Mode.PAPER, ["all", "ends", "comes"], 2)

    assert curves.sessions == (session(3), session(4))
    assert equal(curves.growth, [[3, 3, 1], [4, 3, 1.5], [5, 3, 3]])


async def test_other_modes_unknown_names_and_flows_are_left_out(connection: Connection) -> None:
    await close_books(connection, {"one": curve("1.1", "1.2")})
    await close_books(connection, {"one": curve("9", "9", "9")}, Mode.LIVE)
    await connection.execute(
        "INSERT INTO valuations (strategy_name, mode, number, kind, book_version, cash,"
        " positions_value, flow, growth, time) VALUES ('one', 'PAPER', 99, 'FLOW', 1, 0, 0, 5, 7,"
        " '2024-01-09T00:00:00Z')"
    )

    curves = await read_curves(connection, Mode.PAPER, ["one", "nobody"], 100)

    assert equal(curves.growth, [[1, NAN], [1.1, NAN], [1.2, NAN]])


async def test_without_any_close_there_are_no_sessions(connection: Connection) -> None:
    curves = await read_curves(connection, Mode.PAPER, ["nobody"], 100)

    assert curves.sessions == ()
    assert curves.returns.shape == (0, 1)


async def test_a_book_that_has_lost_everything_has_no_returns_beyond(
    connection: Connection,
) -> None:
    await close_books(connection, {"lost": curve("1", "0", "0", "0")})

    curves = await read_curves(connection, Mode.PAPER, ["lost"], 100)

    assert equal(curves.returns[:, 0], [0, -1, 0, 0])

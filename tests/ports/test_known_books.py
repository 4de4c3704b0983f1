"""The PostgreSQL ledger remembers books by their version, and forgets them when it must."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from decimal import Decimal

import pytest

from services.portfolio.domain.order import Mode
from services.portfolio.ports import Changes, Needs, UnavailableError
from tests.ports.stores import Store, postgresql_store
from tests.support.database import psql
from tests.writer.desks import open_strategies, writer_on

KEY = ("A", Mode.PAPER)


async def until_reached(read: Callable[[], Awaitable[Decimal]]) -> Decimal:
    """What `read` returns once no cut connection is in its way."""
    for _ in range(20):
        with suppress(UnavailableError):
            return await read()
    pytest.fail("the database was not reached in 20 tries")


async def cash_of_a(store: Store) -> Decimal:
    async with store.ledger.transaction() as transaction:
        return (await transaction.load(Needs(strategies=["A"]))).books[KEY].cash


async def test_a_book_is_read_again_only_when_its_version_has_changed(migrated_url: str) -> None:
    async with postgresql_store(migrated_url) as store:
        async with writer_on(store.ledger) as writer:
            await open_strategies(writer, "A")
        psql(migrated_url, "UPDATE books SET cash = 7")  # no router does this: the version stays
        assert await cash_of_a(store) == 1000
        psql(migrated_url, "UPDATE books SET cash = 8, version = version + 1")
        assert await cash_of_a(store) == 8
        psql(migrated_url, "UPDATE books SET cash = 9")
        assert await cash_of_a(store) == 8


async def test_a_new_connection_forgets_every_book(migrated_url: str) -> None:
    async with postgresql_store(migrated_url) as store:
        async with writer_on(store.ledger) as writer:
            await open_strategies(writer, "A")
        psql(migrated_url, "UPDATE books SET cash = 7")
        assert await cash_of_a(store) == 1000
        await store.cut()
        assert await until_reached(lambda: cash_of_a(store)) == 7


async def test_what_was_rolled_back_is_not_remembered(migrated_url: str) -> None:
    async with postgresql_store(migrated_url) as store:
        async with writer_on(store.ledger) as writer:
            await open_strategies(writer, "A")
        with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the block must end badly
            async with store.ledger.transaction() as transaction:
                book = (await transaction.load(Needs(strategies=["A"]))).books[KEY]
                after = replace(book, cash=Decimal(5), version=book.version + 1)
                await transaction.save(Changes(books={KEY: after}))
                raise ZeroDivisionError
        psql(migrated_url, "UPDATE books SET cash = 6, version = version + 1")
        assert await cash_of_a(store) == 6

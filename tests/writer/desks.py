"""Writers for tests, and what they are asked."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from typing import cast

import uuid_utils.compat

from services.portfolio.brokers.paper import PaperBroker
from services.portfolio.commands import Command, UpsertPortfolio
from services.portfolio.domain.order import Mode, Order
from services.portfolio.ports import Answer, Broker, Ledger, Reads
from services.portfolio.writer import Rules, Writer

AT_ONCE = PaperBroker()
BY_HAND = PaperBroker(by_hand=True)


def rules(broker: Broker = AT_ONCE) -> Rules:
    """What a router is composed of, with its invariants checked."""
    return Rules(
        {Mode.PAPER: broker},
        lambda: datetime.now(UTC),
        uuid_utils.compat.uuid7,
        check_invariants=True,
    )


@asynccontextmanager
async def writer_on(ledger: Ledger, broker: Broker = AT_ONCE) -> AsyncIterator[Writer]:
    """A writer on the ledger; it is stopped in the end."""
    writer = Writer(ledger, rules(broker))
    try:
        yield writer
    finally:
        await writer.stop()


async def open_strategies(writer: Writer, names: Sequence[str], cash: str = "1000") -> None:
    """Creates strategies with cash."""
    for name in names:
        await writer.submit(UpsertPortfolio(name, Decimal(cash)))


async def order_of(writer: Writer, command: Command) -> Order:
    """The order that a command answers."""
    answer: Answer = await writer.submit(command)
    return cast("Order", answer)


async def assert_balanced(reads: Reads) -> None:
    """Recomputes every book from its facts."""
    _, differences = await reads.audit()
    assert differences == []

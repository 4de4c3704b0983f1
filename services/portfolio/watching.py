"""Watching: what changes, as it changes, whichever router replica changed it."""

import asyncio
from collections.abc import AsyncIterator

from services.portfolio.domain.order import Order
from services.portfolio.ports import (
    Feed,
    LedgerEvent,
    OrderFilter,
    Reads,
    UnavailableError,
)
from services.portfolio.views import PortfolioView

CALM_S = 0.05  # changes of a portfolio that come closer together than this are sent as one


async def watch_orders(
    reads: Reads, feed: Feed, which: OrderFilter, snapshot_size: int
) -> AsyncIterator[Order | UnavailableError]:
    """The newest orders, oldest of them first, then every order that is created or changes.

    An UnavailableError is the last item when the stream cannot go on without a gap.
    """
    try:
        async with feed.subscribe() as events:
            # Subscribed first, then read: an order may come twice, but none is missed.
            if snapshot_size:
                for order in reversed(await reads.orders(which, None, snapshot_size)):
                    yield order
            async for event in events:
                if not event.orders or not _concerns(event, which.strategy_name):
                    continue
                for order in await reads.orders_by_id(event.orders):
                    if _is_wanted(order, which):
                        yield order
    except UnavailableError as error:
        yield error


async def watch_portfolios(
    reads: Reads, feed: Feed, strategy_name: str | None
) -> AsyncIterator[PortfolioView | UnavailableError]:
    """Every strategy as it is now, then each one as it changes.

    An UnavailableError is the last item when the stream cannot go on without a gap.
    """
    try:
        async with feed.subscribe() as events:
            wanted = None if strategy_name is None else [strategy_name]
            for portfolio in await reads.portfolios(wanted):
                yield portfolio
            changes = _Changes(events)
            try:
                while changed := await changes.next():
                    if strategy_name is not None:
                        changed &= {strategy_name}
                    if changed:
                        for portfolio in await reads.portfolios(changed):
                            yield portfolio
            finally:
                changes.close()
    except UnavailableError as error:
        yield error


class _Changes:
    """Names of changed strategies, gathered until there is a moment's calm."""

    def __init__(self, events: AsyncIterator[LedgerEvent]) -> None:
        self._names: set[str] = set()
        self._some = asyncio.Event()
        self._gather = asyncio.create_task(self._collect(events), name="portfolio-watch")

    async def next(self) -> set[str]:
        """The strategies that changed since the last call; waits for one.

        Raises:
            UnavailableError: Some changes may have been missed.
        """
        await self._some.wait()
        if not self._names:
            await self._gather  # it has ended, and raises why
        await asyncio.sleep(CALM_S)
        names, self._names = self._names, set()
        if not self._gather.done():
            self._some.clear()
        return names

    def close(self) -> None:
        """Stops gathering."""
        self._gather.cancel()

    async def _collect(self, events: AsyncIterator[LedgerEvent]) -> None:
        try:
            async for event in events:
                if event.strategies:  # else it tells of orders alone
                    self._names.update(event.strategies)
                    self._some.set()
        finally:
            self._some.set()


def _concerns(event: LedgerEvent, strategy_name: str | None) -> bool:
    return strategy_name is None or strategy_name in event.strategies or not event.strategies


def _is_wanted(order: Order, which: OrderFilter) -> bool:
    return (
        which.strategy_name in (None, order.strategy_name)
        and which.symbol in (None, order.symbol)
        and (which.twins or order.twin_of is None)
    )

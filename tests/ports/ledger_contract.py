"""What every Ledger promises. Subclass it where pytest finds it; `store` is the implementation."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from services.portfolio.domain.book import RequestedMode, State
from services.portfolio.domain.order import Order, Status
from services.portfolio.domain.risk import Limits, OnSilence, Whole
from services.portfolio.ports import (
    Answer,
    Changes,
    Ledger,
    Needs,
    Snapshot,
    StorageConflictError,
    StoredRequest,
)
from services.portfolio.views import PortfolioView, PositionView
from tests.ledger.values import d, new_id
from tests.ports.makers import (
    LIVE,
    PAPER,
    at,
    corrected_day,
    filled_day,
    opened,
    order,
    position,
    save,
    strategy,
    with_orders,
)
from tests.ports.stores import Store

NOTHING = Snapshot({}, {}, {}, {}, {}, {}, {}, valued=False)


async def loaded(ledger: Ledger, needs: Needs) -> Snapshot:
    """A snapshot, read and let go."""
    async with ledger.transaction() as transaction:
        return await transaction.load(needs)


class LedgerContract:
    """Transactions on any store."""

    async def test_what_does_not_exist_is_absent(self, store: Store) -> None:
        nothing = new_id()
        needs = Needs({"Nobody"}, {nothing}, {new_id()}, {"no-request"}, {nothing}, {"SPXL"})
        assert await loaded(store.ledger, needs) == NOTHING
        assert await loaded(store.ledger, Needs()) == NOTHING

    async def test_what_was_saved_reads_back_exactly(self, store: Store) -> None:
        changes = filled_day("A")
        changes.strategies["A"] = replace(
            strategy("A", state=State.HALTED), requested_mode=RequestedMode.LIVE
        )
        await save(store.ledger, changes)
        (owner, held), *_ = changes.positions.items()
        needs = Needs({"A"}, set(changes.orders), {held.position_id})
        found = await loaded(store.ledger, needs)
        assert found.strategies == changes.strategies
        assert found.books == changes.books
        assert found.orders == changes.orders
        assert found.positions == {held.position_id: owner}

    @pytest.mark.parametrize(
        "amount",
        ["0.00000001", "99999999999999999999.99999999", "123456789.12345678", "1E+12", "0.10"],
    )
    async def test_amounts_read_back_to_the_last_decimal(self, store: Store, amount: str) -> None:
        changes = opened("A", amount, PAPER, position("SPXL", amount, amount, amount))
        await save(store.ledger, changes)
        found = await loaded(store.ledger, Needs({"A"}))
        assert found.books == changes.books

    async def test_both_modes_of_a_strategy_are_loaded_apart(self, store: Store) -> None:
        held = position("SPXL", 1, 5)
        await save(store.ledger, opened("A", 10), opened("A", -20, LIVE, held))
        found = await loaded(store.ledger, Needs({"A"}))
        assert found.books["A", PAPER].positions == {}
        assert found.books["A", LIVE].positions == {"SPXL": held}
        assert found.strategies["A"].mode is LIVE

    async def test_orders_and_positions_bring_their_strategies(self, store: Store) -> None:
        held = position("SPXL", 1, 5)
        mine = order("B")
        await save(store.ledger, opened("A", 1, PAPER, held), opened("B"), opened("C"))
        await save(store.ledger, with_orders("B", [mine]))
        found = await loaded(
            store.ledger, Needs(orders={mine.order_id}, positions={held.position_id})
        )
        assert set(found.strategies) == {"A", "B"}
        assert set(found.books) == {("A", PAPER), ("B", PAPER)}
        assert found.orders == {mine.order_id: mine}

    async def test_the_fills_of_orders_are_read_when_they_are_asked_for(self, store: Store) -> None:
        day, other = corrected_day("A"), filled_day("B")
        await save(store.ledger, day, other)
        (one,) = day.orders
        bought, pending = other.orders
        assert (await loaded(store.ledger, Needs(orders={one}))).fills == {}
        asked = [one, pending, new_id()]
        found = await loaded(store.ledger, Needs(orders={*asked, bought}, fills=asked))
        assert found.fills == {one: day.fills[::-1], pending: []}  # oldest first
        assert set(found.orders) == {one, bought, pending}

    async def test_open_orders_come_with_their_strategies_when_asked_for(
        self, store: Store
    ) -> None:
        found_of = {status: order("A", status=status) for status in Status}
        other = order("B")
        await save(store.ledger, opened("A"), opened("B"))
        await save(store.ledger, with_orders("A", list(found_of.values())))
        await save(store.ledger, with_orders("B", [other]))
        assert (await loaded(store.ledger, Needs({"A"}))).orders == {}
        executed = found_of[Status.EXECUTED]
        found = await loaded(store.ledger, Needs({"A"}, {executed.order_id}, open_orders=True))
        wanted = [executed, found_of[Status.PENDING], found_of[Status.UNKNOWN]]
        assert found.orders == {each.order_id: each for each in wanted}
        everyone = await loaded(store.ledger, Needs(everyone=True, open_orders=True))
        assert set(everyone.orders) == {each.order_id for each in [*wanted[1:], other]}

    async def test_everyone_is_loaded_with_the_whole(self, store: Store) -> None:
        limits = Limits(max_drawdown=d("0.25"), lease_s=d("0.5"), on_silence=OnSilence.FLATTEN)
        whole = Whole(True, "a look", limits, at(3))
        await save(store.ledger, opened("A"), opened("B", 5, LIVE), Changes(whole=whole))
        found = await loaded(store.ledger, Needs(everyone=True))
        assert set(found.strategies) == {"A", "B"}
        assert set(found.books) == {("A", PAPER), ("B", LIVE)}
        assert found.whole == whole
        assert (await loaded(store.ledger, Needs({"New"}))).whole == whole
        assert (await loaded(store.ledger, Needs({"A"}))).whole.limits == limits

    async def test_while_everyone_is_held_nobody_else_reads_or_is_created(
        self, store: Store
    ) -> None:
        await save(store.ledger, opened("A"))
        told: list[str] = []

        async def other(name: str) -> None:
            async with store.ledger.transaction() as transaction:
                found = await transaction.load(Needs({name}))
                halted = found.whole.halted or found.strategies["A"].portfolio_halted
                told.append(f"{name} {halted}")
                if name == "New":
                    await transaction.save(opened("New"))

        async with asyncio.timeout(20):
            async with store.ledger.transaction() as transaction:
                found = await transaction.load(Needs(everyone=True))
                others = [asyncio.create_task(other(name)) for name in ("A", "New")]
                await asyncio.sleep(0.1)  # they would have ended by now
                halted = replace(found.strategies["A"], portfolio_halted=True)
                await transaction.save(
                    Changes(strategies={"A": halted}, whole=Whole(True, "", update_time=at(1)))
                )
                assert told == []
            await asyncio.gather(*others)
        assert sorted(told) == ["A True", "New True"]

    async def test_what_risk_control_says_of_a_strategy_reads_back(self, store: Store) -> None:
        await save(store.ledger, opened("A"))
        limits = Limits(d("0.1"), d("0.2"), d("300.5"), 4, d("5.5"), d("0.25"), d(7))
        one = replace(
            strategy("A"), limits=limits, portfolio_halted=True, silent=True, flattening=True
        )
        await save(store.ledger, Changes(strategies={"A": one}))
        assert (await loaded(store.ledger, Needs({"A"}))).strategies == {"A": one}

    async def test_orders_of_the_last_minute_are_counted_where_a_limit_asks(
        self, store: Store
    ) -> None:
        limited = replace(strategy("A"), limits=Limits(max_orders_per_minute=9))
        await save(store.ledger, opened("A"), opened("B"), Changes(strategies={"A": limited}))
        now = datetime.now(UTC)

        def placed(name: str, ago_s: float) -> Order:
            time = now - timedelta(seconds=ago_s)
            uuid7 = (round(time.timestamp() * 1000) << 80) | (7 << 76) | (2 << 62) | new_id().int
            return replace(order(name), order_id=UUID(int=uuid7), create_time=time)

        twin = replace(placed("A", 1), twin_of=new_id())
        mine = [placed("A", 50), placed("A", 70), placed("A", 1), twin]
        await save(store.ledger, with_orders("A", mine), with_orders("B", [placed("B", 2)]))
        assert (await loaded(store.ledger, Needs({"A", "B"}))).recent_orders == {"A": 2}
        whole = Whole(limits=Limits(max_orders_per_minute=9), update_time=at(1))
        await save(store.ledger, Changes(whole=whole))
        assert (await loaded(store.ledger, Needs({"B"}))).recent_orders == {"": 3}

    async def test_saving_again_replaces_the_state_and_keeps_the_rest(self, store: Store) -> None:
        changes = filled_day("A")
        await save(store.ledger, changes)
        (old_order, *_) = changes.orders.values()
        key = ("A", PAPER)
        new_order = replace(old_order, reason="late", update_time=at(9))
        new_book = replace(changes.books[key], version=4, cash=d(5000), update_time=at(9))
        await save(
            store.ledger,
            Changes(
                strategies={"A": strategy("A", state=State.HALTED)},
                books={key: new_book},
                orders={new_order.order_id: new_order},
            ),
        )
        found = await loaded(store.ledger, Needs({"A"}, set(changes.orders)))
        assert found.strategies["A"].state is State.HALTED
        assert found.books[key] == new_book  # its position stays
        assert found.orders == {**changes.orders, new_order.order_id: new_order}

    @pytest.mark.parametrize("error", [ValueError, StorageConflictError, asyncio.CancelledError])
    async def test_a_block_that_ends_badly_leaves_no_trace(
        self, store: Store, error: type[BaseException]
    ) -> None:
        await save(store.ledger, opened("A"))
        before = await loaded(store.ledger, Needs({"A", "B"}))

        async def fail() -> None:
            async with store.ledger.transaction() as transaction:
                await transaction.load(Needs({"A"}))
                await transaction.save(filled_day("B"))
                await transaction.save(Changes(strategies={"A": strategy("A", LIVE)}))
                await transaction.remember([StoredRequest("r", "BuyAll", b"f", None)])
                raise error

        with pytest.raises(error):
            await fail()
        assert await loaded(store.ledger, Needs({"A", "B"}, requests={"r"})) == before
        assert await store.reads.audit() == (1, [])

    async def test_a_transaction_that_fails_lets_the_next_one_in(self, store: Store) -> None:
        await save(store.ledger, opened("A"))

        async def fail() -> None:
            async with store.ledger.transaction() as transaction:
                await transaction.load(Needs({"A"}))
                raise ValueError("no")

        for _ in range(20):  # more often than there are connections
            with pytest.raises(ValueError, match="no"):
                await fail()
        async with asyncio.timeout(5):
            await loaded(store.ledger, Needs({"A"}))

    async def test_two_transactions_on_one_strategy_take_turns(self, store: Store) -> None:
        await save(store.ledger, opened("A", 0))
        key = ("A", PAPER)

        async def add_one() -> None:
            async with store.ledger.transaction() as transaction:
                book = (await transaction.load(Needs({"A"}))).books[key]
                await asyncio.sleep(0.001)  # the others would read the same book
                richer = replace(book, version=book.version + 1, cash=book.cash + 1)
                await transaction.save(Changes(books={key: richer}))

        await asyncio.gather(*(add_one() for _ in range(24)))
        book = (await loaded(store.ledger, Needs({"A"}))).books[key]
        assert (book.version, book.cash) == (25, d(24))

    async def test_transactions_on_the_same_strategies_in_any_order_do_not_deadlock(
        self, store: Store
    ) -> None:
        names = ["A", "B", "C", "D"]
        await save(store.ledger, *(opened(name, 0) for name in names))

        async def touch(turned: bool) -> None:
            async with store.ledger.transaction() as transaction:
                found = await transaction.load(Needs(names[::-1] if turned else names))
                books = {
                    key: replace(book, version=book.version + 1)
                    for key, book in found.books.items()
                }
                await transaction.save(Changes(books=books))

        async with asyncio.timeout(20):
            await asyncio.gather(*(touch(i % 2 == 0) for i in range(16)))
        found = await loaded(store.ledger, Needs(names))
        assert {book.version for book in found.books.values()} == {17}

    async def test_answers_are_remembered_as_they_were_given(self, store: Store) -> None:
        answers = await self.answers(store)
        requests = [
            StoredRequest(f"r{i}", "Method", bytes([i, 0, 255]), answer)
            for i, answer in enumerate(answers)
        ]
        async with store.ledger.transaction() as transaction:
            await transaction.remember(requests)
        found = await loaded(store.ledger, Needs(requests={"r0", "r1", "r2", "r3", "r9"}))
        assert found.requests == {request.request_id: request for request in requests}
        kinds = [type(found.requests[f"r{i}"].answer) for i in range(4)]
        assert kinds == [Order, PositionView, PortfolioView, type(None)]

    async def answers(self, store: Store) -> list[Answer]:
        """One answer of each kind."""
        held = position("SPXL", "0.00000003", "0.10", "1E+2")
        await save(store.ledger, opened("A", "12.30000000", PAPER, held))
        async with store.ledger.transaction() as transaction:
            return [
                replace(order("A"), reason='a "quoted" \u00fcml\u00e4ut \\ line\n'),
                await transaction.position(held.position_id),
                await transaction.portfolio("A"),
                None,
            ]

    async def test_a_request_id_is_remembered_once(self, store: Store) -> None:
        request = StoredRequest("r", "BuyAll", b"one", None)
        async with store.ledger.transaction() as transaction:
            await transaction.remember([request])

        async def use_it_again() -> None:
            async with store.ledger.transaction() as transaction:
                await transaction.save(opened("A"))
                await transaction.remember([StoredRequest("r", "SellAll", b"two", None)])

        with pytest.raises(StorageConflictError):
            await use_it_again()
        found = await loaded(store.ledger, Needs({"A"}, requests={"r"}))
        assert found.requests == {"r": request}
        assert not found.strategies

    @pytest.mark.parametrize("facts", ["fills", "cash_entries", "order_events", "adjustments"])
    async def test_a_fact_is_booked_once(self, store: Store, facts: str) -> None:
        changes = filled_day("A")
        if facts == "adjustments":
            changes = opened("A", 1, PAPER, position("SPXL", 1, 1))
        await save(store.ledger, changes)
        again = Changes(**{facts: getattr(changes, facts)})
        assert getattr(again, facts)
        with pytest.raises(StorageConflictError):
            await save(store.ledger, again)

    async def test_a_transaction_shows_what_it_has_written(self, store: Store) -> None:
        held = position("SPXL", 2, 7, last_price=5)
        async with store.ledger.transaction() as transaction:
            await transaction.save(opened("A", 100, PAPER, held))
            portfolio = await transaction.portfolio("A")
            shown = await transaction.position(held.position_id)
            assert await store.reads.portfolios() == []  # to nobody else
        assert (portfolio.cash, portfolio.positions_value, portfolio.equity) == (100, 10, 110)
        assert (shown.quantity, shown.average_cost, shown.market_value) == (2, d("3.5"), 10)
        assert await store.reads.portfolios() == [portfolio]

    async def test_a_position_that_was_closed_again_is_a_conflict(self, store: Store) -> None:
        # Two commands of one batch: one sets the position, the next sells it. Alone, each has an
        # answer.
        held = position("SPXL", 0, 0)

        async def show_it() -> None:
            async with store.ledger.transaction() as transaction:
                await transaction.save(opened("A", 100, PAPER, held))
                await transaction.position(held.position_id)

        with pytest.raises(StorageConflictError):
            await show_it()

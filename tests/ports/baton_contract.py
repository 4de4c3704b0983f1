"""What every Baton and BrokerReads promise. Subclass it where pytest finds it."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from services.portfolio.domain.money import ZERO
from services.portfolio.domain.order import Fill, FillKind, Order, Status
from services.portfolio.domain.reconciliation import (
    Acknowledgement,
    Reconciliation,
    SymbolRow,
)
from services.portfolio.domain.weather import BrokerState, MarketData, Weather
from services.portfolio.live.ports import Baton, OutvotedError
from services.portfolio.ports import (
    Changes,
    LedgerEvent,
    Needs,
    StorageConflictError,
    UnavailableError,
)
from tests.ledger.values import d, new_id
from tests.ports.feed_contract import listening, next_of
from tests.ports.makers import LIVE, PAPER, at, book, opened, order, position, save
from tests.ports.stores import Store
from tests.support.waiting import wait_until_async

CLIENT = 7
LOST = (OutvotedError, UnavailableError)
WEATHER = Weather(
    BrokerState.CONNECTED, at(0), "all is well", MarketData.BROKEN, "DU123", "router-1"
)
SEEN = Reconciliation(
    at(5),
    (
        SymbolRow("AVL", d(-3), d(9), d(9)),
        SymbolRow("SPXL", d(10), d(9), d(9)),
        SymbolRow("VOID", d(0), d(1), d(0)),
    ),
    d("99.50"),
    d(1),
    d("1234.56"),
)


async def holder(store: Store) -> Baton:
    """A baton that is held."""
    baton = store.new_baton()
    assert await baton.take()
    return baton


async def intended(store: Store, count: int = 1) -> list[Order]:
    """LIVE orders of a new strategy A that the broker is to get."""
    orders = [replace(order("A"), mode=LIVE) for _ in range(count)]
    await save(
        store.ledger,
        opened("A", 1000, LIVE),
        Changes(
            books={("A", LIVE): book("A", d(1000), 2, LIVE)},
            orders={one.order_id: one for one in orders},
            intents=[one.order_id for one in orders],
        ),
    )
    return orders


def a_fill(
    one: Order,
    execution_id: str,
    quantity: int,
    *,
    commission: str = "0",
    kind: FillKind = FillKind.FILL,
) -> Fill:
    """A fill at 1 USD a share."""
    shares = d(quantity)
    return Fill(one.order_id, execution_id, 2, shares, d(1), shares, d(commission), at(1), kind)


async def ended(store: Store, one: Order, status: Status) -> Order:
    """The order, saved with another status."""
    one = replace(one, status=status)
    await save(store.ledger, Changes(orders={one.order_id: one}))
    return one


def said(symbol: str, quantity: int, reason: str = "mine") -> Acknowledgement:
    """An acknowledgement. All at the same time: the order of saving counts."""
    return Acknowledgement(symbol, d(quantity), "me", reason, at(1))


class BatonContract:
    """The election, the intents, and what the sender tells, on any store."""

    async def test_one_holds_the_baton_and_the_next_gets_it_when_it_is_dropped(
        self, store: Store
    ) -> None:
        one, other = store.new_baton(), store.new_baton()
        assert await one.take()
        assert not await other.take()
        assert await one.take()  # still ours
        await one.drop()
        assert await other.take()
        assert not await one.take()
        await one.drop()  # was not ours: nothing happens
        assert await other.take()

    async def test_when_many_want_it_one_gets_it(self, store: Store) -> None:
        batons = [store.new_baton() for _ in range(6)]
        assert sum(await asyncio.gather(*(baton.take() for baton in batons))) == 1

    async def test_without_the_baton_nothing_can_be_done(self, store: Store) -> None:
        (one,) = await intended(store)
        baton = store.new_baton()
        for lost in (False, True):
            if lost:
                assert await baton.take()
                await baton.drop()
            for act in acts(baton, one):
                with pytest.raises(OutvotedError):
                    await act()
        assert [i.broker_order_id for i in await (await holder(store)).unsent()] == [None]
        assert await store.broker_reads.weather() is None

    async def test_a_killed_session_writes_nothing_and_the_next_takes_over_within_a_second(
        self, store: Store
    ) -> None:
        (one,) = await intended(store)
        was, next_one = await holder(store), store.new_baton()
        assert not await next_one.take()
        await store.cut_sender()
        with pytest.raises(LOST):
            await was.assign(CLIENT, {one.order_id: 1})
        await wait_until_async(next_one.take, 1)
        for act in acts(was, one):  # it is not taken again in silence
            with pytest.raises(OutvotedError):
                await act()
        assert not await was.take()
        (intent,) = await next_one.unsent()
        assert intent.order == one
        assert await next_one.first_id(CLIENT) == 1
        assert await store.broker_reads.weather() is None

    async def test_a_holder_whose_session_was_killed_hears_of_it_before_it_holds_again(
        self, store: Store
    ) -> None:
        baton = await holder(store)
        await store.cut_sender()
        with pytest.raises(LOST):
            await baton.first_id(CLIENT)
        assert await baton.take()
        assert await baton.first_id(CLIENT) == 1

    async def test_an_intent_is_unsent_until_it_is_assigned(self, store: Store) -> None:
        orders = await intended(store, 3)
        baton = await holder(store)
        assert [intent.order for intent in await baton.unsent()] == orders
        first, second, third = (one.order_id for one in orders)
        assert await baton.assign(CLIENT, {third: 12, first: 11}) == {first, third}
        (left,) = await baton.unsent()
        assert left.order.order_id == second
        assert (left.client_id, left.broker_order_id, left.sent_time) == (None, None, None)
        sent = await baton.sent()
        assert [(i.order, i.client_id, i.broker_order_id) for i in sent] == [
            (orders[0], CLIENT, 11),
            (orders[2], CLIENT, 12),
        ]
        for intent in sent:
            assert intent.sent_time is not None
            assert abs(datetime.now(UTC) - intent.sent_time) < timedelta(minutes=1)

    async def test_what_was_assigned_is_never_assigned_again(self, store: Store) -> None:
        (one,) = await intended(store)
        baton = await holder(store)
        assert await baton.assign(CLIENT, {one.order_id: 1})
        assert await baton.assign(CLIENT, {one.order_id: 2}) == set()
        assert await baton.assign(CLIENT + 1, {one.order_id: 2}) == set()
        assert [intent.broker_order_id for intent in await baton.sent()] == [1]

    async def test_ids_are_given_out_once_even_after_a_restart(self, store: Store) -> None:
        one, other = await intended(store, 2)
        baton = await holder(store)
        assert await baton.first_id(CLIENT) == 1
        assert await baton.assign(CLIENT, {one.order_id: 40, new_id(): 43}) == {one.order_id}
        await baton.drop()
        again = await holder(store)
        assert await again.first_id(CLIENT) == 44  # 43 was given out, though for nothing
        assert await again.first_id(CLIENT + 1) == 1
        for used in (1, 40, 43):
            with pytest.raises(OutvotedError):
                await again.assign(CLIENT, {other.order_id: used})
        with pytest.raises(OutvotedError):  # not even one of several
            await again.assign(CLIENT, {other.order_id: 44, one.order_id: 43})
        assert [intent.order for intent in await again.unsent()] == [other]
        assert await again.first_id(CLIENT) == 44
        assert await again.assign(CLIENT + 1, {other.order_id: 40}) == {other.order_id}

    async def test_assigning_nothing_does_nothing(self, store: Store) -> None:
        baton = await holder(store)
        assert await baton.assign(CLIENT, {}) == set()
        assert await baton.first_id(CLIENT) == 1

    async def test_an_intent_that_is_to_be_cancelled_is_not_assigned(self, store: Store) -> None:
        one, other = await intended(store, 2)
        baton = await holder(store)
        await save(store.ledger, Changes(cancel_requests=[one.order_id]))
        ids = {one.order_id: 1, other.order_id: 2}
        assert await baton.assign(CLIENT, ids) == {other.order_id}
        (left,) = await baton.unsent()
        assert (left.order, left.cancel_requested) == (one, True)
        (sent,) = await baton.sent()
        assert not sent.cancel_requested

    async def test_a_sent_order_can_be_asked_to_be_cancelled_any_number_of_times(
        self, store: Store
    ) -> None:
        (one,) = await intended(store)
        baton = await holder(store)
        await baton.assign(CLIENT, {one.order_id: 1})
        for _ in range(2):
            await save(store.ledger, Changes(cancel_requests=[one.order_id, one.order_id]))
        (intent,) = await baton.sent()
        assert (intent.broker_order_id, intent.cancel_requested) == (1, True)

    async def test_an_order_and_its_cancellation_may_come_in_one_batch(self, store: Store) -> None:
        await save(store.ledger, opened("A", 1000, LIVE))
        one = replace(order("A"), mode=LIVE)
        changes = Changes(
            orders={one.order_id: one}, intents=[one.order_id], cancel_requests=[one.order_id]
        )
        await save(store.ledger, changes)
        (intent,) = await (await holder(store)).unsent()
        assert intent.cancel_requested

    async def test_an_intent_that_was_withdrawn_is_never_assigned(self, store: Store) -> None:
        (one,) = await intended(store)
        was = await holder(store)
        assert await was.withdraw(one.order_id)
        assert await was.withdraw(one.order_id)
        await was.drop()
        after = await holder(store)
        assert await after.assign(CLIENT, {one.order_id: 1}) == set()
        (intent,) = await after.unsent()
        assert intent.order == one

    async def test_what_was_sent_cannot_be_withdrawn(self, store: Store) -> None:
        (one,) = await intended(store)
        baton = await holder(store)
        await baton.assign(CLIENT, {one.order_id: 1})
        assert not await baton.withdraw(one.order_id)
        assert not await baton.withdraw(new_id())
        (intent,) = await baton.sent()
        assert not intent.cancel_requested

    async def test_an_order_without_an_intent_is_cancelled_and_never_sent(
        self, store: Store
    ) -> None:
        await save(store.ledger, opened("A", 1000, LIVE))
        one = replace(order("A"), mode=LIVE)
        await save(store.ledger, Changes(orders={one.order_id: one}))
        baton = await holder(store)
        assert await baton.unsent() == []
        assert await baton.assign(CLIENT, {one.order_id: 1}) == set()
        await save(store.ledger, Changes(cancel_requests=[one.order_id]))
        assert [intent.cancel_requested for intent in await baton.unsent()] == [True]
        assert await baton.assign(CLIENT, {one.order_id: 2}) == set()

    @pytest.mark.parametrize("status", [s for s in Status if s is not Status.PENDING])
    async def test_only_a_pending_order_is_assigned(self, store: Store, status: Status) -> None:
        (one,) = await intended(store)
        one = await ended(store, one, status)
        baton = await holder(store)
        assert await baton.assign(CLIENT, {one.order_id: 1}) == set()
        assert [i.order for i in await baton.unsent()] == ([one] if one.is_open else [])
        assert await baton.sent() == []

    @pytest.mark.parametrize("status", Status)
    async def test_sent_intents_are_told_until_their_orders_end(
        self, store: Store, status: Status
    ) -> None:
        (one,) = await intended(store)
        baton = await holder(store)
        await baton.assign(CLIENT, {one.order_id: 1})
        one = await ended(store, one, status)
        assert [i.order for i in await baton.sent()] == ([one] if one.is_open else [])
        assert await baton.unsent() == []

    async def test_an_intent_is_recorded_once(self, store: Store) -> None:
        (one,) = await intended(store)
        with pytest.raises(StorageConflictError):
            await save(store.ledger, Changes(intents=[one.order_id], orders={one.order_id: one}))

    async def test_every_replica_hears_what_concerns_the_broker(self, store: Store) -> None:
        baton = await holder(store)
        await save(store.ledger, opened("A", 1000, LIVE))
        one = replace(order("A"), mode=LIVE)
        changes = Changes(
            books={("A", LIVE): book("A", d(1000), 2, LIVE)},
            orders={one.order_id: one},
            intents=[one.order_id],
        )
        async with listening(store) as events:
            await save(store.ledger, changes)
            assert await next_of(events) == LedgerEvent(("A",), (one.order_id,), broker=True)
            for told in (
                save(store.ledger, Changes(cancel_requests=[one.order_id])),
                save(store.ledger, Changes(acknowledgements=[said("SPXL", 1)])),
                baton.say(WEATHER),
                baton.keep(SEEN),
            ):
                await told
                assert await next_of(events) == LedgerEvent((), (), broker=True)

    async def test_a_large_batch_tells_of_its_intents_too(self, store: Store) -> None:
        async with listening(store) as events:
            orders = await intended(store, 70)
            heard = [await next_of(events)]  # A was opened
            while len({i for event in heard for i in event.orders}) < len(orders):
                heard.append(await next_of(events))
        assert any(event.broker for event in heard)

    async def test_the_weather_is_told_with_a_heartbeat(self, store: Store) -> None:
        assert await store.broker_reads.weather() is None
        baton = await holder(store)
        before = None
        for weather in (WEATHER, replace(WEATHER, state=BrokerState.DOWN, detail="gone")):
            await baton.say(weather)
            told = await store.broker_reads.weather()
            assert told is not None
            assert replace(told, heartbeat=None) == weather
            assert told.heartbeat is not None
            assert abs(datetime.now(UTC) - told.heartbeat) < timedelta(minutes=1)
            assert before is None or told.heartbeat > before
            before = told.heartbeat

    async def test_the_account_is_known_until_another_is_said(self, store: Store) -> None:
        baton = await holder(store)
        await baton.say(replace(WEATHER, account="DU1000001"))
        await baton.say(replace(WEATHER, account=""))  # a new sender that has not connected yet
        told = await store.broker_reads.weather()
        assert told is not None
        assert told.account == "DU1000001"

    async def test_what_is_booked_is_told_with_its_commission(self, store: Store) -> None:
        sent, unsent = await intended(store, 2)
        baton = await holder(store)
        assert await baton.booked() == {}
        await baton.assign(CLIENT, {sent.order_id: 1})
        fills = [
            a_fill(sent, "a.01", 4),
            a_fill(sent, "b.01", 3),
            a_fill(sent, "a.01:commission", 0, commission="1.00", kind=FillKind.COMMISSION),
            a_fill(sent, "a.01:commission-2", 0, commission="0.25", kind=FillKind.COMMISSION),
            a_fill(unsent, "by-hand-1", 4),
        ]
        await save(store.ledger, Changes(orders={sent.order_id: sent}, fills=fills))
        assert await baton.booked() == {"a.01": d("1.25"), "b.01": None}

    async def test_nothing_was_compared_before_the_first_time(self, store: Store) -> None:
        await save(store.ledger, opened("A", "12.50", LIVE, position("SPXL", 3, 9)))
        await save(store.ledger, Changes(acknowledgements=[said("SPXL", 1)]))
        assert await store.broker_reads.reconciliation() == Reconciliation(None, (), None, ZERO)
        assert await self.account(store, "SPXL") == {}

    async def test_a_comparison_is_told_as_it_was_with_the_acknowledgements_of_now(
        self, store: Store
    ) -> None:
        baton = await holder(store)
        await baton.keep(SEEN)
        await save(store.ledger, opened("A", 5, LIVE, position("SPXL", 3, 9)))
        acknowledged = Changes(
            acknowledgements=[said("SPXL", 5), said("SPXL", 3), said("AVL", -12), said("GLD", 1)]
        )
        await save(store.ledger, acknowledged)
        rows = (
            SymbolRow("AVL", d(-3), d(9), d(-12)),
            SymbolRow("SPXL", d(10), d(9), d(3)),
            SymbolRow("VOID", d(0), d(1), d(0)),
        )
        seen = await store.broker_reads.reconciliation()
        assert seen == replace(SEEN, rows=rows)
        assert [row.symbol for row in seen.rows if row.frozen] == ["SPXL", "VOID"]

    async def test_a_command_sees_the_account_as_compared_and_the_books_of_now(
        self, store: Store
    ) -> None:
        await (await holder(store)).keep(SEEN)
        await save(
            store.ledger,
            opened("A", 12, LIVE, position("SPXL", 3, 9), position("GLD", 2, 9)),
            opened("B", -2, LIVE, position("SPXL", 4, 9)),
            opened("C", 500, PAPER, position("SPXL", 100, 9)),
            Changes(acknowledgements=[said("AVL", -3)]),
        )
        assert await self.account(store, "SPXL", "AVL", "GLD") == {
            "SPXL": SymbolRow("SPXL", d(10), d(7), ZERO),
            "AVL": SymbolRow("AVL", d(-3), ZERO, d(-3)),  # GLD was not in the comparison
        }

    async def test_the_strategies_shares_and_cash_are_summed_over_live_books(
        self, store: Store
    ) -> None:
        baton = await holder(store)
        assert await baton.strategies() == ({}, 0)
        await save(
            store.ledger,
            opened("A", "12.50", LIVE, position("SPXL", 3, 9), position("GLD", 2, 9)),
            opened("B", -2, LIVE, position("SPXL", 4, 9), position("HOOD", 0, 0)),
            opened("C", 500, PAPER, position("SPXL", 100, 9)),
        )
        assert await baton.strategies() == ({"SPXL": 7, "GLD": 2}, d("10.50"))

    async def test_the_newest_acknowledgement_counts(self, store: Store) -> None:
        baton = await holder(store)
        assert await baton.acknowledged() == {}
        for shares in (5, 0, -2):
            await save(store.ledger, Changes(acknowledgements=[said("SPXL", shares)]))
            assert await baton.acknowledged() == {"SPXL": shares}

    async def test_a_later_comparison_takes_the_place_of_the_one_before(self, store: Store) -> None:
        baton = await holder(store)
        await baton.keep(SEEN)
        again = Reconciliation(at(9), (SymbolRow("GLD", d(4), ZERO, ZERO),), None, ZERO)
        await baton.keep(again)
        assert await store.broker_reads.reconciliation() == again
        await baton.keep(replace(again, rows=()))
        assert await store.broker_reads.reconciliation() == replace(again, rows=())

    async def test_amounts_of_the_broker_read_back_to_the_last_decimal(self, store: Store) -> None:
        exact = d("99999999999999999999.99999999")
        seen = Reconciliation(at(1), (SymbolRow("SPXL", exact, ZERO, ZERO),), -exact, ZERO)
        await (await holder(store)).keep(seen)
        assert await store.broker_reads.reconciliation() == seen

    async def test_whoever_decides_by_the_account_takes_turns(self, store: Store) -> None:
        # Two operators give the same UNATTRIBUTED shares away, each to another strategy.
        await (await holder(store)).keep(replace(SEEN, rows=(SymbolRow("SPXL", d(9), ZERO, ZERO),)))
        names = ["A", "B", "C", "D"]
        await save(store.ledger, *(opened(name, 0, LIVE) for name in names))

        async def assign(name: str) -> bool:
            async with store.ledger.transaction() as transaction:
                found = await transaction.load(Needs({name}, accounts={"SPXL"}))
                if not found.accounts["SPXL"].unattributed:
                    return False
                held = position("SPXL", 9, 9)
                given = replace(found.books[name, LIVE], version=2, positions={"SPXL": held})
                await transaction.save(
                    Changes(books={(name, LIVE): given}, positions={((name, LIVE), "SPXL"): held})
                )
                return True

        assert sum(await asyncio.gather(*map(assign, names))) == 1
        assert (await self.account(store, "SPXL"))["SPXL"].unattributed == 0

    async def account(self, store: Store, *symbols: str) -> dict[str, SymbolRow]:
        """The symbols as a transaction sees them."""
        async with store.ledger.transaction() as transaction:
            return dict((await transaction.load(Needs(accounts=symbols))).accounts)


def acts(baton: Baton, one: Order) -> list[Callable[[], Awaitable[object]]]:
    """All that a holder can do."""
    return [
        lambda: baton.first_id(CLIENT),
        baton.unsent,
        baton.sent,
        lambda: baton.assign(CLIENT, {one.order_id: 1}),
        lambda: baton.withdraw(one.order_id),
        lambda: baton.say(WEATHER),
        lambda: baton.keep(SEEN),
        baton.strategies,
        baton.acknowledged,
    ]

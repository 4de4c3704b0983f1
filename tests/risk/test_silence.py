"""Strategies that fall silent past their lease."""

from datetime import timedelta

import pytest

from services.portfolio.commands import UpdateOrderStatus
from services.portfolio.domain.book import State
from services.portfolio.domain.ledger import Report
from services.portfolio.domain.order import Side, Status
from services.portfolio.domain.risk import OnSilence, is_silent
from services.portfolio.risk.commands import NoteSilence, SellTheRest
from tests.ledger.values import NOW, d
from tests.ports.stores import Store
from tests.risk.desk import RiskDesk, desk_on
from tests.risk.test_guardian import watching
from tests.support.waiting import wait_until_async
from tests.writer.desks import BY_HAND


@pytest.mark.parametrize(("age_s", "silent"), [(59.999, False), (60, False), (60.001, True)])
def test_a_strategy_is_silent_past_its_lease_and_not_at_it(age_s: float, silent: bool) -> None:
    assert is_silent(d(60), NOW - timedelta(seconds=age_s), NOW) is silent
    assert not is_silent(None, NOW - timedelta(seconds=age_s), NOW)
    assert not is_silent(d(60), None, NOW)


async def test_a_silence_is_told_once_and_so_is_its_end(desk: RiskDesk) -> None:
    await desk.open("A", lease_s="60")
    await desk.buy("A", "1", "100")
    await desk.guardian.look()
    assert await desk.told("A") == ["LIMITS"]  # it never reported: it is not silent
    await desk.mark("A", "100", "OTHER", ago_s=61)
    for _ in range(3):
        await desk.guardian.look()
    *_, silence = await desk.events("A")
    assert (silence.kind, silence.actor) == ("SILENT", "router")
    assert "lease_s is 60, on_silence HOLD" in silence.reason
    view = await desk.view("A")
    assert (view.state, view.invested) == (State.ACTIVE, True)  # it is only shown
    await desk.mark("A", "100")
    for _ in range(3):
        await desk.guardian.look()
    assert await desk.told("A") == ["LIMITS", "SILENT", "HEARD"]


async def test_a_silent_strategy_is_sold_out_if_that_is_its_policy(desk: RiskDesk) -> None:
    await desk.open("A", lease_s="60", on_silence=OnSilence.FLATTEN)
    await desk.buy("A", "5", "100")
    await desk.mark("A", "110", ago_s=59)
    await desk.guardian.look()
    assert (await desk.view("A")).invested
    await desk.limit("A", lease_s="58", on_silence=OnSilence.FLATTEN, max_order_value="1")
    await desk.guardian.look()
    view = await desk.view("A")
    # The mark is older than the purchase, so that is the market price.
    assert (view.state, view.invested, view.cash) == (State.ACTIVE, False, 1000)
    *_, silent, flattened = await desk.events("A")
    assert (silent.kind, flattened.kind, flattened.actor) == ("SILENT", "FLATTEN", "router")
    assert flattened.reason == "sale of 5 SPXL at 100.00 USD EXECUTED"


async def test_replicas_note_a_silence_once_and_look_again_under_the_lock(desk: RiskDesk) -> None:
    await desk.open("A", lease_s="60", on_silence=OnSilence.FLATTEN)
    await desk.buy("A", "5", "100")
    await desk.mark("A", "100", ago_s=50)
    await desk.submit(NoteSilence("A"))  # it was heard since a guardian looked
    assert await desk.told("A") == ["LIMITS"]
    await desk.limit("A", lease_s="40", on_silence=OnSilence.FLATTEN)
    await desk.submit(NoteSilence("A"))
    await desk.submit(NoteSilence("A"))
    assert (await desk.told("A"))[2:] == ["SILENT", "FLATTEN"]


async def test_who_is_heard_again_is_not_sold_any_more(store: Store) -> None:
    async with desk_on(store, BY_HAND) as desk:
        await desk.open("A", lease_s="60", on_silence=OnSilence.FLATTEN)
        bought = await desk.buy("A", "5", "100")
        await desk.submit(UpdateOrderStatus(bought.order_id, Report(Status.EXECUTED)))
        await desk.mark("A", "100", ago_s=61)
        await desk.guardian.look()
        *_, sale = await desk.orders()
        assert (sale.side, sale.status) == (Side.SELL, Status.PENDING)
        assert (await desk.strategy("A")).flattening
        await desk.mark("A", "100")
        await desk.guardian.look()
        await desk.submit(UpdateOrderStatus(sale.order_id, Report(Status.CANCELLED)))
        await desk.guardian.look()
        assert len(await desk.orders()) == 2
        assert not (await desk.strategy("A")).flattening


async def test_lifting_the_lease_ends_the_silence(desk: RiskDesk) -> None:
    await desk.open("A", lease_s="60")
    await desk.mark("A", "100", ago_s=61)
    await desk.guardian.look()
    await desk.limit("A")
    await desk.guardian.look()
    assert await desk.told("A") == ["LIMITS", "SILENT", "LIMITS", "HEARD"]


async def test_the_guardian_hears_silence_fall(store: Store) -> None:
    async with desk_on(store) as desk, watching(desk):
        await desk.open("A", lease_s="0.3", on_silence=OnSilence.FLATTEN)
        await desk.buy("A", "5", "100")
        await desk.mark("A", "100")

        async def sold() -> bool:
            return not (await desk.view("A")).invested

        await wait_until_async(sold, 10, "what A holds is sold")
        assert (await desk.told("A"))[-2:] == ["SILENT", "FLATTEN"]


async def test_who_reports_again_is_not_sold_even_before_that_is_noted(store: Store) -> None:
    async with desk_on(store, BY_HAND) as desk:
        await desk.open("A", lease_s="60", on_silence=OnSilence.FLATTEN)
        bought = await desk.buy("A", "5", "100")
        await desk.submit(UpdateOrderStatus(bought.order_id, Report(Status.EXECUTED)))
        await desk.mark("A", "100", ago_s=61)
        await desk.guardian.look()
        *_, sale = await desk.orders()
        await desk.submit(UpdateOrderStatus(sale.order_id, Report(Status.REJECTED)))
        await desk.mark("A", "100")  # and another replica's guardian looked just before
        assert await desk.submit(SellTheRest("A")) is None
        assert len(await desk.orders()) == 2

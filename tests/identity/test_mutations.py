"""Who changed what: the actor in every fact, and a row beside each change."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from efficientfrontier.v1.book_pb2 import Book
from services.portfolio.allocation.commands import KeepPlan, SetPolicy
from services.portfolio.batch import Batch
from services.portfolio.brokers.paper import PaperBroker
from services.portfolio.caller import ANONYMOUS, CALLER, METHOD, ROUTER, TRACE_ID, Caller, Role
from services.portfolio.commands import (
    BuyAll,
    Command,
    CreateOrder,
    DeletePosition,
    SellAll,
    SetPosition,
    SetState,
    UpdateOrderStatus,
    UpsertPortfolio,
)
from services.portfolio.domain.book import State
from services.portfolio.domain.capital import AllocationPolicy
from services.portfolio.domain.errors import LedgerError, NotAllowedError
from services.portfolio.domain.ledger import Report
from services.portfolio.domain.mutation import Mutation
from services.portfolio.domain.order import Order, Side, Status
from services.portfolio.domain.risk import Limits
from services.portfolio.history.commands import CloseSession
from services.portfolio.live.commands import FollowMode
from services.portfolio.ports import Answer, MutationFilter, Needs
from services.portfolio.risk.commands import HaltPortfolio, ResumePortfolio, SetLimits
from services.portfolio.rpc.admission import Admission
from services.portfolio.rpc.tokens import Tokens
from services.portfolio.views import PositionView
from services.portfolio.writer import Writer
from tests.identity.desk import A, B, Desk, Keyring, served
from tests.ledger.values import d, new_id
from tests.ports.allocation_contract import plan
from tests.ports.stores import Store, memory_store, postgresql_store, run_sql
from tests.writer.desks import assert_balanced, rules

ALICE, BOB = Caller("alice", Role.OPERATOR), Caller("bob", Role.OPERATOR)
MINE, OTHERS = Caller(A, Role.STRATEGY), Caller(B, Role.STRATEGY)
TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture
async def writer(store: Store) -> AsyncIterator[Writer]:
    """A writer whose orders stay PENDING, with strategies A and B; audited in the end."""
    one = Writer(store.ledger, rules(PaperBroker(by_hand=True)))
    for name in (A, B):
        await one.submit(UpsertPortfolio(name, Decimal(1000)))
    yield one
    await one.stop()
    await assert_balanced(store.reads)


async def ask(writer: Writer, caller: Caller, command: Command, method: str = "") -> Answer:
    """Submits as the guard has a caller submit."""

    async def within_a_call() -> Answer:
        CALLER.set(caller)
        METHOD.set(method)
        TRACE_ID.set(TRACE if method else "")
        return await writer.submit(command)

    return await asyncio.create_task(within_a_call())


async def at_once(*calls: Awaitable[Answer]) -> list[Answer]:
    """Calls that wait together, and so run in one batch."""
    return list(await asyncio.gather(*calls))


async def listed(store: Store, which: MutationFilter | None = None) -> list[Mutation]:
    """Mutations, oldest first, without those of the fixture."""
    found = await store.reads.mutations(which or MutationFilter(), None, 1000)
    return found[::-1][2 if which is None else 0 :]


async def test_each_of_a_batch_is_its_own_callers(store: Store, writer: Writer) -> None:
    answers = await at_once(
        ask(writer, MINE, CreateOrder(A, "SPXL", Side.BUY, d(1), d(2), "r1"), "CreateOrder"),
        ask(writer, OTHERS, CreateOrder(B, "GLD", Side.BUY, d(1), d(2)), "CreateOrder"),
        ask(writer, ALICE, SetPosition(A, "GLD", d(3), d(1), "found"), "SetPosition"),
        ask(writer, ANONYMOUS, UpsertPortfolio(B, d(2000)), "UpsertPortfolio"),
        ask(writer, ROUTER, SetState(B, State.HALTED, "why")),
    )
    mine, others, held, _, _ = answers
    assert isinstance(mine, Order)
    assert isinstance(others, Order)
    assert isinstance(held, PositionView)
    made = await listed(store)
    assert len({mutation.create_time for mutation in made}) == 1, "not one batch"
    assert [(m.actor, m.method, m.strategy_name, m.subject, m.request_id) for m in made] == [
        (f"strategy/{A}", "CreateOrder", A, str(mine.order_id), "r1"),
        (f"strategy/{B}", "CreateOrder", B, str(others.order_id), ""),
        ("operator/alice", "SetPosition", A, str(held.position_id), ""),
        ("anonymous", "UpsertPortfolio", B, "", ""),
        ("router", "SetState", B, "", ""),
    ]
    assert [mutation.trace_id for mutation in made] == [TRACE] * 4 + [""]
    assert sorted(m.mutation_id for m in made) == [m.mutation_id for m in made]


async def test_every_fact_says_who_it_was(migrated_url: str) -> None:
    async with postgresql_store(migrated_url) as store:
        writer = Writer(store.ledger, rules(PaperBroker(by_hand=True)))
        await at_once(
            ask(writer, ALICE, UpsertPortfolio(A, d(1000), reason="first")),
            ask(writer, BOB, UpsertPortfolio(B, d(1000))),
        )
        one, two = [
            answer
            for answer in await at_once(
                ask(writer, MINE, CreateOrder(A, "SPXL", Side.BUY, d(1), d(2))),
                ask(writer, OTHERS, CreateOrder(B, "SPXL", Side.BUY, d(1), d(2))),
            )
            if isinstance(answer, Order)
        ]
        cancelled, filled = Report(Status.CANCELLED), Report(Status.EXECUTED)
        await at_once(
            ask(writer, MINE, UpdateOrderStatus(one.order_id, cancelled)),
            ask(writer, BOB, UpdateOrderStatus(two.order_id, filled)),
            ask(writer, ALICE, SetPosition(A, "GLD", d(3), d(1))),
            ask(writer, BOB, SetPosition(B, "GLD", d(3), d(1))),
            ask(writer, ALICE, SetState(A, State.HALTED)),
            ask(writer, OTHERS, SetState(B, State.HALTED)),
            ask(writer, BOB, SetLimits(B, Limits(max_order_value=d(5)))),
        )
        await writer.stop()
        await assert_balanced(store.reads)
    facts: dict[str, set[tuple[str, ...]]] = {
        "strategy_name, kind, actor FROM cash_entries": {
            (A, "DEPOSIT", "operator/alice"),
            (B, "DEPOSIT", "operator/bob"),
            (B, "TRADE", ""),  # its order and its fill say why
        },
        "strategy_name, actor FROM position_adjustments": {
            (A, "operator/alice"),
            (B, "operator/bob"),
        },
        "strategy_name, to_status, actor FROM order_events JOIN orders USING (order_id)": {
            (A, "CANCELLED", f"strategy/{A}"),
            (B, "EXECUTED", "operator/bob"),
        },
        "strategy_name, kind, actor FROM risk_events": {
            (A, "HALT", "operator/alice"),
            (B, "HALT", f"strategy/{B}"),
            (B, "LIMITS", "operator/bob"),
        },
    }
    for which, wanted in facts.items():
        found = {tuple(row) for row in await run_sql(migrated_url, f"SELECT DISTINCT {which}")}
        assert found == wanted, which


async def test_what_changes_nothing_is_no_mutation(store: Store, writer: Writer) -> None:
    await ask(writer, ALICE, SetPosition(A, "GLD", d(3), d(1)))
    before = len(await listed(store))
    for command in (
        SetPosition(A, "GLD", d(3), d(1)),
        UpsertPortfolio(A, d(1000)),
        UpsertPortfolio(A),
        SetState(A, State.ACTIVE),
        SetLimits(A, Limits()),
        ResumePortfolio(),
        FollowMode(A),
    ):
        await ask(writer, ALICE, command)
    for refused in (SellAll(A, "SPXL", d(1)), BuyAll("Nobody", "SPXL", d(1))):
        with pytest.raises(LedgerError):
            await ask(writer, ALICE, refused)
    assert len(await listed(store)) == before


async def test_a_repeated_request_is_there_once(store: Store, writer: Writer) -> None:
    command = CreateOrder(A, "SPXL", Side.BUY, d(1), d(2), "again")
    first, second = await at_once(ask(writer, MINE, command), ask(writer, MINE, command))
    assert first == second == await ask(writer, MINE, command)
    assert [mutation.request_id for mutation in await listed(store)] == ["again"]


async def test_a_repetition_in_the_same_batch_is_for_who_might_have_made_it(
    store: Store, writer: Writer
) -> None:
    order = await ask(writer, MINE, CreateOrder(A, "SPXL", Side.BUY, d(1), d(2)))
    assert isinstance(order, Order)
    cancel = UpdateOrderStatus(order.order_id, Report(Status.CANCELLED), "cancel")
    outcomes = await asyncio.gather(
        ask(writer, OTHERS, cancel),
        ask(writer, MINE, cancel),
        ask(writer, OTHERS, cancel),
        ask(writer, ALICE, cancel),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes] == [
        NotAllowedError,
        Order,
        NotAllowedError,
        Order,
    ]
    made = await listed(store, MutationFilter(actor=f"strategy/{A}"))
    assert [mutation.request_id for mutation in made] == ["", "cancel"]


@dataclass(frozen=True, slots=True)
class Broken:
    """A command with a fault of ours in it, which comes to light when others have been decided."""

    request_id: str = ""

    def needs(self) -> Needs:
        return Needs(strategies=(A,))

    def run(self, batch: Batch) -> None:
        raise RuntimeError(batch.strategy(A).name)


async def test_a_batch_that_is_run_again_one_by_one_is_there_once(
    store: Store, writer: Writer
) -> None:
    outcomes = await asyncio.gather(
        ask(writer, MINE, CreateOrder(A, "SPXL", Side.BUY, d(1), d(2)), "CreateOrder"),
        ask(writer, OTHERS, CreateOrder(B, "GLD", Side.BUY, d(1), d(2)), "CreateOrder"),
        ask(writer, BOB, Broken(), "Broken"),
        ask(writer, ALICE, SetState(B, State.HALTED), "HaltStrategy"),
        return_exceptions=True,
    )
    assert isinstance(outcomes[2], RuntimeError)
    assert [(m.actor, m.method) for m in await listed(store)] == [
        (f"strategy/{A}", "CreateOrder"),
        (f"strategy/{B}", "CreateOrder"),
        ("operator/alice", "HaltStrategy"),
    ]


async def test_a_mutation_names_one_strategy_or_the_whole(store: Store, writer: Writer) -> None:
    held = await ask(writer, ALICE, SetPosition(B, "GLD", d(3), d(1)))
    assert isinstance(held, PositionView)
    kept = plan(new_id())
    commands: Mapping[str, tuple[Command, str, str]] = {
        "DeletePosition": (DeletePosition(held.position_id), B, str(held.position_id)),
        "SetLimits": (SetLimits("", Limits(max_order_value=d(5))), "", ""),
        "HaltPortfolio": (HaltPortfolio("stop"), "", ""),
        "SetAllocation": (SetPolicy(AllocationPolicy()), "", ""),
        "PlanAllocation": (KeepPlan(kept), "", str(kept.plan_id)),
    }
    for method, (command, _, _) in commands.items():
        await ask(writer, ALICE, command, method)
    made = (await listed(store))[1:]
    assert [(m.method, m.strategy_name, m.subject) for m in made] == [
        (method, name, subject) for method, (_, name, subject) in commands.items()
    ]


async def test_what_a_price_ends_is_the_routers_doing(tmp_path: Path) -> None:
    keyring = Keyring(tmp_path / "keys.json")
    admission = Admission(Tokens(keyring.path, "efficientfrontier").identify)
    mine = keyring.header(f"strategy/{A}")
    async with served(memory_store(), admission) as desk:
        await desk.router.writer.submit(UpsertPortfolio(A, d(1000)))
        for day in ("2026-01-05", "2026-01-06"):
            prices = [{"symbol": "SPXL", "price": 2.0}]
            await desk.call("ReportPrices", mine, strategy_name=A, prices=prices, session=day)
        await desk.call("BuyAll", mine, strategy_name=A, symbol="SPXL", price=2.0)
        found = await desk.call("ListMutations", mine)
    assert [(each.actor, each.method) for each in found.mutations] == [
        (f"strategy/{A}", "BuyAll"),
        ("router", CloseSession.__name__),
        ("router", CloseSession.__name__),
        ("router", "UpsertPortfolio"),
    ]


async def test_the_list_is_filtered_and_paged_over_the_wire(tmp_path: Path) -> None:
    keyring = Keyring(tmp_path / "keys.json")
    admission = Admission(Tokens(keyring.path, "efficientfrontier").identify)
    began = datetime.now(UTC)
    async with served(memory_store(), admission) as desk:
        headers = keyring.header("operator/alice")
        for cash, name in enumerate((A, B, A, A)):
            await desk.call(
                "UpsertPortfolio",
                (*headers, ("traceparent", f"00-{TRACE}-00f067aa0ba902b7-01")),
                strategy_name=name,
                cash=cash + 1.0,
                requested_mode=Book.PAPER,
                request_id=f"r{cash}",
            )
        pages = await listed_by_page(desk, headers, strategy_name=A)
        assert [[row.request_id for row in page] for page in pages] == [["r3", "r2"], ["r0"]]
        (row,) = (await desk.call("ListMutations", headers, strategy_name=B)).mutations
        assert (row.actor, row.method, row.strategy_name) == (
            "operator/alice",
            "UpsertPortfolio",
            B,
        )
        assert (row.subject, row.trace_id) == ("", TRACE)
        assert began <= row.create_time.ToDatetime(UTC) <= datetime.now(UTC)
        assert not (await desk.call("ListMutations", headers, actor="operator/bob")).mutations
        token = (await desk.call("ListMutations", headers, page_size=1)).next_page_token
        refused = await desk.refused("ListMutations", headers, page_token=token, strategy_name=A)
        assert refused.reason == "INVALID_PAGE_TOKEN"


async def listed_by_page(
    desk: Desk, headers: tuple[tuple[str, str], ...], **which: str
) -> list[list[Any]]:
    """All pages of two."""
    pages: list[list[Any]] = []
    token = ""
    while not pages or token:
        page = await desk.call("ListMutations", headers, page_size=2, page_token=token, **which)
        pages.append(list(page.mutations))
        token = page.next_page_token
    return pages


def test_what_is_recorded_is_recorded_by_the_batch_alone() -> None:
    """A change that went past it would be no mutation."""
    folder = Path("services/portfolio")
    allowed = {folder / "batch.py", folder / "writer.py"}
    past = [
        str(path)
        for path in folder.rglob("*.py")
        if path not in allowed and "batch.changes" in path.read_text()
    ]
    assert past == []

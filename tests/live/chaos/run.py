"""A run: parts are started, orders flow, parts are killed by the plan, and then all is checked."""

import asyncio
import time
from asyncio import FIRST_COMPLETED
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from grpc import aio

from tests.live.chaos.broker import broker_of
from tests.live.chaos.checks import Answers, Finding, check
from tests.live.chaos.parts import AWAY, Parts
from tests.live.chaos.plan import Scene, Step, steps
from tests.live.chaos.traffic import NotAnsweredError, Traffic
from tests.live.chaos.witness import count_open, ledger_of, write_histories
from tests.support.gateway import PRICES

ORDER_WITHIN_S = 45.0  # an order must be accepted again, whatever was killed
ENDED_WITHIN_S = 60.0  # every order, once nothing is killed any more
AGREED_WITHIN_S = 15.0  # the ledger with the broker, after that
MOST_HISTORIES = 20
NEVER_SENT = "SELECT count(*) FROM broker_orders WHERE broker_order_id IS NULL"
CALM = Scene("IMMEDIATE_FILL", "", 0, 0.0)

Progress = Callable[[int, str], None]  # the step, and what is going on


class StuckError(Exception):
    """The parts did not come back to work; says after what."""


@dataclass(slots=True)
class Outcome:
    """What a run came to."""

    findings: list[Finding] = field(default_factory=list)
    figures: dict[str, int] = field(default_factory=dict)
    histories: list[Path] = field(default_factory=list)
    took_s: float = 0.0

    @property
    def is_good(self) -> bool:
        """Whether nothing is wrong."""
        return bool(self.findings) and not any(finding.wrong for finding in self.findings)


class Run:
    """One run, in a folder of its own. `progress` is told of each step."""

    def __init__(self, seed: int, kills: int, folder: Path, progress: Progress) -> None:
        self._plan = steps(seed, kills, sorted(PRICES))
        self._parts = Parts(folder)
        self._traffic = Traffic(seed, [router.address for router in self._parts.routers])
        self._progress = progress
        self._log: list[str] = []
        self._kills: Counter[str] = Counter()
        self._step = 0
        self._keeper: asyncio.Task[None] | None = None

    async def run(self) -> Outcome:
        """Starts all, kills by the plan, settles, checks, and ends all."""
        began = time.monotonic()
        outcome = Outcome()
        try:
            self._progress(0, "starting PostgreSQL, the gateway and two routers")
            self._parts.start()
            broken = await self._break_things()
            self._progress(self._step, "waiting until every order has ended")
            outcome.findings = [broken, *await self._settled()]
            concerned = sorted(set().union(*(f.orders for f in outcome.findings)))
            outcome.histories = await write_histories(
                self._parts, concerned[:MOST_HISTORIES], self._log
            )
            outcome.figures = await self._figures()
        finally:
            if self._keeper:
                self._keeper.cancel()
            await self._traffic.close()
            await self._parts.broker.close()
            self._parts.stop()
            outcome.took_s = time.monotonic() - began
        return outcome

    async def _break_things(self) -> Finding:
        """Carries out the plan while orders flow; says whether the parts came back each time."""
        found = Finding("orders flowed again after each kill", len(self._plan))
        self._keeper = asyncio.create_task(self._parts.keep_up())
        await self._traffic.open()
        trading = asyncio.create_task(self._traffic.run())
        try:
            for step in self._plan:
                await self._take(step, trading)
            await self._parts.broker.play([CALM])
            await self._next_order(trading)
        except StuckError as error:
            found.add(f"step {self._step}: {error}")
        self._traffic.finish()
        try:
            await trading
        except* NotAnsweredError as group:
            for problem in group.exceptions:
                found.add(f"up to step {self._step}: {problem}")
        if self._keeper.done():
            found.add(f"a part could not be started again: {self._keeper.exception()}")
        for fallen in self._parts.fallen:
            found.add(f"ended without being killed: {fallen}")
        return found

    async def _take(self, step: Step, trading: asyncio.Task[None]) -> None:
        self._step = step.number
        self._progress(step.number, step.kill)
        await self._parts.broker.play(step.scenes)
        if step.release:
            await self._parts.broker.release()
        if step.waits_for_order:
            await self._next_order(trading)
        await asyncio.sleep(step.pause_s)
        give_up = time.monotonic() + ORDER_WITHIN_S
        while not (broken := await self._parts.carry_out(step)):
            if time.monotonic() > give_up:
                raise StuckError(f"nothing was there to {step.kill} for {ORDER_WITHIN_S:g} s")
            await asyncio.sleep(0.1)
        self._kills[step.kill] += 1
        scenes = ", ".join(f"{s.symbol} {s.scenario} {s.delay_s:g} s" for s in step.scenes)
        self._note(f"step {step.number}: {step.kill}: {', '.join(broken)} ({scenes})")

    async def _next_order(self, trading: asyncio.Task[None]) -> None:
        """Waits until an order is accepted from now on. What waits at the broker is let go on."""
        self._traffic.accepted.clear()
        waiting = asyncio.create_task(self._traffic.accepted.wait())
        give_up = time.monotonic() + ORDER_WITHIN_S
        try:
            while not waiting.done():
                if trading.done():
                    raise StuckError("the strategies have stopped")
                if time.monotonic() > give_up:
                    raise StuckError(f"no order was accepted for {ORDER_WITHIN_S:g} s")
                await asyncio.wait({waiting, trading}, timeout=5, return_when=FIRST_COMPLETED)
                if not waiting.done():
                    await self._parts.broker.release()  # 1100 lasts until its order is released
        finally:
            waiting.cancel()

    async def _settled(self) -> list[Finding]:
        """The findings, once nothing is wrong any more, or waiting for that is over."""
        give_up = time.monotonic() + ENDED_WITHIN_S
        was_open, findings = True, list[Finding]()
        while True:
            await self._parts.broker.play([CALM])
            await self._parts.broker.release()
            is_over = time.monotonic() > give_up
            with suppress(aio.AioRpcError, *AWAY):
                is_open = await count_open(self._parts) > 0
                if was_open and not is_open:  # what may be late now is a commission, a comparison
                    give_up, was_open = time.monotonic() + AGREED_WITHIN_S, False
                if is_over or not is_open:
                    findings = await self._check()
            if findings and (is_over or not any(finding.wrong for finding in findings)):
                return findings
            if is_over:
                return [Finding("all parts answer in the end", 1, ["one did not"])]
            await asyncio.sleep(0.5)

    async def _check(self) -> list[Finding]:
        ledger = await ledger_of(self._parts)
        broker = broker_of(await self._parts.broker.snapshot())
        answers = Answers({a.request.request_id: a.answer for a in self._traffic.asked})
        return check(ledger, broker, answers)

    async def _figures(self) -> dict[str, int]:
        """What happened, in numbers."""
        asked = self._traffic.asked
        figures = {str(kill): count for kill, count in self._kills.items()}
        figures["kills in all"] = self._kills.total()
        for name, count in sorted(self._parts.starts.items()):
            figures[f"{name} started again"] = count
        figures["orders asked for"] = len(asked)
        figures["orders accepted"] = sum(1 for one in asked if one.order_id)
        for code, count in sorted(self._traffic.attempts.items()):
            figures[f"calls answered by {code}"] = count
        with suppress(aio.AioRpcError, *AWAY):
            rows = await self._parts.fetch("SELECT status, count(*) FROM orders GROUP BY status")
            figures |= {f"orders {row['status']}": row["count"] for row in rows}
            unsent = await self._parts.fetch(NEVER_SENT)
            figures["orders that were never sent"] = unsent[0]["count"]
            snapshot = await self._parts.broker.snapshot()
            scenarios = Counter(order.scenario for order in snapshot.orders)
            figures["orders received by the broker"] = len(snapshot.receipts)
            figures["orders at the broker"] = len(snapshot.orders)
            figures["scenarios that orders met there"] = len(scenarios)
            figures["executions"] = len(snapshot.executions)
        return figures

    def _note(self, text: str) -> None:
        """Writes a line into steps.log at once, so that it is there whatever happens."""
        self._log.append(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ} {text}")
        with (self._parts.folder / "steps.log").open("a") as log:
            log.write(self._log[-1] + "\n")

"""The parts of a run: real processes that are killed, and started again as a cluster would do."""

import asyncio
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import asyncpg
import psutil

from services.mesh.child import Child
from services.mesh.postgres import EmbeddedPostgres
from tests.live.chaos.broker import SimulatedBroker
from tests.live.chaos.plan import Kill, Step
from tests.support.gateway import ACCOUNT, GatewayProcess
from tests.support.router import Router

CLIENT_ID = "1"
SETTINGS = {
    "TRADING_MODE": "LIVE",
    "IBKR_HOST": "127.0.0.1",
    "IBKR_CLIENT_ID": CLIENT_ID,
    "IBKR_ACCOUNT": ACCOUNT,
    "AUTH": "none",
    "OUTSIDE_SESSION": "allow",
    "LIVE_CAPITAL": "0",  # the run's own strategies are given their cash by name
    "ANSWER_WITHIN_S": "2",
    "QUEUE_WITHIN_S": "5",
    "RECONCILE_EVERY_S": "3",
}
SENDER = "SELECT sender FROM broker_weather"
# CASE, because conditions joined by AND are tried in any order, and ours would end every session.
# CASE, because conditions joined by AND are tried in any order, and ours would end every session.
END_SESSION = """
SELECT 'session ' || pid AS name FROM pg_stat_activity
WHERE CASE
    WHEN application_name = 'efficientfrontier-sender'
        AND pid IN (SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted)
    THEN pg_terminate_backend(pid) END
"""
AWAY = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError)


class Postgres(EmbeddedPostgres):
    """The embedded PostgreSQL, which can be killed with all its processes."""

    def kill(self) -> None:
        """SIGKILL to the postmaster, then to its children, and waits until all are gone."""
        processes = [psutil.Process(self.pid)]
        with suppress(psutil.NoSuchProcess):
            processes += processes[0].children(recursive=True)
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, timeout=10)


Part = Postgres | GatewayProcess | Router


class Parts:
    """PostgreSQL, the gateway and two routers, below one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.postgres = Postgres(folder / "postgres", folder / "postgres.log")
        self.gateway = GatewayProcess(folder)
        settings = {**SETTINGS, "IBKR_PORT": str(self.gateway.port)}
        self.routers = [
            Router(self.postgres.url, folder / f"router-{name}.log", settings) for name in "ab"
        ]
        for router, name in zip(self.routers, "ab", strict=True):
            router.name = f"router {name}"
        self.broker = SimulatedBroker(self.gateway.control_address)
        self.fallen: list[str] = []  # routers that had served, and ended without being killed
        self.starts: Counter[str] = Counter()
        self._frozen: list[subprocess.Popen[bytes]] = []  # at any time
        self._back_at: dict[Part, float] = {}
        self._all: list[Part] = [self.postgres, self.gateway, *self.routers]

    def start(self) -> None:
        """Starts all, and waits until they serve. Call it in the main thread."""
        self.postgres.start()
        self.postgres.wait_ready()
        self.gateway.start()
        for router in self.routers:
            router.start()

    def stop(self) -> None:
        """Ends all."""
        for process in self._frozen:
            process.send_signal(signal.SIGCONT)  # does nothing to one that has ended
        for router in self.routers:
            router.stop()
        self.gateway.stop()
        self.postgres.stop()

    async def keep_up(self) -> None:
        """Starts again what has ended, for ever; what was killed, once its time has come."""
        while True:
            for part in self._all:
                if part.exit_code() is not None:
                    self._start_again(part)
            await asyncio.sleep(0.05)

    async def carry_out(self, step: Step) -> list[str]:
        """Breaks what the step says; returns what that was, nothing if it was broken already."""
        if step.kill is Kill.LINE:
            return await self.broker.drop_connections()
        if step.kill is Kill.SESSION:
            return await self._end_session()
        sender = await self._sender() or self.routers[step.router]
        if step.kill is Kill.FREEZE:
            return self._freeze(step, sender)
        other = self.routers[self.routers[0] is sender]
        parts: dict[Kill, list[Part]] = {
            Kill.SENDER: [sender],
            Kill.OTHER: [other],
            Kill.BOTH: [sender, other],
            Kill.GATEWAY: [self.gateway],
            Kill.DATABASE: [self.postgres],
        }
        return self._kill(step, parts[step.kill])

    async def fetch(self, statement: str) -> list[asyncpg.Record]:
        """The rows of a statement, read on a session of its own.

        Raises:
            AWAY: The database is away.
        """
        session = await asyncpg.connect(self.postgres.url, timeout=2)
        try:
            rows: list[asyncpg.Record] = await session.fetch(statement, timeout=20)
            return rows
        finally:
            session.terminate()

    async def _sender(self) -> Router | None:
        with suppress(*AWAY):
            for row in await self.fetch(SENDER):
                pid = int(row["sender"].rpartition(":")[2])
                return next((router for router in self.routers if router.pid == pid), None)
        return None

    def _kill(self, step: Step, parts: Sequence[Part]) -> list[str]:
        alive = [part for part in parts if part.exit_code() is None]
        for part in alive:
            self._back_at[part] = time.monotonic() + step.down_s
            part.kill()
        return [part.name for part in alive]

    def _freeze(self, step: Step, router: Router) -> list[str]:
        if router.exit_code() is not None:
            return []
        process = router.running
        process.send_signal(signal.SIGSTOP)
        self._frozen.append(process)
        asyncio.get_running_loop().call_later(step.down_s, process.send_signal, signal.SIGCONT)
        return [router.name]

    async def _end_session(self) -> list[str]:
        with suppress(*AWAY):
            return [row["name"] for row in await self.fetch(END_SESSION)]
        return []

    def _start_again(self, part: Part) -> None:
        back_at = self._back_at.get(part)
        if back_at is None and isinstance(part, Router) and '"serving"' in part.output():
            self.fallen.append(f"{part.name}: {part.last_words()}")
        if back_at is not None and time.monotonic() < back_at:
            return
        self._back_at.pop(part, None)
        self.starts[part.name] += 1
        if isinstance(part, Postgres):
            part.start()
        else:
            Child.start(part)  # without waiting until it serves: others may be killed meanwhile

"""The real router as a process."""

from collections.abc import Mapping
from pathlib import Path

from services.mesh.health import is_serving
from services.mesh.ports import free_port
from tests.support.process import Process
from tests.support.waiting import wait_until


class Router(Process):
    """`python -m services.portfolio` on a database and a free port of 127.0.0.1."""

    def __init__(
        self, database_url: str, log: Path, environ: Mapping[str, str] | None = None
    ) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self.database_url = database_url
        # Where no certificate is needed.
        self._health_address = (environ or {}).get("HEALTH_ADDRESS", self.address)
        command = Process.of_module("services.portfolio", log=log).command
        settings = {
            "DATABASE_URL": database_url,
            "ROUTER_ADDRESS": self.address,
            "METRICS_PORT": "0",
            "TRADING_MODE": "PAPER",
            "PORTFOLIO_CAPITAL": "100000",
            "LOG_LEVEL": "INFO",
            "DRAIN_S": "0",
            "CHECK_INVARIANTS": "true",
        }
        super().__init__("router", command, log, {**settings, **(environ or {})})

    def start(self) -> None:
        """Starts it, and waits until its health says SERVING."""
        super().start()
        wait_until(self._is_serving, 60, "the router serves")

    def _is_serving(self) -> bool:
        assert self.exit_code() is None, f"the router ended:\n{self.output()}"
        return is_serving(self._health_address)

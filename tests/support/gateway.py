"""The simulated gateway for tests: in the test's own loop, or as a process that can be killed."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any, Self

import grpc

from efficientfrontier.simulation.v1 import simulation_pb2 as pb
from efficientfrontier.simulation.v1.simulation_pb2_grpc import GatewaySimulationServiceStub
from services.gateway import FixedMarket, SimulatedGateway
from services.mesh.health import is_serving
from services.mesh.ports import free_port
from tests.support.process import Process
from tests.support.waiting import wait_until

ACCOUNT = "DU1000001"
PRICES = {"SPXL": Decimal(100), "NVDL": Decimal(50), "HOOD": Decimal(20)}
CALL_S = 10


@asynccontextmanager
async def gateway(
    prices: Mapping[str, Any] | None = None, **settings: Any
) -> AsyncIterator[SimulatedGateway]:
    """A gateway with fixed prices on a free port, in the running loop."""
    settings.setdefault("market", FixedMarket(prices or PRICES))
    async with SimulatedGateway(account=ACCOUNT, **settings) as one:
        yield one


class GatewayProcess(Process):
    """`python -m services.gateway` with fixed prices, on ports and a state file of its own.

    After `kill`, `start` runs it again on the same ports and state. Call its control interface
    through `control`, a stub, or through the methods here.
    """

    def __init__(
        self,
        folder: Path,
        prices: Mapping[str, Decimal] | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.port = free_port()
        self.control_port = free_port()
        self.state = folder / "gateway.sqlite"
        shown = ",".join(f"{symbol}={price}" for symbol, price in (prices or PRICES).items())
        settings = {
            "GATEWAY_PORT": str(self.port),
            "GATEWAY_CONTROL_PORT": str(self.control_port),
            "GATEWAY_STATE": str(self.state),
            "GATEWAY_ACCOUNT": ACCOUNT,
            "GATEWAY_MARKET": f"fixed:{shown}",
        }
        log = folder / "gateway.log"
        command = Process.of_module("services.gateway", log=log).command
        super().__init__("gateway", command, log, {**settings, **(environ or {})})
        self._channel: grpc.Channel | None = None

    def start(self) -> None:
        """Starts it, and waits until it serves."""
        super().start()
        wait_until(self._is_serving, 30, "the gateway serves")
        self._channel = grpc.insecure_channel(self.control_address)

    def stop(self, deadline_s: float = 10) -> None:
        """Ends it, by force if need be."""
        self._close_channel()
        super().stop(deadline_s)

    def kill(self) -> None:
        """SIGKILL, and waits until it is gone."""
        self._close_channel()
        super().kill()

    def restart(self) -> Self:
        """Kills it and starts it again."""
        self.kill()
        self.start()
        return self

    @property
    def router_settings(self) -> dict[str, str]:
        """What a router needs to trade LIVE through it, at any hour."""
        return {
            "TRADING_MODE": "LIVE",
            "IBKR_HOST": "127.0.0.1",
            "IBKR_PORT": str(self.port),
            "IBKR_CLIENT_ID": "7",
            "IBKR_ACCOUNT": ACCOUNT,
            "AUTH": "none",
            "OUTSIDE_SESSION": "allow",
        }

    @property
    def control_address(self) -> str:
        """Where its control interface is."""
        return f"127.0.0.1:{self.control_port}"

    @property
    def control(self) -> Any:
        """A stub of its control interface; give calls a `timeout`."""
        assert self._channel is not None, "the gateway does not run"
        return GatewaySimulationServiceStub(self._channel)

    def set_scenario(
        self,
        name: str,
        symbol: str = "",
        times: int = 0,
        *,
        delay_s: float = 0.0,
        held: bool = False,
    ) -> None:
        """Puts a scenario in force."""
        number = pb.SetScenarioRequest.Scenario.Value(name)
        request = pb.SetScenarioRequest(
            scenario=number, symbol=symbol, times=times, delay_s=delay_s, held=held
        )
        self.control.SetScenario(request, timeout=CALL_S)

    def release(self, symbol: str = "") -> int:
        """Lets the orders that wait go on; says how many waited."""
        released: int = self.control.Release(
            pb.ReleaseRequest(symbol=symbol), timeout=CALL_S
        ).released
        return released

    def snapshot(self) -> pb.Snapshot:
        """All that the broker knows."""
        snapshot: pb.Snapshot = self.control.GetSnapshot(pb.GetSnapshotRequest(), timeout=CALL_S)
        return snapshot

    def wait_for(
        self, condition: Callable[[pb.Snapshot], bool], deadline_s: float = 20, what: str = ""
    ) -> pb.Snapshot:
        """Waits until a snapshot fits, and returns it."""

        def fitting() -> pb.Snapshot | None:
            snapshot = self.snapshot()
            return snapshot if condition(snapshot) else None

        found = wait_until(fitting, deadline_s, what)
        assert found is not None
        return found

    def _is_serving(self) -> bool:
        assert self.exit_code() is None, f"the gateway ended:\n{self.output()}"
        return is_serving(self.control_address)

    def _close_channel(self) -> None:
        if self._channel:
            self._channel.close()
            self._channel = None

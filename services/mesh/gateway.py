"""The simulated IB Gateway as a part of the mesh, for rehearsals of LIVE (IBKR_HOST=simulated).

The router and the strategies get its address like any gateway's, and know nothing.
"""

import sys
from pathlib import Path

from services.mesh.child import Child
from services.mesh.ports import LOOPBACK, free_port
from services.mesh.settings import Settings, state_folder


class Gateway:
    """The simulated gateway: where it listens, and its process.

    Attributes:
        port: where the API of Interactive Brokers is spoken: IBKR_PORT, else a free one.
        control_address: where scenarios are set, over gRPC.
    """

    def __init__(self, settings: Settings, logs: Path) -> None:
        self.port = settings.ibkr_port or free_port()
        control_port = settings.gateway_control_port or free_port()
        self.control_address = f"{LOOPBACK}:{control_port}"
        self._settings = settings
        self._state_folder = state_folder(settings)
        self.child = Child(
            "the simulated gateway",
            [sys.executable, "-m", "services.gateway"],
            logs / "gateway.log",
            {
                "GATEWAY_HOST": LOOPBACK,
                "GATEWAY_PORT": str(self.port),
                "GATEWAY_CONTROL_PORT": str(control_port),
                "GATEWAY_STATE": str(self._state_folder / "state.sqlite"),
                "GATEWAY_ACCOUNT": str(settings.ibkr_account),
            },
        )

    def start(self) -> None:
        """Starts it, on the state of the last time, without waiting."""
        self._state_folder.mkdir(parents=True, exist_ok=True)
        self.child.start()

    @property
    def environ(self) -> dict[str, str]:
        """What those who trade through it are told."""
        return {
            "IBKR_HOST": LOOPBACK,
            "IBKR_PORT": str(self.port),
            "IBKR_CLIENT_ID": str(self._settings.ibkr_client_id),
            "IBKR_ACCOUNT": str(self._settings.ibkr_account),
            "AUTH": str(self._settings.auth),
            "OUTSIDE_SESSION": str(self._settings.outside_session),
            "PROMOTION": str(self._settings.promotion),
        }

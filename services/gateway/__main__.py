"""`python -m services.gateway`: the simulated IB Gateway as a process.

Exit code 0 after SIGTERM or Ctrl-C; 1 when it cannot start, with one line that says why.
"""

import asyncio
import logging
import signal
import sys

from pydantic import ValidationError

from services.gateway.control import ControlServer
from services.gateway.server import SimulatedGateway
from services.gateway.settings import Settings
from services.gateway.store import StateFileError


async def serve(settings: Settings) -> None:
    """Runs the gateway until it is told to stop."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    gateway = SimulatedGateway(
        market=settings.open_market(),
        host=settings.host,
        port=settings.port,
        account=settings.account,
        state=settings.state,
        cash=settings.cash,
        spread=settings.spread,
        fill_delay_s=settings.fill_delay_s,
        day_s=settings.day_lasts_s,
    )
    control_address = f"{settings.host}:{settings.control_port}"
    async with gateway, ControlServer(gateway, control_address):
        print(
            f"Simulated IB Gateway ready on {settings.host}:{settings.port}: account "
            f"{settings.account}, {gateway.market.description}, control on {control_address}.",
            flush=True,
        )
        await stop.wait()


def main() -> None:
    """Reads the settings and serves; a set-up that cannot work ends with one clear line."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        asyncio.run(serve(Settings()))
    except ValidationError as error:
        wrong = "; ".join(
            f"GATEWAY_{str(one['loc'][0]).upper()}={one['input']} does not do: {one['msg']}"
            for one in error.errors()
        )
        sys.exit(f"The gateway cannot start. {wrong}.")
    except (StateFileError, ValueError, OSError, RuntimeError) as error:
        sys.exit(f"The gateway cannot start. {error}")


if __name__ == "__main__":
    main()

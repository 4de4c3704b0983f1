"""The screen: the live view when stdout is a terminal, else one plain line a happening."""

import time
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from services.mesh.access import Access
from services.mesh.board import Board
from services.mesh.gateway import Gateway
from services.mesh.settings import Settings
from services.mesh.view import render

REFRESH_S = 0.25


class Screen:
    """Holds the board and shows it. As a context manager, the live view is up meanwhile."""

    def __init__(
        self, board: Board, settings: Settings, access: Access, gateway: Gateway | None = None
    ) -> None:
        self.board = board
        self._access = access
        self._settings = settings
        self._gateway = gateway
        self._console = Console()
        self._live: Live | None = None
        self._shown_s = 0.0

    def __enter__(self) -> Self:
        """Puts the live view up, on a terminal."""
        if self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leaves the last view standing."""
        if self._live:
            self._live.stop()
            self._live = None

    def say(self, note: str) -> None:
        """One thing that happened: below the table, or a plain line."""
        timed = f"{time.strftime('%H:%M:%S')} {note}"
        if self._live:
            self.board = self.board.with_note(timed)
        else:
            print(timed, flush=True)

    def say_ready(self) -> None:
        """Says where everything is, and what the prices are."""
        ready = f"Ready: {self._access.url}/portfolio answers."
        for line in (ready, *self._access.how_to_call(), *self._footer()):
            print(line, flush=True)

    def refresh(self) -> None:
        """Draws the view anew, a few times a second at most."""
        if self._live and time.monotonic() - self._shown_s >= REFRESH_S:
            self._shown_s = time.monotonic()
            self._live.update(render(self.board, self._headline(), self._footer()), refresh=True)

    def _headline(self) -> Text:
        headline = Text("EfficientFrontier Portfolio  ")
        style = "bold magenta" if self._settings.trading_mode == "LIVE" else ""
        headline.append(self._settings.trading_mode, style)
        if self._gateway:
            headline.append("  SIMULATED broker, a rehearsal", "bold yellow")
        return headline.append(f"  {self._access.url}")

    def _footer(self) -> list[str]:
        feed = self._settings.price_feed
        lines = [f"Prices come from {feed}."]
        if feed == "replay":
            lines = ["Prices are replayed history: SAMPLE DATA, not the market."]
        if self._gateway:
            lines = [
                "A rehearsal: the broker and its money are SIMULATED.",
                f"Prices ({feed}) are replayed history: SAMPLE DATA, not the market."
                if feed == "ibkr"
                else lines[0],
                f"Simulated gateway: 127.0.0.1:{self._gateway.port}; what goes wrong is up to you: "
                f"grpcurl -plaintext {self._gateway.control_address} list",
            ]
        return [
            *lines,
            f"Logs: {self._settings.data_dir / 'logs'}. Ctrl-C stops; `make up` goes on from here.",
        ]

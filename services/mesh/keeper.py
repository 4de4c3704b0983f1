"""A keeper: starts a part again when it has ended, after a pause that grows each time."""

from typing import Protocol

from services.mesh.errors import MeshError

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 15.0
STEADY_S = 30.0  # a part that ran this long gets the first pause again


class Part(Protocol):
    """What a keeper keeps: a child, or something made of one."""

    name: str

    def start(self) -> None:
        """Starts it, without waiting."""

    def exit_code(self) -> int | None:
        """None while it runs."""

    def last_words(self) -> str:
        """Its last line."""

    def trim_log(self) -> None:
        """Keeps its log bounded."""


class Keeper:
    """Keeps one part, which has just been started, running."""

    def __init__(self, part: Part, now_s: float) -> None:
        self.part = part
        self._pause_s = FIRST_PAUSE_S
        self._started_s = now_s
        self._due_s: float | None = None

    def look(self, now_s: float) -> str | None:
        """Starts the part when it is due. What happened in words; None if nothing did."""
        if self._due_s is not None:
            if now_s < self._due_s:
                return None
            self._due_s = None
            self._started_s = now_s
            try:
                self.part.start()
            except MeshError as error:
                return f"{self.part.name} does not start: {error}; {self._try_again(now_s)}"
            return f"{self.part.name} is started again"
        if (code := self.part.exit_code()) is None:
            return None
        if now_s - self._started_s > STEADY_S:
            self._pause_s = FIRST_PAUSE_S
        how = ending(code, self.part.last_words())
        return f"{self.part.name} {how}; {self._try_again(now_s)}"

    def _try_again(self, now_s: float) -> str:
        pause_s = self._pause_s
        self._pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
        self._due_s = now_s + pause_s
        return f"again in {pause_s:g} s"


def ending(code: int, words: str) -> str:
    """How a part ended, with its last words."""
    how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
    return f"{how} ({words})" if words and code > 0 else how

"""Files that are read again when they change, so that what is in them is rotated while we run."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import structlog

Value = TypeVar("Value")
Stamp = tuple[tuple[int, int, int], ...]

log = structlog.get_logger()


class BadFileError(Exception):
    """A file is missing, or does not hold what it should; the message says which and what to do."""


class Watched(Generic[Value]):
    """What a set of files says together.

    Asking costs a look at their dates. A set that cannot be used, such as a half-written one, is
    logged once and leaves in force what was read before. May be asked from any thread.
    """

    def __init__(
        self, what: str, paths: Sequence[Path], read: Callable[[Sequence[bytes]], Value]
    ) -> None:
        """Reads them.

        Args:
            what: their name in the log, and in errors.
            paths: the files.
            read: makes the value of their contents, or raises BadFileError.

        Raises:
            BadFileError: They cannot be read.
        """
        self._what = what
        self._paths = paths
        self._read = read
        self._turn = threading.Lock()
        self._warned = ""
        self._seen = self._stamp()
        self._value = read(self._contents())
        self.version = 1  # rises with each change

    def value(self) -> Value:
        """What they say now."""
        with self._turn:
            try:
                stamp = self._stamp()
                if stamp != self._seen:
                    self._take(stamp)
            except BadFileError as error:
                self._warn(str(error))
            else:
                self._warned = ""
            return self._value

    def _take(self, stamp: Stamp) -> None:
        """Reads them anew, unless they change meanwhile: then the next asker does."""
        contents = self._contents()
        if self._stamp() != stamp:
            return
        self._seen = stamp  # usable or not: the same files are not read twice
        self._value = self._read(contents)
        self.version += 1
        log.info("files_read_again", what=self._what)

    def _warn(self, why: str) -> None:
        if why != self._warned:
            log.error(
                "files_not_usable", what=self._what, why=why, next="what was read before holds"
            )
        self._warned = why

    def _stamp(self) -> Stamp:
        try:
            stats = [path.stat() for path in self._paths]
        except OSError as error:
            raise self._unreadable(error) from None
        return tuple((stat.st_ino, stat.st_mtime_ns, stat.st_size) for stat in stats)

    def _contents(self) -> list[bytes]:
        try:
            return [path.read_bytes() for path in self._paths]
        except OSError as error:
            raise self._unreadable(error) from None

    def _unreadable(self, error: OSError) -> BadFileError:
        return BadFileError(
            f"{self._what}: {error.filename} cannot be read ({error.strerror}). Put it there, "
            "readable for the router."
        )

"""A lock on a folder: one holder at a time, freed by the kernel when the holder dies."""

import fcntl
import os
from pathlib import Path


class FolderLock:
    """Holds `FOLDER/NAME.lock`; the file keeps the holder's process id."""

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / f"{name}.lock"
        self._descriptor: int | None = None

    def acquire(self) -> int | None:
        """Takes the lock and returns None; returns the holder's process id when it is taken."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 32)
            os.close(descriptor)
            return int(holder or b"0")
        os.truncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
        self._descriptor = descriptor
        return None

    def release(self) -> None:
        """Frees the lock, if held. The file stays: removing it would race with the next holder."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

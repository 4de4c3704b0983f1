"""A TCP line to a PostgreSQL server that a test can cut and mend."""

import socket
from contextlib import suppress
from threading import Thread
from typing import Self
from urllib.parse import urlsplit, urlunsplit

BUFFER = 65536


class Line:
    """Carries what comes to a port of 127.0.0.1 to the server and back. Runs in threads."""

    def __init__(self, url: str) -> None:
        self._server_url = url
        self._port = 0
        self._listener: socket.socket | None = None
        self._ends: set[socket.socket] = set()
        self._threads: list[Thread] = []

    def __enter__(self) -> Self:
        """Begins to carry."""
        self.mend()
        return self

    def __exit__(self, *_: object) -> None:
        """Ends every connection."""
        self.cut()

    @property
    def url(self) -> str:
        """The database's address through this line."""
        parts = urlsplit(self._server_url)
        user = parts.netloc.rpartition("@")[0]
        host = f"{user}@127.0.0.1:{self._port}"
        return urlunsplit(parts._replace(netloc=host, query=""))

    def mend(self) -> None:
        """Takes connections, on the same port as before."""
        self._listener = socket.create_server(("127.0.0.1", self._port))
        self._port = self._listener.getsockname()[1]
        self._run(self._accept, self._listener)

    def cut(self) -> None:
        """Drops every connection and refuses new ones."""
        if self._listener is not None:
            with suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
            self._listener.close()
            self._listener = None
        for end in list(self._ends):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        self._threads.clear()

    def _run(self, what: object, *ends: socket.socket) -> None:
        thread = Thread(target=what, args=ends, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                here, _ = listener.accept()
                there = self._connect()
                self._ends |= {here, there}
                self._run(self._carry, here, there)
                self._run(self._carry, there, here)

    def _connect(self) -> socket.socket:
        parts = urlsplit(self._server_url)
        if parts.query.startswith("host="):
            there = socket.socket(socket.AF_UNIX)
            there.connect(parts.query.removeprefix("host=") + "/.s.PGSQL.5432")
            return there
        return socket.create_connection((parts.hostname or "", parts.port or 5432))

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        """Carries one way until either end is gone, and then ends the other way too."""
        with suppress(OSError):
            while chunk := source.recv(BUFFER):
                target.sendall(chunk)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        if target not in self._ends:  # both ways are done
            source.close()
            target.close()
        self._ends.discard(source)

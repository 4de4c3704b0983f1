"""A Service of Kubernetes, as the nodes make it: a new connection goes to one of its endpoints."""

import itertools
import socket
import socketserver
import threading
from contextlib import suppress
from typing import Self


class Service:
    """Listens on a free port of 127.0.0.1. `endpoints`, ports there, may change at any time: open
    connections stay where they are.
    """

    def __init__(self) -> None:
        self.endpoints: list[int] = []
        self._open: set[socket.socket] = set()
        turn = itertools.count()

        class Connection(socketserver.BaseRequestHandler):
            def handle(connection) -> None:  # noqa: N805 - `self` is the Service
                port = self.endpoints[next(turn) % len(self.endpoints)]
                with socket.create_connection(("127.0.0.1", port)) as there:
                    ends = {there, connection.request}
                    self._open |= ends
                    back = threading.Thread(target=pass_on, args=(there, connection.request))
                    back.start()
                    pass_on(connection.request, there)
                    back.join()
                    self._open -= ends

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Connection)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        for one in list(self._open):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._server.server_close()  # waits for the threads of connections


def pass_on(source: socket.socket, target: socket.socket) -> None:
    """Copies what comes from one to the other, its end included."""
    with suppress(OSError):
        while piece := source.recv(65536):
            target.sendall(piece)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)

"""A small HTTP server for pages and answers that are made by the test."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[str], tuple[int, str, bytes]]  # of a path: status, content type, body


@contextmanager
def serving(answer: Answer) -> Iterator[str]:
    """Serves on a free port of this machine, and gives its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, answer))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    def __init__(self, answer: Answer, *more: Any) -> None:
        self._answer = answer
        super().__init__(*more)

    def do_GET(self) -> None:
        status, kind, body = self._answer(self.path)
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def log_message(self, *_: Any) -> None:
        """Says nothing."""

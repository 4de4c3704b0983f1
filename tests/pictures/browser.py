"""Debian's chromium without a window, told what to do over its debugging protocol."""

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from websockets.sync.client import ClientConnection, connect

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
START_S = 60
ANSWER_S = 60


class Tab:
    """One page, its console heard."""

    def __init__(self, line: ClientConnection) -> None:
        self._line = line
        self._calls = 0
        self.complaints: list[str] = []  # exceptions, console errors, refusals of the policy
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")
        self._call("Network.setCacheDisabled", cacheDisabled=True)

    def show(self, width: int, height: int, scheme: str) -> None:
        """Makes the page this large, in pixels, and `light` or `dark`."""
        phone = width < 640
        self._call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=phone,
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self._call("Emulation.setEmulatedMedia", features=features)

    def open(self, url: str) -> None:
        """Loads a page to its end."""
        self.complaints.clear()
        answer = self._call("Page.navigate", url=url)
        assert "errorText" not in answer, answer
        self.evaluate(
            "new Promise(done => document.readyState === 'complete' && location.href !== "
            "'about:blank' ? done() : addEventListener('load', () => done()))"
        )

    def evaluate(self, expression: str) -> Any:
        """What a JavaScript expression comes to; a promise is awaited."""
        answer = self._call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        self._calls += 1
        self._line.send(json.dumps({"id": self._calls, "method": method, "params": params}))
        while True:
            heard = json.loads(self._line.recv(timeout=ANSWER_S))
            if heard.get("id") == self._calls:
                assert "error" not in heard, heard
                return dict(heard["result"])
            self._note(heard)

    def _note(self, heard: dict[str, Any]) -> None:
        said = heard["params"]
        if heard["method"] == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(said["exceptionDetails"]))
        elif heard["method"] == "Runtime.consoleAPICalled" and said["type"] != "log":
            self.complaints.append(json.dumps(said["args"]))
        elif heard["method"] == "Log.entryAdded":
            self.complaints.append(json.dumps(said["entry"]))


@contextmanager
def browser(folder: Path) -> Iterator[Tab]:
    """A chromium of our own, which keeps all it writes in `folder` and ends with the block."""
    assert CHROMIUM
    process = subprocess.Popen(
        [
            CHROMIUM,
            "--headless",
            "--no-sandbox",  # it may run as root, on our own pages alone
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--remote-debugging-port=0",
            f"--user-data-dir={folder / 'profile'}",
            "about:blank",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        port = _port(folder / "profile" / "DevToolsActivePort", process)
        with connect(_page_of(port), max_size=None, proxy=None) as line:
            yield Tab(line)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _port(said: Path, process: subprocess.Popen[bytes]) -> int:
    """The port of the debugging protocol, once chromium has written it down."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        assert process.poll() is None, f"chromium ended with {process.returncode}"
        if said.exists() and (lines := said.read_text().split()):
            return int(lines[0])
        time.sleep(0.05)
    raise TimeoutError(f"chromium was not ready within {START_S} s.")


def _page_of(port: int) -> str:
    """Where the open page listens."""
    with urlopen(f"http://127.0.0.1:{port}/json", timeout=ANSWER_S) as answer:
        pages = [one for one in json.load(answer) if one["type"] == "page"]
    return str(pages[0]["webSocketDebuggerUrl"])

"""Starts what is measured: PostgreSQL, the router, Envoy, the peer and the empty server.

All are processes of this machine, on free ports of 127.0.0.1; all databases stand on one
PostgreSQL server with its data in a new folder, and are reached by its unix socket.
"""

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit
from urllib.request import urlopen

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2

from benchmarks.drivers import BenchmarkError
from services.mesh.child import Child
from services.mesh.envoy import Envoy
from services.mesh.postgres import EmbeddedPostgres, programs

READY_S = 60
CHECK = "/grpc.health.v1.Health/Check"
ACCOUNT = "DU1000001"
PEER_POOL_SIZE = 8  # at 64 callers on 2 cores the best of 8, 16 and 64, by one run of 4 s each


class Database:
    """One database, asked through psql: no Python driver works while something is measured."""

    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, statement: str) -> str:
        """Runs one statement and returns its rows as text, columns parted by a bar.

        Raises:
            BenchmarkError: PostgreSQL refused it, in its words.
        """
        return self._psql("--command", statement)

    def run_file(self, path: Path, **variables: int) -> None:
        """Runs a file of statements as one transaction, with psql variables."""
        given = [f"--variable={name}={value}" for name, value in variables.items()]
        self._psql("--single-transaction", *given, "--file", str(path))

    def create(self, name: str) -> "Database":
        """Creates another database on the same server."""
        self.ask(f"CREATE DATABASE {name}")
        return Database(urlunsplit(urlsplit(self.url)._replace(path=f"/{name}")))

    def orders(self) -> int:
        """How many orders there are, when no more come: what a driver left behind may still run."""
        counted = -1
        while counted != (counted := int(self.ask("SELECT count(*) FROM orders"))):
            time.sleep(0.2)
        return counted

    def _psql(self, *what: str) -> str:
        options = ["--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "-vON_ERROR_STOP=1"]
        command = [str(programs() / "psql"), self.url, *options, *what]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        if ran.returncode:
            raise BenchmarkError(f"PostgreSQL refused {what}: {ran.stderr.strip()}")
        return ran.stdout.strip()


@contextmanager
def postgres(folder: Path) -> Iterator[Database]:
    """A new server with its data in `folder`.

    Raises:
        BenchmarkError: it does not make each commit durable.
    """
    server = EmbeddedPostgres(folder / "postgres", folder / "postgres.log")
    try:
        server.start()
        server.wait_ready()
        database = Database(server.url)
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            if database.ask(f"SHOW {setting}") != "on":
                raise BenchmarkError(f"{setting} is not on: orders would not be durable.")
        yield database
    finally:
        server.stop()


@contextmanager
def router(
    database: Database, folder: Path, live: Mapping[str, str] | None = None
) -> Iterator[str]:
    """The router on the database, on PAPER or with the settings of LIVE; its gRPC address."""
    address = f"127.0.0.1:{free_port()}"
    environ = {
        "DATABASE_URL": database.url,
        "ROUTER_ADDRESS": address,
        "METRICS_PORT": "0",
        "LOG_LEVEL": "WARNING",
        **(live or {"TRADING_MODE": "PAPER"}),
    }
    health = "broker" if live else ""

    def is_ready() -> bool:
        return is_serving(address, health)

    with running("router", "services.portfolio", [], environ, folder, is_ready):
        yield address


@contextmanager
def live_router(database: Database, gateway_port: int, folder: Path) -> Iterator[str]:
    """The router that trades LIVE through a gateway on this machine, once it takes orders."""
    settings = {
        "TRADING_MODE": "LIVE",
        "IBKR_HOST": "127.0.0.1",
        "IBKR_PORT": str(gateway_port),
        "IBKR_CLIENT_ID": "1",
        "IBKR_ACCOUNT": ACCOUNT,
        "AUTH": "none",
        "OUTSIDE_SESSION": "allow",
        "PROMOTION": "at_once",
        "LIVE_CAPITAL": "0",  # the strategies that are measured get theirs by hand
    }
    with router(database, folder, settings) as address:
        yield address


@contextmanager
def gateway(folder: Path) -> Iterator[tuple[int, str]]:
    """A simulated gateway where SPXL costs 1 USD; its API's port, and its control address."""
    port, control_port = free_port(), free_port()
    control = f"127.0.0.1:{control_port}"
    environ = {
        "GATEWAY_HOST": "127.0.0.1",
        "GATEWAY_PORT": str(port),
        "GATEWAY_CONTROL_PORT": str(control_port),
        "GATEWAY_STATE": "",
        "GATEWAY_ACCOUNT": ACCOUNT,
        "GATEWAY_CASH": str(10**12),
        "GATEWAY_MARKET": "fixed:SPXL=1",
        "GATEWAY_SPREAD": "0",
        "GATEWAY_FILL_DELAY_S": "0",
    }
    with running("gateway", "services.gateway", [], environ, folder, lambda: is_serving(control)):
        yield port, control


@contextmanager
def bare_broker(gateway_port: int, folder: Path) -> Iterator[str]:
    """The client library with no ledger, on the gateway; its gRPC address."""
    port = free_port()
    arguments = [str(port), str(gateway_port)]
    module = "benchmarks.bare_broker"
    with running("bare broker", module, arguments, {}, folder, lambda: is_open(port)):
        yield f"127.0.0.1:{port}"


@contextmanager
def envoy(router_address: str, folder: Path) -> Iterator[str]:
    """The mesh's Envoy before one router; its URL."""
    door = Envoy(0, [router_address], folder / "envoy", folder)
    try:
        door.start()
        door.wait_ready(READY_S)
        yield f"http://127.0.0.1:{door.port}"
    finally:
        door.stop()


@contextmanager
def peer(database: Database, folder: Path) -> Iterator[str]:
    """The peer on the database, in one process as the router is; its URL."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    arguments = [
        *("benchmarks.peer.app:create", "--factory", f"--port={port}", "--workers=1"),
        *("--loop=uvloop", "--http=httptools", "--no-access-log", "--log-level=warning"),
    ]
    environ = {
        "PEER_DATABASE_URL": database.url.replace("postgresql:", "postgresql+asyncpg:", 1),
        "PEER_POOL_SIZE": str(PEER_POOL_SIZE),
    }
    with running("peer", "uvicorn", arguments, environ, folder, lambda: answers(f"{url}/orders")):
        yield url


@contextmanager
def empty_server(folder: Path) -> Iterator[str]:
    """The gRPC server that does nothing; its address."""
    port = free_port()
    module = "benchmarks.empty_server"
    with running("empty server", module, [str(port)], {}, folder, lambda: is_open(port)):
        yield f"127.0.0.1:{port}"


@contextmanager
def running(
    name: str,
    module: str,
    arguments: list[str],
    environ: Mapping[str, str],
    folder: Path,
    is_ready: Callable[[], bool],
) -> Iterator[None]:
    """A process of this Python, from when it is ready until the end of the block.

    Raises:
        BenchmarkError: it ended, with its last words, or was not ready in time.
    """
    log = folder / f"{name}-{time.monotonic_ns()}.log"
    child = Child(name, [sys.executable, "-m", module, *arguments], log, environ)
    child.start()
    try:
        give_up = time.monotonic() + READY_S
        while not is_ready():
            if child.exit_code() is not None:
                raise BenchmarkError(f"The {name} did not start: {child.last_words()}")
            if time.monotonic() > give_up:
                raise BenchmarkError(f"The {name} was not ready after {READY_S} s.")
            time.sleep(0.05)
        yield
    finally:
        child.stop()


def is_serving(address: str, service: str = "") -> bool:
    """Whether the server's grpc.health.v1 says SERVING of a service, or of the server."""
    with grpc.insecure_channel(address) as channel:
        try:
            answer = call(channel, CHECK, health_pb2.HealthCheckRequest(service=service))
        except grpc.RpcError:
            return False
    status = health_pb2.HealthCheckResponse.FromString(answer).status
    return bool(status == health_pb2.HealthCheckResponse.SERVING)


def call(channel: grpc.Channel, method: str, message: Message) -> bytes:
    """Calls a unary method and returns the answer's bytes."""
    unary: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method)
    return unary(message.SerializeToString(), timeout=30)


def answers(url: str) -> bool:
    """Whether a GET of the URL succeeds."""
    try:
        with urlopen(url, timeout=5):
            return True
    except OSError:
        return False


def is_open(port: int) -> bool:
    """Whether somebody listens on the port of 127.0.0.1."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port

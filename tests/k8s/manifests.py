"""The manifests as a cluster gets them: rendered by the real kustomize, and read by meaning."""

import functools
import subprocess
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
K8S = ROOT / "k8s"
KUBECTL = Path(sysconfig.get_path("scripts")) / "kubectl"
OVERLAYS = ("base", "overlays/live", "overlays/mtls", "overlays/ha", "overlays/live-ha")
NAMESPACE = "efficientfrontier"
STRATEGIES = ("spxl", "ptir", "nvdl", "hood", "avl")
Object = dict[str, Any]


@functools.cache
def rendered(folder: str) -> tuple[Object, ...]:
    """All objects of a kustomization below k8s/."""
    made = subprocess.run(
        [KUBECTL, "kustomize", str(K8S / folder)], capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stderr
    return tuple(yaml.load_all(made.stdout, yaml.CSafeLoader))  # ten times as fast


def by_name(objects: tuple[Object, ...]) -> dict[tuple[str, str], Object]:
    """Objects by kind and name."""
    return {(one["kind"], one["metadata"]["name"]): one for one in objects}


@dataclass(frozen=True)
class Workload:
    """What makes pods: its kind and name, and the pod that it makes."""

    kind: str
    name: str
    labels: Mapping[str, str]
    pod: Object

    @property
    def containers(self) -> list[Object]:
        """Its containers, those that run first included."""
        return [*self.pod.get("initContainers", []), *self.pod["containers"]]

    def container(self, name: str) -> Object:
        """The container of this name."""
        (found,) = [one for one in self.containers if one["name"] == name]
        return found

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}"


def workloads(objects: tuple[Object, ...]) -> Iterator[Workload]:
    """All that make pods. (CloudNativePG's Cluster makes its own: see `database_pod_labels`.)"""
    for one in objects:
        spec = one.get("spec", {})
        if one["kind"] == "CronJob":
            spec = spec["jobTemplate"]["spec"]
        template = spec.get("template")
        if template:
            labels = template["metadata"]["labels"]
            yield Workload(one["kind"], one["metadata"]["name"], labels, template["spec"])


def workload(objects: tuple[Object, ...], name: str) -> Workload:
    """The one of this name."""
    (found,) = [one for one in workloads(objects) if one.name == name]
    return found


def env(container: Object) -> dict[str, str | None]:
    """The plain values of a container's environment; None for those from a Secret."""
    return {entry["name"]: entry.get("value") for entry in container.get("env", [])}


def secret_refs(one: Workload) -> Iterator[tuple[str, str]]:
    """Each Secret and key that the environment of a workload takes."""
    for container in one.containers:
        for entry in container.get("env", []):
            if "valueFrom" in entry:
                ref = entry["valueFrom"]["secretKeyRef"]
                yield ref["name"], ref["key"]


def matches(selector: Object, labels: Mapping[str, str]) -> bool:
    """Whether a label selector chooses these labels. An empty one chooses everything."""
    wanted = selector.get("matchLabels", {})
    if any(labels.get(key) != value for key, value in wanted.items()):
        return False
    for expression in selector.get("matchExpressions", []):
        assert expression["operator"] == "In", "the only operator in use"
        if labels.get(expression["key"]) not in expression["values"]:
            return False
    return True

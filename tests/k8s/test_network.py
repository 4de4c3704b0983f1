"""Who reaches whom, computed from the NetworkPolicies as Kubernetes defines them.

A connection needs the word of both ends: of a policy with Egress that chooses the caller, and of
one with Ingress that chooses the called; a pod that no policy of a direction chooses is open in it.
"""

import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import permutations

import pytest

from tests.k8s.manifests import (
    NAMESPACE,
    OVERLAYS,
    STRATEGIES,
    Object,
    matches,
    rendered,
    workloads,
)

INTERNET, PRIVATE, METADATA = "93.184.215.14", "10.0.0.7", "169.254.169.254"
PORTS = (
    53,
    80,
    443,
    4000,
    4001,
    4003,
    4004,
    5432,
    6443,
    8000,
    8001,
    8443,
    9187,
    9464,
    9901,
    9902,
    16443,
    50051,
    50052,
)


@dataclass(frozen=True)
class Place:
    """An end of a connection: a pod, by its labels and its namespace's, or an address."""

    name: str
    namespace: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    namespace_labels: tuple[tuple[str, str], ...] = ()
    address: str = ""


def pod(name: str, labels: Mapping[str, str], namespace: str = NAMESPACE, **also: str) -> Place:
    """A pod; `also`: labels of its namespace."""
    of_namespace = {"kubernetes.io/metadata.name": namespace, **also}
    return Place(name, namespace, tuple(labels.items()), tuple(of_namespace.items()))


OUTSIDE = (
    pod("dns", {"k8s-app": "kube-dns"}, "kube-system"),
    pod("another in kube-system", {"k8s-app": "other"}, "kube-system"),
    pod("prometheus", {"app.kubernetes.io/name": "prometheus"}, "monitoring"),
    pod("notebook", {}, "notebooks", **{"efficientfrontier-access": "true"}),
    pod("stranger", {"app": "efficientfrontier", "component": "router"}, "default"),
    pod("operator", {"app.kubernetes.io/name": "cloudnative-pg"}, "cnpg-system"),
    Place("internet", address=INTERNET),
    Place("private network", address=PRIVATE),
    Place("node's metadata", address=METADATA),
)


def places(folder: str) -> list[Place]:
    """One pod of each part, and some that are elsewhere."""
    found = {}
    for one in workloads(rendered(folder)):
        name = one.labels["component"]
        found[name if name != "strategy" else f"strategy {one.labels['strategy']}"] = one.labels
    if "ha" in folder:
        (cluster,) = [one for one in rendered(folder) if one["kind"] == "Cluster"]
        # The operator's own labels. Its Jobs, which make an instance, inherit none of ours.
        own = {"cnpg.io/cluster": cluster["metadata"]["name"]}
        found["postgres"] = cluster["spec"]["inheritedMetadata"]["labels"] | own
        found["joining"] = own | {"cnpg.io/jobRole": "join"}
    return [*(pod(name, labels) for name, labels in found.items()), *OUTSIDE]


def reaches(policies: list[Object], caller: Place, called: Place, port: int) -> bool:
    """Whether a TCP connection from one to the other is let through."""
    return allows(policies, "Egress", caller, called, port) and allows(
        policies, "Ingress", called, caller, port
    )


def allows(policies: list[Object], way: str, own: Place, peer: Place, port: int) -> bool:
    """Whether the policies of one end let it speak with the other."""
    if own.namespace != NAMESPACE:
        return True  # other namespaces' policies are not ours
    choosing = [
        policy["spec"]
        for policy in policies
        if way in policy["spec"]["policyTypes"]
        and matches(policy["spec"]["podSelector"], dict(own.labels))
    ]
    rules = [rule for spec in choosing for rule in spec.get(way.lower(), [])]
    return not choosing or any(rule_allows(rule, way, peer, port) for rule in rules)


def rule_allows(rule: Object, way: str, peer: Place, port: int) -> bool:
    """Whether one rule of a policy allows this peer on this port."""
    ports = [one["port"] for one in rule.get("ports", []) if one["protocol"] == "TCP"]
    if ports and port not in ports:
        return False
    peers = rule.get("to" if way == "Egress" else "from")
    return peers is None or any(is_peer(one, peer) for one in peers)


def is_peer(described: Object, peer: Place) -> bool:
    """Whether a peer of a rule is this one."""
    if "ipBlock" in described:
        if not peer.address:
            return False  # pods' addresses are of the cluster: private ones
        address = ipaddress.ip_address(peer.address)
        block = described["ipBlock"]
        return address in ipaddress.ip_network(block["cidr"]) and not any(
            address in ipaddress.ip_network(other) for other in block.get("except", [])
        )
    if peer.address:
        return False
    if "namespaceSelector" in described:
        if not matches(described["namespaceSelector"], dict(peer.namespace_labels)):
            return False
    elif peer.namespace != NAMESPACE:
        return False
    return matches(described.get("podSelector", {}), dict(peer.labels))


def connections(folder: str) -> Iterator[tuple[str, str, int]]:
    """All that is let through, with one of our pods at one end; names left out."""
    policies = [one for one in rendered(folder) if one["kind"] == "NetworkPolicy"]
    everybody = places(folder)
    for caller in everybody:
        for called in everybody:
            if caller is called or NAMESPACE not in {caller.namespace, called.namespace}:
                continue
            for port in PORTS:
                if port != 53 and reaches(policies, caller, called, port):
                    yield kind(caller), kind(called), port


def kind(place: Place) -> str:
    """The strategies are one kind."""
    return place.name.partition(" ")[0] if place.name.startswith("strategy") else place.name


BASE = {
    ("strategy", "envoy", 8000),
    ("notebook", "envoy", 8000),
    ("prometheus", "envoy", 9902),
    ("prometheus", "router", 9464),
    ("envoy", "router", 50051),
    ("router", "postgres", 5432),
    ("backup", "postgres", 5432),
}
# The API server is no pod; what asks it may speak to any address on its two ports.
ANYWHERE = {
    "dns", "another in kube-system", "prometheus", "notebook", "stranger", "operator",
    "internet", "private network", "node's metadata",
}  # fmt: skip
API_SERVER = (443, 6443, 8443, 16443)
PASSWORD = {("password", place, port) for place in ANYWHERE for port in API_SERVER}
LIVE = {
    *((part, "gateway", port) for part in ("router", "strategy") for port in (4003, 4004)),
    *(("gateway", "internet", port) for port in (443, 4000, 4001)),
}
INSTANCES = ("postgres", "joining")
HA = {
    *(("operator", one, port) for one in INSTANCES for port in (5432, 8000)),
    *(("prometheus", one, 9187) for one in INSTANCES),
    *((one, place, port) for one in INSTANCES for place in ANYWHERE for port in API_SERVER),
    *((one, other, port) for one, other in permutations(INSTANCES) for port in (5432, 8000)),
}
EXPECTED = {
    "base": BASE | PASSWORD,
    "overlays/mtls": BASE | PASSWORD,
    "overlays/live": BASE | PASSWORD | LIVE,
    "overlays/ha": BASE | HA,
    "overlays/live-ha": BASE | LIVE | HA,
}


@pytest.mark.parametrize("folder", OVERLAYS)
def test_nobody_reaches_anybody_but_who_should(folder: str) -> None:
    assert set(connections(folder)) == EXPECTED[folder]


@pytest.mark.parametrize("folder", OVERLAYS)
def test_every_pod_may_ask_for_names_and_only_the_one_who_knows_them(folder: str) -> None:
    policies = [one for one in rendered(folder) if one["kind"] == "NetworkPolicy"]
    dns, other = OUTSIDE[:2]
    on_the_node = Place("NodeLocal DNSCache", address="169.254.20.10")
    for place in places(folder):
        if place.namespace == NAMESPACE:
            assert reaches(policies, place, dns, 53), place
            assert reaches(policies, place, on_the_node, 53), place
            assert not reaches(policies, place, Place("metadata", address=METADATA), 53), place
            assert not reaches(policies, place, other, 53), place


@pytest.mark.parametrize("folder", OVERLAYS)
def test_a_pod_that_no_policy_knows_reaches_nobody_and_is_reached_by_nobody(folder: str) -> None:
    policies = [one for one in rendered(folder) if one["kind"] == "NetworkPolicy"]
    new = pod("new", {"app": "something"})
    for place in places(folder):
        for port in PORTS:
            assert port == 53 or not reaches(policies, new, place, port), (place, port)
            assert not reaches(policies, place, new, port), (place, port)


def test_each_strategy_is_looked_at() -> None:
    names = {place.name for place in places("base")}

    assert {f"strategy {name}" for name in STRATEGIES} < names

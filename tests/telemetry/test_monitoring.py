"""What k8s/components/monitoring holds: alerts, dashboard, and what Prometheus scrapes."""

import asyncio
import itertools
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from prometheus_client import CollectorRegistry, generate_latest

from services.portfolio.domain.order import Mode, Status
from services.portfolio.domain.reconciliation import SymbolRow
from services.portfolio.domain.weather import BrokerState, Weather
from services.portfolio.live.gate import Session
from services.portfolio.live.ports import Seen
from services.portfolio.storage.memory import MemoryLedger
from services.portfolio.storage.memory_risk import MemoryRiskReads
from services.portfolio.telemetry.figures import Figures
from services.portfolio.telemetry.ports import Connections, Reading, Standbys, StrategyFigures
from tests.telemetry.conftest import Watched
from tests.telemetry.scrape import Scrape, labels_by_name

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "k8s/components/monitoring"
RULES = yaml.safe_load((FOLDER / "rules.yaml").read_text())
TESTS = yaml.safe_load((FOLDER / "rules.test.yaml").read_text())
ALERTS = [rule for group in RULES["groups"] for rule in group["rules"]]
DASHBOARD = json.loads((FOLDER / "efficientfrontier.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
# Of other programs: the cluster's own figures.
FOREIGN = {
    "kube_cronjob_status_last_successful_time": {"namespace", "cronjob"},
    "kube_cronjob_created": {"namespace", "cronjob"},
}
ADDED = {"pod", "namespace"}  # by Prometheus, to what it scrapes from a pod
NAME = re.compile(r"\b(?:portfolio|envoy|kube|process)_[a-z0-9_]+\b")
MATCHED = re.compile(r"\b((?:portfolio|envoy|kube|process)_[a-z0-9_]+)\{([^}]*)\}")
MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
GROUPED = re.compile(r"\bby \(([^)]*)\)")

promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="needs promtool: Debian's package `prometheus`"
)


def expressions() -> Iterator[tuple[str, str]]:
    """Every PromQL expression, with what it is of."""
    for alert in ALERTS:
        yield alert["alert"], alert["expr"]
    for panel in PANELS:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]


def names_in(expression: str) -> set[str]:
    """The metrics that an expression asks for; what stands in braces and after `by` are labels."""
    return set(NAME.findall(GROUPED.sub("", re.sub(r"\{[^}]*\}", "", expression))))


class FullReads:
    """A ledger that has something of everything, as a LIVE router with standbys would."""

    async def reading(self) -> Reading:
        strategy = StrategyFigures(
            "S",
            Mode.LIVE,
            is_halted=False,
            is_silent=False,
            cash_usd=1.0,
            equity_usd=2.0,
            seen_s=3.0,
            max_drawdown=0.5,
            number=0,
            growth=Decimal(1),
        )
        return Reading(
            [strategy],
            is_halted=False,
            reserve_usd={Mode.PAPER: 1.0},
            open_orders={(Mode.LIVE, Status.UNKNOWN): 1},
            oldest_unknown_s=1.0,
            compared_s=1.0,
            unallocated_usd=1.0,
            standbys=Standbys(1, are_waited_for=True, lag_s=0.1),
            ping_s=0.001,
        )

    def connections(self) -> Connections:
        return Connections(1, 1)


def of_a_full_ledger() -> Scrape:
    """What a router that lacks nothing shows of what it has read."""
    row = SymbolRow("SPXL", Decimal(1), Decimal(0), Decimal(0))
    now = datetime(2026, 1, 5, 15, tzinfo=UTC)
    seen = Seen(Weather(BrokerState.CONNECTED, now), {"SPXL": row})
    figures = Figures(
        FullReads(),
        MemoryRiskReads(MemoryLedger()),
        lambda: seen,
        lambda: now,
        trading_mode=Mode.LIVE,
        session=Session([now], [now.replace(hour=20)]),
        every_s=1,
    )

    async def read() -> None:
        await figures.read()
        await figures.read()  # the drawdown of the whole comes with the next reading

    asyncio.run(read())
    registry = CollectorRegistry()
    registry.register(figures)
    return Scrape.read(generate_latest(registry).decode())


@pytest.fixture(scope="module")
def exported(watched: Watched) -> dict[str, list[dict[str, str]]]:
    """The labels of every series that routers and Envoy export, by name."""
    refused = requests.get(f"{watched.rest_url}/portfolio/Nobody", timeout=10)
    assert refused.status_code == 404
    port = watched.envoy.metrics_port
    assert port
    scrapes = [
        Scrape.of(watched.metrics_port),
        Scrape.of(port, "/stats/prometheus"),
        of_a_full_ledger(),
    ]
    return labels_by_name(scrapes)


def test_alerts_and_dashboard_ask_for_what_is_exported_by_the_labels_it_has(
    exported: dict[str, list[dict[str, str]]],
) -> None:
    for owner, expression in expressions():
        names = names_in(expression) - set(FOREIGN)
        for name in names:
            assert name in exported, f"{owner} asks for {name}, which nobody exports"
        for name, inside in MATCHED.findall(expression):
            matched = {label for label, _, _ in MATCHER.findall(inside)}
            has = FOREIGN.get(name) or {*exported[name][0], *ADDED}
            assert matched <= has, f"{owner} picks {name} by {matched - has}"
        grouped = {
            label.strip() for labels in GROUPED.findall(expression) for label in labels.split(",")
        }
        known = {label for name in names for labels in exported[name] for label in labels}
        assert grouped <= known | ADDED, f"{owner} groups by {grouped - known}"


def test_alerts_and_dashboard_pick_values_that_labels_really_take(
    exported: dict[str, list[dict[str, str]]],
) -> None:
    for owner, expression in expressions():
        for name, inside in MATCHED.findall(expression):
            for label, operator, wanted in MATCHER.findall(inside):
                # Codes and reasons show once they have happened; classes of answers always.
                if name in FOREIGN or label in {"code", "reason", *ADDED} or "$" in wanted:
                    continue
                taken = {labels[label] for labels in exported[name]}
                choices = wanted.split("|") if operator == "=~" else [wanted]
                assert set(choices) <= taken, f"{owner}: {label} of {name} is never {wanted}"


def test_the_reasons_that_alerts_pick_are_in_the_contract() -> None:
    contract = (ROOT / "protos/efficientfrontier/v1/error_reason.proto").read_text()
    for _, expression in expressions():
        for wanted in re.findall(r'reason=~"([^"]*)"', expression):
            for reason in wanted.split("|"):
                assert f" {reason} = " in contract or f"_{reason} = " in contract, reason


def test_prometheus_keeps_of_envoy_what_is_asked_for() -> None:
    monitors = list(yaml.safe_load_all((FOLDER / "podmonitors.yaml").read_text()))
    (envoy,) = (one for one in monitors if one["metadata"]["name"].endswith("envoy"))
    (endpoint,) = envoy["spec"]["podMetricsEndpoints"]
    (keep,) = (one["regex"] for one in endpoint["metricRelabelings"] if one["action"] == "keep")
    for owner, expression in expressions():
        for name in names_in(expression):
            if name.startswith("envoy_"):
                assert re.fullmatch(keep, name), f"{owner} asks for {name}, which is not kept"


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: str(alert["alert"]))
def test_each_alert_says_what_it_means_and_what_to_do(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in {"critical", "warning"}
    assert alert["annotations"]["summary"].endswith(".")
    assert len(alert["annotations"]["description"]) > 40
    tested = json.dumps(TESTS)
    assert alert["alert"] in tested, "rules.test.yaml does not test it"


def test_alerts_have_names_of_their_own() -> None:
    names = [alert["alert"] for alert in ALERTS]
    assert len(set(names)) == len(names)


def test_the_operators_rules_are_fresh() -> None:
    subprocess.run([sys.executable, str(FOLDER / "generate.py"), "--check"], check=True)
    rule = yaml.safe_load((FOLDER / "prometheusrule.yaml").read_text())
    assert rule["kind"] == "PrometheusRule"
    assert rule["spec"] == RULES


@promtool
@pytest.mark.parametrize(
    "arguments", [("check", "rules", "rules.yaml"), ("test", "rules", "rules.test.yaml")]
)
def test_promtool_agrees(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(
        ["promtool", *arguments],
        cwd=FOLDER,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboard_is_one_that_grafana_takes() -> None:
    assert DASHBOARD["uid"] == "efficientfrontier"
    assert DASHBOARD["schemaVersion"] >= 39
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    variables = {each["name"]: each for each in DASHBOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    for panel in PANELS:
        assert panel["title"]
        assert panel["type"] in {"timeseries", "stat"}
        for each in (panel, *panel["targets"]):
            assert each["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        refs = [target["refId"] for target in panel["targets"]]
        assert len(set(refs)) == len(refs) > 0
    used = set(re.findall(r"\$\{?([a-z]\w*)", json.dumps(PANELS))) - {"__rate_interval"}
    assert used == set(variables)


def test_no_panel_of_the_dashboard_lies_on_another() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = set(
            itertools.product(range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"]))
        )
        assert not cells & taken, panel["title"]
        taken |= cells


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The base with both components, by kustomize."""
    folder = tmp_path_factory.mktemp("kustomize") / "k8s"
    shutil.copytree(ROOT / "k8s", folder)
    overlay = folder / "overlays/watched"
    overlay.mkdir()
    (overlay / "kustomization.yaml").write_text(
        yaml.safe_dump(
            {
                "apiVersion": "kustomize.config.k8s.io/v1beta1",
                "kind": "Kustomization",
                "resources": ["../../base"],
                "components": [
                    "../../components/monitoring",
                    "../../components/monitoring/tracing",
                ],
            }
        )
    )
    kubectl = Path(sys.executable).with_name("kubectl")
    done = subprocess.run(
        [str(kubectl), "kustomize", str(overlay)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [one for one in yaml.safe_load_all(done.stdout) if one]


def test_prometheus_finds_the_ports_of_routers_and_envoys(rendered: list[dict[str, Any]]) -> None:
    pods = [
        (one["spec"]["template"]["metadata"]["labels"], one["spec"]["template"]["spec"])
        for one in rendered
        if one["kind"] == "Deployment"
    ]
    monitors = [one for one in rendered if one["kind"] == "PodMonitor"]
    assert len(monitors) == 2
    for monitor in monitors:
        wanted = monitor["spec"]["selector"]["matchLabels"].items()
        (found,) = (spec for labels, spec in pods if wanted <= labels.items())
        (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
        ports = [port["name"] for each in found["containers"] for port in each.get("ports", ())]
        assert endpoint["port"] in ports


def test_grafana_finds_the_dashboard(rendered: list[dict[str, Any]]) -> None:
    (found,) = (
        one
        for one in rendered
        if one["kind"] == "ConfigMap" and one["metadata"]["labels"].get("grafana_dashboard") == "1"
    )
    assert json.loads(found["data"]["efficientfrontier.json"]) == DASHBOARD


def test_traces_find_their_way_to_the_collector(rendered: list[dict[str, Any]]) -> None:
    (service,) = (one for one in rendered if one["metadata"]["name"] == "otel-collector")
    assert service["spec"]["type"] == "ExternalName"
    for one in rendered:
        if one["kind"] == "Deployment":
            labels = one["spec"]["template"]["metadata"]["labels"]
            (container, *_) = one["spec"]["template"]["spec"]["containers"]
            environ = {each["name"]: each.get("value") for each in container.get("env", ())}
            traced = labels["component"] in {"router", "strategy"}
            endpoint = "http://otel-collector:4317" if traced else None
            assert environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") == endpoint
    config = yaml.safe_load((ROOT / "envoy/envoy.yaml").read_text())
    (cluster,) = (c for c in config["static_resources"]["clusters"] if c["name"] == "collector")
    address = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]
    assert address["socket_address"] == {"address": "otel-collector", "port_value": 4317}
    (policy,) = (one for one in rendered if one["metadata"]["name"] == "traces")
    assert policy["spec"]["egress"][0]["ports"] == [{"protocol": "TCP", "port": 4317}]

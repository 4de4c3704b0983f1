"""k8s/README.md: each command is walked as far as it goes without a cluster."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.k8s.manifests import K8S, KUBECTL, OVERLAYS, ROOT, by_name, rendered

README = (K8S / "README.md").read_text()
KINDS = {
    "deployment": "Deployment",
    "service": "Service",
    "cronjob": "CronJob",
    "secret": "Secret",
    "job": "Job",
}
MADE_BY_THE_TEXT = {"backup-now", "copying", "moving", "restore"}  # Jobs


def commands() -> list[str]:
    """Each command of each block, lines that continue joined; loops and pipes as they stand."""
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    joined = [re.sub(r"(\\|\|)\n\s+", r"\1 ", block).replace("\\ ", " ") for block in blocks]
    return [line.strip() for block in joined for line in block.splitlines()]


def kubectl(arguments: str, given: str = "") -> str:
    """Runs kubectl with what needs no cluster."""
    done = subprocess.run(
        [KUBECTL, *shlex.split(arguments)],
        input=given,
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_there_are_commands_for_each_thing_that_people_do() -> None:
    everything = "\n".join(commands())

    for word in (
        "docker build",
        "kind load",
        "apply -f",
        "apply -k",
        "port-forward",
        "logs",
        "rollout",
    ):
        assert word in everything, word


def test_each_file_and_folder_that_a_command_names_is_there() -> None:
    named = re.findall(r"(?:-f|-k) ((?:k8s|services)/[^\s`]+)", README)

    assert len(named) >= 8
    for path in named:
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", README))
def test_each_link_leads_somewhere(target: str) -> None:
    assert target.startswith("https://") or (K8S / target).exists()


def test_each_folder_that_is_applied_can_be_rendered() -> None:
    for folder in re.findall(r"apply -k k8s/(\S+)", README):
        assert folder in OVERLAYS
        assert rendered(folder)


def test_each_object_that_a_command_names_is_in_the_manifests() -> None:
    everything = {name for folder in OVERLAYS for name in by_name(rendered(folder))}
    secrets = {
        one["spec"]["secretName"]
        for one in rendered("overlays/live")
        if one["kind"] == "Certificate"
    }
    secrets |= {
        "efficientfrontier-postgres",
        "efficientfrontier-ib-login",
        "efficientfrontier-ibkr",
    }
    found = re.findall(
        r"\b(deployment|service|cronjob|job|secret)[/ ]([a-z][a-z0-9-]+)", "\n".join(commands())
    )

    assert len(found) > 15
    for kind, name in found:
        if (kind == "job" and name in MADE_BY_THE_TEXT) or name == "generic":
            continue
        assert name in secrets if kind == "secret" else (KINDS[kind], name) in everything, (
            kind,
            name,
        )


def test_each_selector_of_a_command_finds_something() -> None:
    labels = [one["metadata"]["labels"] for one in rendered("base")]
    for selector in re.findall(r" -l (app=\S+|component=\S+)", README):
        wanted = dict(pair.split("=") for pair in selector.split(","))
        assert any(wanted.items() <= one.items() for one in labels), selector


def test_each_wait_and_log_is_of_something_that_an_earlier_line_made_or_stopped() -> None:
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL):
        made = set(re.findall(r"create job (\S+)", block))
        assert set(re.findall(r"logs job/([a-z-]+)", block)) <= made, block
        if "create job restore" in block and "scale" in block:  # it refuses while routers run
            stops, waits, restores = (
                block.index(step) for step in ("--replicas=0", "--for=delete", "create job restore")
            )
            assert stops < waits < restores


def test_what_ha_leaves_of_base_is_removed_by_name() -> None:
    left = by_name(rendered("base")).keys() - by_name(rendered("overlays/ha")).keys()
    removed = {
        (kind, name)
        for kinds, name in re.findall(r"delete ([a-z,]+) ([a-z-]+)", "\n".join(commands()))
        for kind in kinds.split(",")
    }
    short = {"poddisruptionbudget": "pdb"}

    assert len(left) == 8
    for kind, name in left:
        assert (short.get(kind.lower(), kind.lower()), name) in removed, (kind, name)


def test_the_images_that_are_built_are_those_that_run() -> None:
    built = set(re.findall(r"docker build -t (\S+)", README))

    assert built == {"portfolio_efficientfrontier:latest", "incredibleleverage:$s"}


def test_the_users_secrets_are_made_with_the_keys_that_are_read() -> None:
    made = {}
    for command in commands():
        if "create secret generic" in command:
            plain = re.sub(r"--from-file=(\w+)=<\([^)]*\)", r"--from-literal=\1=x", command)
            arguments = plain.removeprefix("kubectl ") + " --dry-run=client -o yaml"
            secret = yaml.safe_load(kubectl(arguments))
            made[secret["metadata"]["name"]] = set(secret["data"])

    assert made == {
        "efficientfrontier-ib-login": {"userid", "password"},
        "efficientfrontier-ibkr": {"account"},
    }


def restore_job() -> str:
    """What `kubectl create job --from=cronjob/...` makes, which only a cluster can do."""
    cron_job = by_name(rendered("base"))["CronJob", "efficientfrontier-restore"]
    return yaml.safe_dump(
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": "restore", "namespace": "efficientfrontier"},
            "spec": cron_job["spec"]["jobTemplate"]["spec"],
        }
    )


def steps(start: str) -> list[str]:
    """The parts of the pipe that begins with this."""
    (command,) = [command for command in commands() if command.startswith(start) and "|" in command]
    return [part.strip() for part in re.split(r"\|(?= kubectl)", command)]


def test_another_backup_is_chosen_as_the_text_says() -> None:
    _, change, apply = steps("kubectl -n efficientfrontier create job restore ")

    changed = yaml.safe_load(kubectl(change.removeprefix("kubectl "), restore_job()))

    (container,) = changed["spec"]["template"]["spec"]["containers"]
    values = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert values["BACKUP"] == "efficientfrontier-20261122T023000Z.dump"
    assert values["BACKUPS"] == "/backups"
    assert apply == "kubectl apply -f -"


def test_a_pod_to_copy_from_is_made_as_the_text_says() -> None:
    _, change, _ = steps("kubectl -n efficientfrontier create job copying ")

    changed = yaml.safe_load(kubectl(change.removeprefix("kubectl "), restore_job()))

    (container,) = changed["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["sleep", "600"]


def test_the_lines_for_real_money_are_where_the_text_says() -> None:
    component = K8S / "components" / "live"

    assert "{name: TRADING_MODE, value: paper}" in (component / "gateway.yaml").read_text()
    for name in ("router.yaml", "kustomization.yaml"):
        assert '{name: IBKR_PORT, value: "4004"}' in (component / name).read_text()


@pytest.mark.parametrize(
    "extra", [["yahoo"], ["monitoring"], ["mtls", "yahoo", "ha", "monitoring"]]
)
def test_another_mixture_is_six_lines(extra: list[str], tmp_path: Path) -> None:
    up = "../" * (len(tmp_path.resolve().parts) - 1)
    root = f"{up}{str(K8S).lstrip('/')}"
    mixture = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [f"{root}/base"],
        "components": [f"{root}/components/{name}" for name in extra],
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(mixture))

    made = list(yaml.safe_load_all(kubectl(f"kustomize {tmp_path}")))

    kinds = {one["kind"] for one in made}
    assert ("PodMonitor" in kinds) is ("monitoring" in extra)
    strategy = by_name(tuple(made))["Deployment", "incredibleleverage-spxl"]
    (container,) = strategy["spec"]["template"]["spec"]["containers"]
    feed = {entry["name"]: entry["value"] for entry in container["env"]}["PRICE_FEED"]
    assert feed == ("yahoo" if "yahoo" in extra else "replay")

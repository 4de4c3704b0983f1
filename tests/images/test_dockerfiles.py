"""The Dockerfiles as they are written: what needs no build."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.images.workshop import ROOT, dockerfile

SERVICES = ("portfolio", "strategy")


@pytest.mark.parametrize("service", SERVICES)
def test_hadolint_finds_nothing_and_is_told_to_overlook_nothing(service: str) -> None:
    path = ROOT / "services" / service / "Dockerfile"
    hadolint = Path(sys.executable).with_name("hadolint")
    ran = subprocess.run([hadolint, path], capture_output=True, text=True, check=False, timeout=60)
    assert ran.returncode == 0, ran.stdout
    assert "hadolint" not in path.read_text()
    assert not list(ROOT.glob(".hadolint*"))


@pytest.mark.parametrize("service", SERVICES)
def test_both_stages_stand_on_one_base_of_an_exact_version(service: str) -> None:
    text = dockerfile(service)
    assert re.findall(r"^ARG BASE=(.*)$", text, re.MULTILINE) == ["python:3.11.14-slim-bookworm"]
    assert re.findall(r"^FROM (\S+)", text, re.MULTILINE) == ["${BASE}", "${BASE}"]


@pytest.mark.parametrize("service", SERVICES)
def test_the_version_is_the_projects(service: str) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert re.findall(r"^ARG VERSION=(.*)$", dockerfile(service), re.MULTILINE) == [version]


def test_a_build_sees_only_what_it_is_made_of() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    seen = {rule[1:] for rule in rules if rule.startswith("!")}
    copied = {
        source
        for service in SERVICES
        for sources in re.findall(r"^COPY (?!--from)(.*) \S+$", dockerfile(service), re.MULTILINE)
        for source in sources.split()
    }
    # Of the generated package only the contract itself: the simulated gateway's is for rehearsals.
    contract = {"sdk/efficientfrontier/__init__.py", "sdk/efficientfrontier/v1"}
    assert seen - contract == copied - {"sdk/efficientfrontier"}
    assert contract <= seen

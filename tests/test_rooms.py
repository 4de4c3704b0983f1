"""The rooms and their arrows: import rules hold, and every room of ARCHITECTURE.md exists."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from services.portfolio.rpc.guard import PATTERNS

ROOT = Path(__file__).parents[1]


def test_the_import_rules_hold() -> None:
    ran = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports"))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout
    assert " 0 broken." in ran.stdout


def test_every_service_is_under_the_import_rules() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    under_rules = set(settings["tool"]["importlinter"]["root_packages"])

    services = {f"services.{found.parent.name}" for found in ROOT.glob("services/*/__init__.py")}

    assert len(services) >= 4
    assert services <= under_rules


def test_every_room_of_architecture_md_exists() -> None:
    plan = (ROOT / "ARCHITECTURE.md").read_text().split("## The rooms", 1)[1].split("Arrows", 1)[0]
    rooms = re.findall(r"^    ([a-zA-Z][\w./]*/)  ", plan, re.MULTILINE)
    assert len(rooms) >= 9
    for room in rooms:
        assert (ROOT / room).is_dir(), room


def test_no_secret_and_no_registry_address_is_in_git() -> None:
    pattern = (
        r"(-----BEGIN [A-Z ]*PRIVATE KEY|https?://[^ ]*\.(whl|tar\.gz)|password *= *['\"][^'\"]+)"
    )
    ran = subprocess.run(
        ["git", "grep", "-nIE", pattern, "--", ".", ":!tests"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 1, ran.stdout or ran.stderr


def test_every_pattern_of_the_contract_has_words_for_people() -> None:
    contract = "".join(path.read_text() for path in (ROOT / "protos").rglob("*.proto"))
    patterns = set(re.findall(r'pattern(?:: | = )"([^"]+)"', contract))
    assert {pattern.replace("\\\\", "\\") for pattern in patterns} == set(PATTERNS)

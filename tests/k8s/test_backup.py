"""Backup and restore, by the very scripts of k8s/base/scripts, on the real PostgreSQL.

The role that owns the database is as in the cluster: made by init-database.sh, and no superuser.
"""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import requests

from services.mesh.envoy import Envoy
from services.mesh.postgres import EmbeddedPostgres, programs
from tests.k8s.manifests import K8S
from tests.support.database import psql
from tests.support.router import Router

SCRIPTS = K8S / "base" / "scripts"
TABLES = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"


class Database:
    """A server as the cluster's, with the router's database, and a folder for backups."""

    def __init__(self, server: EmbeddedPostgres, backups: Path) -> None:
        self.superuser_url = server.url
        self.socket = parse_qs(urlsplit(server.url).query)["host"][0]
        self.url = f"postgresql://efficientfrontier@/efficientfrontier?host={self.socket}"
        self.backups = backups

    def run(
        self, script: str, *, path: Path | None = None, limit: str = "", **environ: str
    ) -> subprocess.CompletedProcess[str]:
        """Runs a script as its container does; `path`: programs that are found first."""
        places = [*([str(path)] if path else []), str(programs()), os.environ["PATH"]]
        return subprocess.run(
            ["bash", "-c", f'{limit} exec bash "$0"', str(SCRIPTS / script)],
            env={
                "PATH": ":".join(places),
                "PGHOST": self.socket,
                "PGDATABASE": "efficientfrontier",
                "PGUSER": "efficientfrontier",
                "BACKUPS": str(self.backups),
                **environ,
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def dumps(self) -> list[str]:
        """The good backups, the oldest first."""
        return sorted(path.name for path in self.backups.glob("efficientfrontier-*.dump"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """A server of these tests' own, with the role and the database that the script makes."""
    folder = tmp_path_factory.mktemp("server")
    postgres = EmbeddedPostgres(folder / "postgres", folder / "postgres.log")
    postgres.start()
    try:
        postgres.wait_ready()
        one = Database(postgres, folder)
        made = one.run("init-database.sh", PGUSER="postgres", ROUTER_PASSWORD="it's $ecret")
        assert made.returncode == 0, made.stderr
        yield one
    finally:
        postgres.stop()


@pytest.fixture
def database(server: Database, tmp_path: Path) -> Iterator[Database]:
    """The router's database, empty, with an empty folder for its backups."""
    server.backups = tmp_path / "backups"
    server.backups.mkdir()
    yield server
    name = "efficientfrontier"
    psql(server.superuser_url, f"DROP DATABASE {name} WITH (FORCE)")
    psql(server.superuser_url, f"CREATE DATABASE {name} OWNER {name}")


@pytest.fixture
def trade(database: Database, tmp_path: Path) -> Callable[[int], list[str]]:
    """Places so many orders through a router and Envoy of its own; gives the ids answered."""
    folder = tmp_path / "mesh"

    def place(count: int) -> list[str]:
        router = Router(database.url, folder / "router.log")
        envoy = Envoy(0, [router.address], folder / "envoy", folder)
        try:
            envoy.start()
            router.start()
            envoy.wait_ready(30)
            return [order(f"http://127.0.0.1:{envoy.port}", number) for number in range(count)]
        finally:
            envoy.stop(drain_s=0)
            router.stop()

    return place


def order(url: str, number: int) -> str:
    """Buys with all there is, or sells all of it; the order's id."""
    verb = "sell_all" if number % 2 else "buy_all"
    wish = {"strategy_name": "IncredibleLeverage_SPXL", "symbol": "SPXL", "price": 150 + number}
    answer = requests.post(f"{url}/orders/{verb}", json=wish, timeout=30)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["order_id"])


def test_the_routers_role_can_do_nothing_beyond_its_database(database: Database) -> None:
    role = psql(
        database.superuser_url,
        "SELECT rolsuper, rolcreatedb, rolcreaterole, rolcanlogin, "
        "rolpassword LIKE 'SCRAM-SHA-256$%' FROM pg_authid WHERE rolname = 'efficientfrontier'",
    )

    assert role == "f|f|f|t|t"


def test_every_order_is_there_after_backup_loss_and_restore(
    database: Database, trade: Callable[[int], list[str]]
) -> None:
    answered = trade(6)
    backup = database.run("backup.sh")
    assert backup.returncode == 0, backup.stderr
    assert "read to its end; 1 backups" in backup.stdout
    psql(database.url, "DROP SCHEMA public CASCADE")
    assert psql(database.url, TABLES) == "0"

    restore = database.run("restore.sh")

    assert restore.returncode == 0, restore.stderr
    assert "Restored " in restore.stdout
    assert "6 orders" in restore.stdout
    folder = database.backups.parent / "after"
    router = Router(database.url, folder / "router.log")
    envoy = Envoy(0, [router.address], folder / "envoy", folder)
    try:
        envoy.start()
        router.start()
        envoy.wait_ready(30)
        url = f"http://127.0.0.1:{envoy.port}"
        for order_id in answered:
            assert requests.get(f"{url}/orders/{order_id}", timeout=30).status_code == 200
        assert requests.get(f"{url}/audit", timeout=30).json()["balanced"] is True
        order(url, 6)
        assert requests.get(f"{url}/audit", timeout=30).json()["balanced"] is True

        refused = database.run("restore.sh")  # a router is connected
    finally:
        envoy.stop(drain_s=0)
        router.stop()
    assert refused.returncode == 1
    assert "routers are connected" in refused.stderr
    assert psql(database.url, "SELECT count(*) FROM orders") == "7"
    again = database.run("backup.sh")  # what was restored can be backed up in its turn
    assert again.returncode == 0, again.stderr


@pytest.fixture
def filled(database: Database) -> Database:
    """A database that looks to the scripts like the router's, and its first good backup."""
    psql(
        database.url,
        "CREATE TABLE orders AS SELECT g, md5(g::text) FROM generate_series(1, 9999) g",
    )
    made = database.run("backup.sh")
    assert made.returncode == 0, made.stderr
    (first,) = database.dumps()
    for suffix in ("", ".sha256"):  # as if it had been made long ago
        (database.backups / f"{first}{suffix}").rename(
            database.backups / f"efficientfrontier-20200101T000000Z.dump{suffix}"
        )
    (database.backups / "efficientfrontier-20200101T000000Z.dump.sha256").write_text(
        (database.backups / "efficientfrontier-20200101T000000Z.dump.sha256")
        .read_text()
        .replace(first, "efficientfrontier-20200101T000000Z.dump")
    )
    return database


GOOD = "efficientfrontier-20200101T000000Z.dump"


def programs_with(folder: Path, pg_dump: str) -> Path:
    """A folder with a pg_dump that runs the real one and then does something to its file."""
    folder.mkdir()
    program = folder / "pg_dump"
    real = programs() / "pg_dump"
    program.write_text(
        f"#!/bin/bash\nfor word; do case $word in --file=*) file=${{word#--file=}};; esac; done\n"
        f'"{real}" "$@" || exit\n{pg_dump}\n'
    )
    program.chmod(0o755)
    return folder


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        ('truncate --size=-2000 "$file"', "cannot be read to its end"),
        ('truncate --size=100 "$file"', "no table of contents"),
        (': > "$file"', "no table of contents"),
        ('size=$(stat -c %s "$file"); printf "%500s" x | dd of="$file" bs=1 seek=$((size - 3000)) '
         "conv=notrunc status=none", "cannot be read to its end"),
        ("exit 1", "pg_dump failed"),
    ],
)  # fmt: skip
def test_a_bad_dump_is_refused_and_takes_no_good_one_away(
    filled: Database, tmp_path: Path, harm: str, told: str
) -> None:
    result = filled.run("backup.sh", path=programs_with(tmp_path / "bad", harm), KEEP="1")

    assert result.returncode == 1
    assert told in result.stderr
    assert filled.dumps() == [GOOD]
    assert sorted(path.name for path in filled.backups.iterdir()) == [GOOD, f"{GOOD}.sha256"]


def test_a_full_disk_takes_no_good_one_away(filled: Database) -> None:
    result = filled.run("backup.sh", limit="ulimit -f 16;", KEEP="1")  # blocks of 1 KiB

    assert result.returncode != 0
    assert filled.dumps() == [GOOD]


def test_another_database_is_not_taken_for_the_routers(filled: Database) -> None:
    result = filled.run("backup.sh", PGDATABASE="postgres", PGUSER="postgres", KEEP="1")

    assert result.returncode == 1
    assert "the dump holds no orders" in result.stderr
    assert filled.dumps() == [GOOD]


def test_the_oldest_go_and_so_many_stay(filled: Database) -> None:
    for year in (2021, 2022, 2023):
        (filled.backups / f"efficientfrontier-{year}0101T000000Z.dump").write_bytes(b"")

    assert filled.run("backup.sh", KEEP="2").returncode == 0

    kept = filled.dumps()
    assert len(kept) == 2
    assert kept[0] == "efficientfrontier-20230101T000000Z.dump"


def test_a_dump_that_has_changed_on_its_disk_is_not_restored(filled: Database) -> None:
    dump = filled.backups / GOOD
    content = bytearray(dump.read_bytes())
    content[-40] ^= 1
    dump.write_bytes(bytes(content))

    result = filled.run("restore.sh", BACKUP=GOOD)

    assert result.returncode == 1
    assert "its sum differs" in result.stderr
    assert psql(filled.url, "SELECT count(*) FROM orders") == "9999"


def test_a_dump_that_ends_early_is_not_restored(filled: Database) -> None:
    dump = filled.backups / GOOD
    dump.write_bytes(dump.read_bytes()[:-2000])
    dump.with_name(f"{GOOD}.sha256").unlink()  # copied here without its sum

    result = filled.run("restore.sh", BACKUP=GOOD)

    assert result.returncode == 1
    assert "cannot be read to its end" in result.stderr
    assert psql(filled.url, "SELECT count(*) FROM orders") == "9999"


def test_a_restore_that_fails_halfway_leaves_all_as_it_was(
    filled: Database, tmp_path: Path
) -> None:
    folder = tmp_path / "failing"
    folder.mkdir()
    real = programs() / "pg_restore"
    (folder / "pg_restore").write_text(  # tells only a part to those who listen, then fails
        f'#!/bin/bash\ncase "$*" in *--file=-*) "{real}" "$@" | head -n 60; exit 1;; esac\n'
        f'exec "{real}" "$@"\n'
    )
    (folder / "pg_restore").chmod(0o755)
    psql(filled.url, "CREATE TABLE newer AS SELECT 1 AS one")

    result = filled.run("restore.sh", path=folder, BACKUP=GOOD)

    assert result.returncode == 1
    assert "the database is as it was" in result.stderr
    assert psql(filled.url, "SELECT count(*) FROM orders") == "9999"
    assert psql(filled.url, "SELECT one FROM newer") == "1"


def test_a_restore_goes_back_whole_and_keeps_what_was_there_beside(filled: Database) -> None:
    psql(filled.url, "CREATE TABLE newer AS SELECT 1 AS one; DELETE FROM orders WHERE g > 5")

    result = filled.run("restore.sh")

    assert result.returncode == 0, result.stderr
    assert psql(filled.url, "SELECT count(*) FROM orders") == "9999"
    assert psql(filled.url, TABLES) == "1"  # a table of a later version is gone too
    (before,) = filled.backups.glob("before-restore-*.dump")
    back = filled.run("restore.sh", BACKUP=before.name)
    assert back.returncode == 0, back.stderr
    assert psql(filled.url, "SELECT count(*) FROM orders") == "5"


def test_a_backup_that_is_not_there_is_named_with_those_that_are(filled: Database) -> None:
    result = filled.run("restore.sh", BACKUP="efficientfrontier-19990101T000000Z.dump")

    assert result.returncode == 1
    assert GOOD in result.stderr

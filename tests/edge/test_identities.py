"""The folder of a mesh's identities: what is renewed when, rotation, and files that never tear."""

import ssl
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Literal

import jwt
import pytest

from services.mesh import identity, tokens
from services.mesh.access import Access
from services.mesh.authority import is_signed_by, names_of, validity
from services.mesh.errors import MeshError
from services.mesh.identity import OPERATOR, Identities, swap
from services.mesh.settings import Settings
from tests.edge.conftest import PARTS, TRUST_DOMAIN
from tests.support.certificates import shows


def certificate(identities: Identities, who: str) -> bytes:
    return (identities.folder_of(who) / "tls.crt").read_bytes()


def authorities(identities: Identities, who: str) -> list[bytes]:
    mark = b"-----BEGIN CERTIFICATE-----"
    text = (identities.folder_of(who) / "ca.crt").read_bytes()
    return [mark + one for one in text.split(mark)[1:]]


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new authority or key is believed by all at once."""
    monkeypatch.setattr(identity, "SETTLED_S", 0.0)


def test_what_is_good_is_kept(identities: Identities) -> None:
    before = [certificate(identities, who) for who in PARTS]

    assert identities.keep_certificates(PARTS) == []
    assert identities.keep_tokens(PARTS) == []
    assert [certificate(identities, who) for who in PARTS] == before


def test_a_certificate_is_renewed_once_half_of_its_time_is_over(identities: Identities) -> None:
    shows(identities.folder_of("door"), identities.certificate("door", days=0.001))

    assert identities.keep_certificates(PARTS) == ["door"]
    start, end = validity(certificate(identities, "door"))
    assert (end - start).days == 30


def test_a_token_is_renewed_once_it_has_ended(identities: Identities) -> None:
    file = identities.folder_of("strategy/Edge_SPXL") / "token"
    swap(file.parent, {"token": identities.token("strategy/Edge_SPXL", days=-1).encode()})

    assert identities.keep_tokens(PARTS) == ["strategy/Edge_SPXL"]


@pytest.mark.parametrize("left", [["tls.crt"], ["tls.key", "ca.crt"], []])
def test_a_folder_whose_writing_was_broken_off_is_made_anew(
    identities: Identities, left: list[str]
) -> None:
    """As by a kill while the first version was being written."""
    folder = identities.folder_of("door")
    for name in ("tls.crt", "tls.key", "ca.crt"):
        if name not in left:
            (folder / name).unlink()

    assert identities.keep_certificates(PARTS) == ["door"]
    pair = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    pair.load_cert_chain(folder / "tls.crt", folder / "tls.key")
    assert authorities(identities, "door")


@pytest.mark.parametrize("damaged", ["tls.crt", "tls.key", "token"])
@pytest.mark.parametrize("content", [b"", b"a.b.c"])
def test_what_is_damaged_is_made_anew(identities: Identities, damaged: str, content: bytes) -> None:
    (identities.folder_of(OPERATOR) / damaged).write_bytes(content)

    renewed = identities.keep_certificates(PARTS), identities.keep_tokens(PARTS)
    assert renewed == (([], [OPERATOR]) if damaged == "token" else ([OPERATOR], []))
    assert identities.keep_certificates(PARTS) + identities.keep_tokens(PARTS) == []


def test_a_key_of_another_certificate_is_not_kept(identities: Identities) -> None:
    (identities.folder_of("door") / "tls.key").write_bytes(identities.certificate("door").key)

    assert identities.keep_certificates(PARTS) == ["door"]


@pytest.mark.parametrize("auth", ["mtls", "token"])
def test_a_damaged_authority_or_key_is_told_in_one_line(
    auth: Literal["mtls", "token"], tmp_path: Path
) -> None:
    """The mesh goes on with what there is: what it cannot renew must not end it."""
    access = Access(Settings(data_dir=tmp_path, auth=auth))
    access.keep()
    for file in [*tmp_path.rglob("authorities/*.key"), *tmp_path.rglob("keys/*.pem")]:
        file.write_bytes(b"")
    for file in [*tmp_path.rglob("tls.crt"), *tmp_path.rglob("token")]:
        file.unlink()

    with pytest.raises(MeshError, match="identity cannot be used"):
        access.keep()


def test_another_trust_domain_gives_everybody_another_name(
    identities: Identities, tmp_path: Path
) -> None:
    moved = Identities(tmp_path / "identity", "elsewhere")

    assert moved.keep_certificates(PARTS) == list(PARTS)
    assert moved.keep_tokens(PARTS) == list(PARTS)


def test_the_command_keeps_to_the_trust_domain_of_the_mesh(tmp_path: Path) -> None:
    """Else a rotation without the setting would rename every part of a running mesh."""
    moved = Identities(tmp_path / "identity", "elsewhere")
    moved.keep_certificates(PARTS)
    moved.keep_tokens(PARTS)

    made = command(tmp_path, "issue", "operator/alice", "--out", str(tmp_path / "me"))
    signed = command(tmp_path, "token", "reader/bob")

    assert made.returncode == 0, made.stderr
    names = names_of((tmp_path / "me" / "tls.crt").read_bytes())
    assert names == {"spiffe://elsewhere/operator/alice"}
    assert tokens.claims_of(signed.stdout.strip())["sub"] == "spiffe://elsewhere/reader/bob"


def test_a_new_authority_is_believed_before_it_signs(identities: Identities) -> None:
    identities.add_authority()
    identities.add_key()

    assert identities.keep_certificates(PARTS) == []
    assert identities.keep_tokens(PARTS) == []
    old, new = sorted(authorities(identities, "door"), key=lambda one: not signs(identities, one))
    assert old != new
    assert all(len(authorities(identities, who)) == 2 for who in PARTS)
    assert len(jwt.PyJWKSet.from_json(identities.key_set.read_text()).keys) == 2


def signs(identities: Identities, authority: bytes) -> bool:
    return is_signed_by(certificate(identities, "door"), authority)


@pytest.mark.usefixtures("settled")
def test_rotation_renews_everybody_and_withdrawing_forgets_the_old(identities: Identities) -> None:
    (old,) = authorities(identities, "door")
    old_token = identities.token("operator/local")
    identities.add_authority()
    identities.add_key()

    assert identities.keep_certificates(PARTS) == list(PARTS)
    assert identities.keep_tokens(PARTS) == list(PARTS)
    assert not signs(identities, old)
    identities.withdraw()
    identities.keep_certificates(PARTS)
    identities.keep_tokens(PARTS)

    assert [old] not in [authorities(identities, who) for who in PARTS]
    assert all(len(authorities(identities, who)) == 1 for who in PARTS)
    (key,) = jwt.PyJWKSet.from_json(identities.key_set.read_text()).keys
    assert key.key_id != jwt.get_unverified_header(old_token)["kid"]


def test_secrets_are_for_their_owner_alone(identities: Identities, tmp_path: Path) -> None:
    exported = tmp_path / "alice"
    identities.export("operator/alice", exported)

    files = [*(tmp_path / "identity").rglob("*"), *exported.rglob("*")]
    modes = {file: stat.S_IMODE(file.lstat().st_mode) for file in files if not file.is_symlink()}
    open_to_others = [file for file, mode in modes.items() if mode & 0o077]
    # `identity/operator` and the like are made on the way; the lock holds nothing.
    assert [file.name for file in open_to_others if file.is_file()] == [".lock"]
    assert stat.S_IMODE((tmp_path / "identity").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "identity" / "door").stat().st_mode) == 0o700
    assert len(modes) > 20


def test_a_reader_never_sees_a_certificate_without_its_key(tmp_path: Path) -> None:
    folder = tmp_path / "part"
    swap(folder, {"a": b"0", "b": b"0"})
    torn: list[tuple[bytes, bytes]] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            version = folder / (folder / "..data").readlink()
            try:
                seen = (version / "a").read_bytes(), (version / "b").read_bytes()
            except FileNotFoundError:
                continue  # replaced in between: as a reader of a Secret, it looks again
            if seen[0] != seen[1]:
                torn.append(seen)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(1, 100):
        swap(folder, {"a": b"%d" % number, "b": b"%d" % number})
    done.set()
    reader.join()

    assert torn == []
    assert (folder / "a").read_bytes() == b"99"
    assert len([one for one in folder.iterdir() if one.name.startswith("..1")]) == 1


@pytest.mark.usefixtures("settled")
def test_renewing_while_somebody_rotates_never_mixes_two_pairs(identities: Identities) -> None:
    def rotate() -> None:
        for _ in range(15):
            identities.add_authority()
            identities.keep_certificates(PARTS)

    rotating = [threading.Thread(target=rotate) for _ in range(2)]
    for thread in rotating:
        thread.start()
    for thread in rotating:
        thread.join()

    for who in PARTS:
        folder = identities.folder_of(who)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_cert_chain(folder / "tls.crt", folder / "tls.key")  # they belong together
    identities.withdraw()
    assert identities.keep_certificates(PARTS) == []


@pytest.mark.parametrize(
    "who", ["alice", "operator/", "operator/a/b", "boss/alice", "door/x", "../x"]
)
def test_nobody_else_has_an_identity(identities: Identities, who: str) -> None:
    with pytest.raises(MeshError, match="is nobody"):
        identities.certificate(who)
    with pytest.raises(MeshError, match="is nobody"):
        identities.token(who)


def command(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environ = {"DATA_DIR": str(folder), "PATH": ""}
    return subprocess.run(
        [sys.executable, "-m", "services.mesh.identity", *words],
        capture_output=True,
        text=True,
        check=False,
        env=environ,
    )


def test_the_command_gives_a_person_a_certificate_and_a_token(
    identities: Identities, tmp_path: Path
) -> None:
    made = command(
        tmp_path, "issue", "operator/alice", "--out", str(tmp_path / "me"), "--days", "2"
    )
    signed = command(tmp_path, "token", "reader/bob")

    assert made.returncode == 0, made.stderr
    text = (tmp_path / "me" / "tls.crt").read_bytes()
    start, end = validity(text)
    assert (end - start).days == 2
    assert is_signed_by(text, authorities(identities, "door")[0])
    assert tokens.claims_of(signed.stdout.strip())["sub"] == f"spiffe://{TRUST_DOMAIN}/reader/bob"


def test_the_command_says_in_one_line_what_is_missing(tmp_path: Path) -> None:
    for words, said in (
        (("issue", "operator/alice", "--out", str(tmp_path / "x")), "run `make up AUTH=mtls` once"),
        (("token", "operator/alice"), "run `make up AUTH=token` once first"),
        (("rotate",), "There is nothing to rotate"),
    ):
        done = command(tmp_path, *words)
        assert done.returncode == 1
        assert said in done.stderr
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--days", "-1"), "-1 is not more than 0"),
        (("--days", "nan"), "nan is not more than 0"),
        (("--days", "4000"), "3650 at most"),
        (("--days", "soon"), "soon"),
        (("--host", "two words"), "'two words' is no DNS name"),
    ],
)
def test_the_command_refuses_what_no_certificate_can_hold(
    tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    done = command(tmp_path, "issue", "operator/alice", "--out", str(tmp_path / "x"), *words)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_the_command_names_the_folder_that_is_damaged(
    identities: Identities, tmp_path: Path
) -> None:
    for file in (tmp_path / "identity" / "authorities").glob("*.key"):
        file.write_bytes(b"")
    done = command(tmp_path, "issue", "operator/alice", "--out", str(tmp_path / "x"))
    assert done.returncode == 1
    assert "identity cannot be used" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_door_may_be_called_by_other_names_too(identities: Identities) -> None:
    made = identities.certificate("door", hosts=["api.example.com"])

    assert {"api.example.com", "localhost"} <= names_of(made.certificate)

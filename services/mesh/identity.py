"""Who is who in a mesh on one machine: its authority, its keys, and what each part shows.

    python -m services.mesh.identity issue operator/alice --out FOLDER   a certificate
    python -m services.mesh.identity token strategy/IncredibleLeverage_SPXL
    python -m services.mesh.identity rotate      a new authority and key; the old still count
    python -m services.mesh.identity withdraw    the old ones open no connection any more

All lies in DATA_DIR/identity, and is made by `make up AUTH=mtls` or `AUTH=token`:

    authorities/STAMP.{crt,key}   sign certificates; the youngest does, all are believed
    keys/STAMP.pem                sign tokens, likewise
    keys.json                     their public halves: the router's TOKEN_KEYS
    trust-domain                  of the names, so that the commands need not be told
    door/ router/ strategy/NAME/ operator/local/ reader/mesh/
                                  tls.crt, tls.key, ca.crt and (AUTH=token) token

Files change as a Kubernetes Secret's do: all of a folder in one instant, so that no reader sees a
certificate without its key. Each part reads them again by itself, within a second or so.
"""

import argparse
import fcntl
import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from services.mesh import tokens
from services.mesh.authority import (
    AUTHORITY_DAYS,
    Authority,
    Identity,
    is_signed_by,
    is_whole,
    issue,
    names_of,
    new_authority,
    validity,
)
from services.mesh.errors import MeshError
from services.mesh.settings import Settings, read_settings

DAYS = 30
DOMAIN_FILE = "trust-domain"
SETTLED_S = 5.0  # by then every part believes a new authority or key
OPERATOR = "operator/local"  # who works at this machine
READER = "reader/mesh"  # the live view, and `make audit`
HOSTS = {
    "door": ("localhost", "127.0.0.1", "::1", "efficientfrontier-api"),
    "router": ("localhost", "127.0.0.1", "::1", "efficientfrontier-router"),
}
_WHO = re.compile(r"door|router|(strategy|operator|reader)/[A-Za-z][A-Za-z0-9_.-]{0,63}")
_HOST = re.compile(r"[A-Za-z0-9.:-]{1,253}")


class Identities:
    """The identities of one mesh, in a folder. A part's name is such as door or strategy/NAME."""

    def __init__(self, folder: Path, trust_domain: str) -> None:
        self.folder = folder
        self._trust_domain = trust_domain

    @property
    def key_set(self) -> Path:
        """The public keys by which tokens are checked."""
        return self.folder / "keys.json"

    def folder_of(self, who: str) -> Path:
        """Where a part finds what it shows."""
        return self.folder / who

    def keep_certificates(self, parts: Iterable[str]) -> list[str]:
        """Gives each part a certificate that is of the present authority and not half over.

        Returns those that got a new one. Whom they believe is brought up to date in any case.
        """
        with self._alone():
            self._write(self.folder / DOMAIN_FILE, self._trust_domain.encode())
            if not self._authorities():
                self.add_authority()
            signer, believed = self._signer(), self._believed()
            renewed = []
            for who in parts:
                kept = self._kept(who)
                if kept is None or self._is_due(kept, who, signer):
                    kept = self.certificate(who)
                    renewed.append(who)
                pair = {"tls.crt": kept.certificate, "tls.key": kept.key}
                self._put(who, {**pair, "ca.crt": believed})
            return renewed

    def keep_tokens(self, parts: Iterable[str]) -> list[str]:
        """Gives each part a token that is signed with the present key and not half over.

        Returns those that got a new one. The public keys are brought up to date in any case.
        """
        with self._alone():
            self._write(self.folder / DOMAIN_FILE, self._trust_domain.encode())
            if not self._keys():
                self.add_key()
            self._write(self.key_set, tokens.key_set(self._keys()))
            renewed = [who for who in parts if self._needs_token(who)]
            for who in renewed:
                self._put(who, {"token": self.token(who).encode()})
            return renewed

    def certificate(self, who: str, *, days: float = DAYS, hosts: Iterable[str] = ()) -> Identity:
        """A new certificate, kept nowhere. The door and the router are called by `hosts` as well.

        Raises:
            MeshError: `who` is no name of a part, or there is no authority yet.
        """
        named = (*HOSTS.get(checked(who), ()), *hosts)
        return issue(self._signer(), self._uri(who), named, days=days)

    def token(self, who: str, *, days: float = DAYS) -> str:
        """A new token, kept nowhere. Raises: MeshError, as with certificates."""
        key = _youngest_settled(self.folder / "keys", "*.pem")
        if key is None:
            raise MeshError(f"{self.folder} has no key: run `make up AUTH=token` once first.")
        return tokens.token(key.read_bytes(), self._uri(checked(who)), days=days)

    def export(
        self, who: str, folder: Path, *, days: float = DAYS, hosts: Iterable[str] = ()
    ) -> None:
        """Writes a new certificate, its key and the authorities into a folder of one's own."""
        made = self.certificate(who, days=days, hosts=hosts)
        files = {"tls.crt": made.certificate, "tls.key": made.key, "ca.crt": self._believed()}
        swap(folder, files)

    def add_authority(self) -> None:
        """Makes an authority that signs once all have had the time to believe it as well."""
        made = new_authority()
        stamp = self.folder / "authorities" / f"{time.time_ns()}"
        self._write(stamp.with_suffix(".key"), made.key)
        self._write(stamp.with_suffix(".crt"), made.certificate)

    def add_key(self) -> None:
        """Makes a key that signs tokens once the router has had the time to know it."""
        self._write(self.folder / "keys" / f"{time.time_ns()}.pem", tokens.new_key())

    def withdraw(self) -> None:
        """Forgets all authorities and keys but those that sign now."""
        with self._alone():
            for kind, suffix in (("authorities", ".crt"), ("keys", ".pem")):
                signs = _youngest_settled(self.folder / kind, f"*{suffix}")
                for file in _by_age(self.folder / kind, "*"):
                    if signs and file.stem < signs.stem:
                        file.unlink()

    def parts(self) -> list[str]:
        """Every part that has a folder."""
        found = [file.parent for name in ("tls.crt", "token") for file in self.folder.rglob(name)]
        inside = {folder.relative_to(self.folder).as_posix() for folder in found}
        return sorted(who for who in inside if _WHO.fullmatch(who))

    def has_certificates(self) -> bool:
        """Whether there is an authority."""
        return bool(self._authorities())

    def has_tokens(self) -> bool:
        """Whether there is a key that signs tokens."""
        return bool(self._keys())

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keeps others out meanwhile: the mesh renews while somebody rotates by hand."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self.folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # ends with the file
            yield

    def _uri(self, who: str) -> str:
        return f"spiffe://{self._trust_domain}/{who}"

    def _signer(self) -> Authority:
        file = _youngest_settled(self.folder / "authorities", "*.crt")
        if file is None:
            raise MeshError(f"{self.folder} has no authority: run `make up AUTH=mtls` once first.")
        return Authority(file.read_bytes(), file.with_suffix(".key").read_bytes())

    def _authorities(self) -> list[bytes]:
        return [file.read_bytes() for file in _by_age(self.folder / "authorities", "*.crt")]

    def _believed(self) -> bytes:
        return b"".join(reversed(self._authorities()))

    def _keys(self) -> list[bytes]:
        return [file.read_bytes() for file in _by_age(self.folder / "keys", "*.pem")]

    def _kept(self, who: str) -> Identity | None:
        """What a part shows now; None: nothing, or nothing of use (its writing was broken off)."""
        folder = self.folder_of(who)
        try:
            kept = Identity((folder / "tls.crt").read_bytes(), (folder / "tls.key").read_bytes())
        except FileNotFoundError:
            return None
        return kept if is_whole(kept) else None

    def _is_due(self, kept: Identity, who: str, signer: Authority) -> bool:
        start, end = validity(kept.certificate)
        return (
            _is_half_over(start, end)
            or not is_signed_by(kept.certificate, signer.certificate)
            or not {self._uri(who), *HOSTS.get(who, ())} <= names_of(kept.certificate)
        )

    def _needs_token(self, who: str) -> bool:
        file = self.folder_of(who) / "token"
        if not file.exists():
            return True
        signed = file.read_text()
        try:
            claims = tokens.claims_of(signed)
        except ValueError:  # its writing was broken off
            return True
        key = _youngest_settled(self.folder / "keys", "*.pem")
        start, end = (datetime.fromtimestamp(claims[name], UTC) for name in ("iat", "exp"))
        return (
            _is_half_over(start, end)
            or claims["sub"] != self._uri(who)
            or key is None
            or not tokens.is_signed_with(signed, key.read_bytes())
        )

    def _put(self, who: str, files: Mapping[str, bytes]) -> None:
        """Changes files of a part's folder, if they are not so already; the others stay."""
        folder = self.folder_of(who)
        others = {name: (folder / name).read_bytes() for name in _names_in(folder)}
        if others != {**others, **files}:
            swap(folder, {**others, **files})

    def _write(self, file: Path, content: bytes) -> None:
        if file.exists() and file.read_bytes() == content:
            return
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
        _write_private(new, content)
        new.replace(file)


def swap(folder: Path, files: Mapping[str, bytes]) -> None:
    """Makes a folder hold these files, all in one instant, as Kubernetes does with a Secret.

    The files are links through `..data`, a link to the folder of this version, which is replaced.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    before = [old for old in folder.iterdir() if old.name.startswith("..") and old.is_dir()]
    version = folder / f"..{time.time_ns()}"
    version.mkdir(mode=0o700)
    for name, content in files.items():
        _write_private(version / name, content)
        if not (folder / name).is_symlink():
            link = folder / f".{name}.new"
            link.symlink_to(f"..data/{name}")
            if not (folder / "..data").exists():  # the first version: nobody reads it yet
                (folder / "..data").symlink_to(version.name)
            link.replace(folder / name)
    new = folder / "..new"
    new.unlink(missing_ok=True)
    new.symlink_to(version.name)
    new.replace(folder / "..data")
    for old in before:
        if not old.is_symlink():
            shutil.rmtree(old)


def checked(who: str) -> str:
    """The name of a part. Raises: MeshError, when it is none."""
    if not _WHO.fullmatch(who):
        raise MeshError(
            f"{who!r} is nobody: say strategy/NAME, operator/NAME, reader/NAME, door or router."
        )
    return who


def identities_of(settings: Settings) -> Identities:
    """The identities of the mesh with these settings."""
    return Identities(settings.data_dir / "identity", settings.trust_domain)


def identities_in_use(settings: Settings) -> Identities:
    """Those that a mesh has made, with the trust domain that it had.

    A command in another's name would give a running mesh names that its router does not know.
    """
    folder = settings.data_dir / "identity"
    domain = folder / DOMAIN_FILE
    return Identities(folder, domain.read_text() if domain.exists() else settings.trust_domain)


def _youngest_settled(folder: Path, pattern: str) -> Path | None:
    """The youngest that all believe by now, else the oldest; None: there is none."""
    files = _by_age(folder, pattern)
    until = time.time_ns() - int(SETTLED_S * 1e9)
    settled = [file for file in files if int(file.stem) <= until]
    return next(iter(settled[-1:] or files[:1]), None)


def _by_age(folder: Path, pattern: str) -> list[Path]:
    """Oldest first."""
    files = [file for file in folder.glob(pattern) if not file.name.startswith(".")]
    return sorted(files, key=lambda file: file.name)


def _is_half_over(start: datetime, end: datetime) -> bool:
    return datetime.now(UTC) >= start + (end - start) / 2


def _names_in(folder: Path) -> list[str]:
    return [file.name for file in folder.glob("[!.]*") if file.is_file()]


def _write_private(file: Path, content: bytes) -> None:
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as to:
        to.write(content)


def main() -> None:
    """Runs a command; says in one line what went wrong."""
    asked = _parser().parse_args()
    try:
        identities = identities_in_use(read_settings())
        COMMANDS[asked.command](identities, asked)
    except (MeshError, OSError) as error:
        sys.exit(str(error))
    except ValueError as error:  # what was made before was damaged since
        sys.exit(f"{identities.folder} cannot be used: {error}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m services.mesh.identity",
        description="Certificates and tokens of the mesh in DATA_DIR.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    made = commands.add_parser("issue", help="make a certificate for somebody")
    made.add_argument("--out", type=Path, required=True, help="the folder to write to")
    made.add_argument(
        "--host", action="append", type=_host, default=[], help="of a server: also called so"
    )
    signed = commands.add_parser("token", help="make a token for somebody")
    signed.add_argument("--out", type=Path, help="the file to write to; else it is printed")
    for command in (made, signed):
        command.add_argument("who", help="such as operator/alice, reader/bob or strategy/NAME")
        command.add_argument(
            "--days", type=_days, default=DAYS, help=f"how long it counts ({DAYS})"
        )
    commands.add_parser("rotate", help="a new authority and key for all parts; the old still count")
    commands.add_parser("withdraw", help="what rotate replaced counts no more")
    return parser


def _days(text: str) -> float:
    days = float(text)
    if not 0 < days <= AUTHORITY_DAYS:  # no certificate outlives who signed it
        raise argparse.ArgumentTypeError(f"{text} is not more than 0, and {AUTHORITY_DAYS} at most")
    return days


def _host(text: str) -> str:
    if not _HOST.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no DNS name or IP address")
    return text


def _issue(identities: Identities, asked: argparse.Namespace) -> None:
    identities.export(asked.who, asked.out, days=asked.days, hosts=asked.host)
    print(f"{asked.out}: tls.crt, tls.key, ca.crt. IDENTITY_DIR={asked.out} uses them.")


def _token(identities: Identities, asked: argparse.Namespace) -> None:
    signed = identities.token(asked.who, days=asked.days)
    if asked.out is None:
        print(signed)
        return
    asked.out.unlink(missing_ok=True)
    _write_private(asked.out, signed.encode())
    print(f"{asked.out}. TOKEN_FILE={asked.out} uses it.")


def _rotate(identities: Identities, _: argparse.Namespace) -> None:
    parts = identities.parts()
    if not parts:
        raise MeshError("There is nothing to rotate: run `make up AUTH=mtls` (or token) first.")
    if identities.has_certificates():
        identities.add_authority()
        identities.keep_certificates(parts)
    if identities.has_tokens():
        identities.add_key()
        identities.keep_tokens(parts)
    print(f"Believed by all in {SETTLED_S:g} s ...", flush=True)
    time.sleep(SETTLED_S)
    _keep(identities, parts)
    print(
        f"Renewed: {', '.join(parts)}. Certificates and tokens made for others still count: make "
        "new ones for them, then `withdraw`."
    )


def _withdraw(identities: Identities, _: argparse.Namespace) -> None:
    if _keep(identities, identities.parts()):  # a rotation was broken off
        time.sleep(SETTLED_S)
    identities.withdraw()
    _keep(identities, identities.parts())
    print("Only certificates and tokens made since the last `rotate` count.")
    if identities.has_certificates():
        print(
            "A connection that was made with an old certificate goes on for an hour at most: start "
            "the mesh again to end it."
        )


def _keep(identities: Identities, parts: list[str]) -> list[str]:
    """Renews what is due of whatever there is; the parts that got something new."""
    renewed = identities.keep_certificates(parts) if identities.has_certificates() else []
    return renewed + (identities.keep_tokens(parts) if identities.has_tokens() else [])


COMMANDS = {"issue": _issue, "token": _token, "rotate": _rotate, "withdraw": _withdraw}

if __name__ == "__main__":
    main()

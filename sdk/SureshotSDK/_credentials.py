"""What a client shows to prove who it is: certificates, a token, both or neither.

    identity_dir, else IDENTITY_DIR   a folder with tls.crt, tls.key and ca.crt: mutual TLS
    token_file, else TOKEN_FILE       a file that holds a token: sent with each call

Nothing set: no TLS and no token. Files are read again once they change, so certificates and tokens
are renewed without a restart. A new certificate takes a new channel; the calls that are under
way on the old one end there.
"""

import logging
import os
import re
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Generic, TypeVar

import grpc
import grpc.aio

from SureshotSDK._calls import Call

LOOK_EVERY_S = 1.0
_CERTIFICATE, _KEY, _AUTHORITIES = "tls.crt", "tls.key", "ca.crt"
# From when to when, in a certificate's binary form: yymmddhhmmss, or with the century from 2050 on.
_VALIDITY = re.compile(rb"(?:\x17\r|\x18\x0f)\d{12,14}Z(?:\x17\r|\x18\x0f)(\d{12,14})Z")

logger = logging.getLogger("SureshotSDK")

Metadata = tuple[tuple[str, str], ...]


C = TypeVar("C", grpc.Channel, grpc.aio.Channel)
T = TypeVar("T")


class Credentials:
    """The files' contents, as they were when they last made sense."""

    def __init__(self, identity_dir: Path | str | None, token_file: Path | str | None) -> None:
        """Reads the files for the first time.

        Raises:
            ValueError: one is missing, unreadable or not what it should be.
        """
        identity_dir = identity_dir or os.environ.get("IDENTITY_DIR")
        token_file = token_file or os.environ.get("TOKEN_FILE")
        self.identity = _Watched(Path(identity_dir), _read_identity) if identity_dir else None
        self._token = _Watched(Path(token_file), _read_token) if token_file else None

    def refresh(self, *, at_once: bool) -> None:
        """Takes over what has changed; looks at most once a second unless told `at_once`."""
        for watched in (self.identity, self._token):
            if watched is not None:
                watched.refresh(at_once=at_once)

    @property
    def metadata(self) -> Metadata | None:
        """What goes with each call."""
        return self._token.content if self._token else None

    @property
    def for_channel(self) -> grpc.ChannelCredentials | None:
        """What a channel is made with; None: no TLS. Another object once the files changed."""
        return self.identity.content.channel if self.identity else None

    def trouble(self, address: str, message: str) -> str | None:
        """What to check when a connection failed with grpc's `message`; None: not about TLS."""
        if "failed to connect" not in message:
            return None
        if self.identity is None:
            return _NO_TLS if "Socket closed" in message else None
        folder, own = self.identity.path, self.identity.content
        if own.ends <= datetime.now(UTC):
            return (
                f"the certificate in {folder} has ended on {own.ends:%Y-%m-%d %H:%M} UTC: renew it"
            )
        for sign, why in _TROUBLES.items():
            if sign in message:
                return why.format(folder=folder, host=address.rpartition(":")[0])
        return None


_NO_TLS = (
    "it was closed at once. If that side runs with AUTH=mtls, set IDENTITY_DIR to the folder of "
    "your certificate"
)
_REFUSED = (
    "it was closed in the handshake or right after. Most likely the certificate in {folder} was "
    "refused: its authority may be unknown there, or its name not one of that mesh"
)
_TROUBLES = {
    "certificate has expired": (
        "the certificate of the other side has expired: renew the door's (`make up` does)"
    ),
    "CERTIFICATE_VERIFY_FAILED": (
        "the certificate of the other side is not of an authority in {folder}/ca.crt: check that "
        "it is the right mesh, and ca.crt up to date"
    ),
    "Hostname Verification": (
        "the certificate of the other side does not name {host}: call it by a name that it has, or "
        "have it issued for this one"
    ),
    "WRONG_VERSION_NUMBER": (
        "the other side speaks no TLS: unset IDENTITY_DIR, or start the mesh with AUTH=mtls"
    ),
    "Unwrap failed": _REFUSED,
    "Socket closed": _REFUSED,
    "Connection reset": _REFUSED,
}


@dataclass
class Line(Generic[C]):
    """A channel, and the calls under way on it."""

    channel: C
    made_with: grpc.ChannelCredentials | None
    calls: int = 0
    _methods: dict[str, Any] = field(default_factory=dict)  # making one costs grpc 20 us

    def unary(self, call: Call[Any]) -> Any:
        """The method that this call is of, with one answer."""
        method = self._methods.get(call.method)
        if method is None:
            method = self._methods[call.method] = self.channel.unary_unary(
                call.method, type(call.request).SerializeToString, call.answer.FromString
            )
        return method

    def stream(self, call: Call[Any]) -> Any:
        """The method that this call is of, with a stream of answers."""
        return self.channel.unary_stream(
            call.method, type(call.request).SerializeToString, call.answer.FromString
        )


class Lines(Generic[C]):
    """The line of the moment, and those before it that calls are still under way on.

    Safe to share by threads. It closes no channel itself, since asyncio's are closed by awaiting.
    """

    def __init__(
        self, credentials: Credentials, make: Callable[[grpc.ChannelCredentials | None], C]
    ) -> None:
        self._credentials = credentials
        self._make: Callable[[grpc.ChannelCredentials | None], C] = make
        self._lock = threading.Lock()
        self._lines: list[Line[C]] = [self._new()]  # the last is that of the moment
        self._closed = False

    def take(self, *, after_failure: bool = False) -> Line[C]:
        """The line for a call; `give_back` it. After a failure the files are looked at first."""
        self._credentials.refresh(at_once=after_failure)
        with self._lock:
            now: Line[C] = self._lines[-1]
            if now.made_with is not self._credentials.for_channel and not self._closed:
                now = self._new()
                self._lines.append(now)
            now.calls += 1
            return now

    def give_back(self, line: Line[C]) -> list[C]:
        """Ends a call on a line; the channels to be closed because nobody needs them any more."""
        with self._lock:
            line.calls -= 1
            idle = [one for one in self._lines[:-1] if not one.calls]
            self._lines = [one for one in self._lines if one not in idle]
        return [one.channel for one in idle]

    def close(self) -> list[C]:
        """The channels to be closed, all of them. No call can begin after it."""
        with self._lock:
            self._closed = True
            return [line.channel for line in self._lines]

    def _new(self) -> Line[C]:
        made_with = self._credentials.for_channel
        return Line(self._make(made_with), made_with)


@dataclass(frozen=True)
class _Identity:
    channel: grpc.ChannelCredentials
    ends: datetime


class _Watched(Generic[T]):
    """What a file, or a folder of certificates, last held that makes sense."""

    def __init__(self, path: Path, read: Callable[[Path], tuple[object, T]]) -> None:
        self.path = path
        self._read = read
        self._lock = threading.Lock()
        self._wrong = ""
        self._look_due = time.monotonic() + LOOK_EVERY_S
        self._version, self.content = read(path)

    def refresh(self, *, at_once: bool) -> None:
        if not at_once and time.monotonic() < self._look_due:
            return
        with self._lock:
            self._look_due = time.monotonic() + LOOK_EVERY_S
            try:
                if _version(self.path) != self._version:
                    self._version, self.content = self._read(self.path)
                self._wrong = ""
            except (OSError, ValueError) as wrong:  # perhaps half written: looked at again
                if str(wrong) != self._wrong:
                    self._wrong = str(wrong)
                    logger.warning("keeps the credentials it has: %s", wrong)


def _read_identity(folder: Path) -> tuple[object, _Identity]:
    """The certificates of a folder, all three of one version. Raises: ValueError."""
    try:
        version = _version(folder)
        certificate, key, authorities = (
            (folder / name).read_bytes() for name in (_CERTIFICATE, _KEY, _AUTHORITIES)
        )
        check = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        check.load_cert_chain(folder / _CERTIFICATE, folder / _KEY, password="")
        check.load_verify_locations(cadata=authorities.decode("ascii"))
        ends = _end_of(certificate)
    except (OSError, ValueError) as wrong:  # ssl's errors are OSErrors
        raise ValueError(
            f"IDENTITY_DIR {folder} must hold tls.crt with its tls.key, and ca.crt, as PEM: {wrong}"
        ) from wrong
    if _version(folder) != version:
        raise ValueError(f"IDENTITY_DIR {folder} is just being written to.")
    return version, _Identity(grpc.ssl_channel_credentials(authorities, key, certificate), ends)


def _read_token(file: Path) -> tuple[object, Metadata]:
    """The token of a file. Raises: ValueError."""
    try:
        version = _version(file)
        token = file.read_text("ascii").strip()
    except (OSError, ValueError) as wrong:
        raise ValueError(f"TOKEN_FILE {file} cannot be read: {wrong}") from wrong
    if not re.fullmatch(r"[!-~]+", token):
        raise ValueError(f"TOKEN_FILE {file} must hold one token and nothing else.")
    return version, (("authorization", f"Bearer {token}"),)


def _version(path: Path) -> object:
    """Another value once a file was written or put in another's place."""
    files = (
        [path / name for name in (_CERTIFICATE, _KEY, _AUTHORITIES)] if path.is_dir() else [path]
    )
    return [(at.st_ino, at.st_mtime_ns, at.st_size) for at in (file.stat() for file in files)]


def _end_of(certificate: bytes) -> datetime:
    """Until when the first certificate of a PEM text is valid."""
    begin, end = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"
    first = certificate[certificate.index(begin) : certificate.index(end) + len(end)]
    found = _VALIDITY.search(ssl.PEM_cert_to_DER_cert(first.decode("ascii")))
    if found is None:
        raise ValueError("tls.crt does not say until when it is valid")
    stamp = found[1].decode()
    year = stamp if len(stamp) == 14 else "20" + stamp
    return datetime.strptime(year, "%Y%m%d%H%M%S").replace(tzinfo=UTC)

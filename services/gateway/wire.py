"""The TWS wire: each message is a frame, a 4-byte length and then fields that end with NUL."""

import struct
from collections.abc import Iterator
from decimal import Decimal

Field = str | int | bool | Decimal | None

SERVER_VERSION = 176  # the newest that both client libraries decode
HELLO = b"API\0"  # what a client says first; its versions follow as a frame without NUL
LONGEST_FRAME = 1 << 20
UNSET_DOUBLE = "1.7976931348623157E308"  # how the wire says "no value" where empty means 0


class WireError(Exception):
    """The bytes are no TWS messages."""


def frame(*fields: Field) -> bytes:
    """One message, ready to be sent."""
    body = "".join(f"{text_of(field)}\0" for field in fields).encode()
    return struct.pack(">I", len(body)) + body


def text_of(field: Field) -> str:
    """A field as the wire spells it: None is empty, a bool 1 or 0, a Decimal without exponent."""
    if field is None:
        return ""
    if isinstance(field, bool):
        return "1" if field else "0"
    if isinstance(field, Decimal):
        return f"{field:f}"
    return str(field)


class FrameReader:
    """Turns the bytes of one connection into messages."""

    def __init__(self) -> None:
        self._bytes = b""
        self._greeted = False

    def feed(self, received: bytes) -> Iterator[list[str]]:
        """The messages that are complete by now; the first is the client's versions.

        Raises:
            WireError: It is no TWS client that speaks.
        """
        self._bytes += received
        if not self._greeted and len(self._bytes) >= len(HELLO):
            if not self._bytes.startswith(HELLO):
                raise WireError(f"it began with {self._bytes[:8]!r}, a TWS client with {HELLO!r}")
            self._bytes = self._bytes[len(HELLO) :]
            self._greeted = True
        while self._greeted and len(self._bytes) >= 4:
            (length,) = struct.unpack_from(">I", self._bytes)
            if length > LONGEST_FRAME:
                raise WireError(f"a frame of {length} bytes; {LONGEST_FRAME} is the most")
            if len(self._bytes) < 4 + length:
                return
            body, self._bytes = self._bytes[4 : 4 + length], self._bytes[4 + length :]
            yield body.decode(errors="replace").removesuffix("\0").split("\0")

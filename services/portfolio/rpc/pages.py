"""Pages (AIP-158): a size that is bounded, and a token that says where the next page begins."""

import base64
import binascii
import hashlib
from collections.abc import Callable
from typing import TypeVar

import orjson

from services.portfolio.rpc.errors import InvalidPageTokenError

DEFAULT_SIZE = 50
LARGEST_SIZE = 1000

Place = TypeVar("Place")


def size_of(page_size: int) -> int:
    """How many rows the page shall have."""
    return min(page_size or DEFAULT_SIZE, LARGEST_SIZE)


def token_of(last: list[str], filters: object) -> str:
    """A token for the page after `last`, for these filters alone."""
    return base64.urlsafe_b64encode(orjson.dumps([_digest(filters), *last])).decode()


def place_of(token: str, filters: object, parse: Callable[..., Place]) -> Place | None:
    """Where the page begins, as `parse` reads the token's texts; None for the first page.

    Raises:
        InvalidPageTokenError: The token is not one of this list with these filters.
    """
    if not token:
        return None
    try:
        digest, *last = orjson.loads(base64.b64decode(token, altchars=b"-_", validate=True))
        if digest == _digest(filters):
            return parse(*last)
    except (binascii.Error, ValueError, TypeError, AttributeError):
        pass
    raise InvalidPageTokenError


def _digest(filters: object) -> str:
    return hashlib.blake2b(repr(filters).encode(), digest_size=6).hexdigest()

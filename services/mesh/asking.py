"""Asks the running mesh by REST as the operator here: for the commands beside `make up`."""

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

from services.mesh.access import Access
from services.mesh.errors import MeshError

READ_S = 300  # an audit reads the whole ledger; a plan for many strategies takes its time


def show_who_we_are(access: Access) -> None:
    """Has each `ask` of this process show what `make up` with these settings has made.

    Raises:
        MeshError: Nothing usable was made yet.
    """
    try:
        urllib.request.install_opener(access.opener())
    except OSError as error:
        raise MeshError(
            f"{error.filename or 'A certificate'} cannot be used ({error.strerror}): run `make up` "
            "first, with the same DATA_DIR and AUTH."
        ) from None


def ask(url: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The answer to a GET, or to a POST of this body, as JSON.

    Raises:
        MeshError: It is refused, or nothing answers there.
    """
    request = urllib.request.Request(  # noqa: S310 (always http, or https)
        url,
        None if body is None else json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=READ_S) as answer:  # noqa: S310
            return dict(json.load(answer))
    except urllib.error.HTTPError as error:
        raise MeshError(f"{url} says: {error.read().decode(errors='replace')}") from None
    except OSError as error:
        raise MeshError(
            f"{url} does not answer ({error}): run `make up` first, and this with the same PORT "
            "and AUTH."
        ) from None

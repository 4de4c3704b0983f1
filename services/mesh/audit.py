"""`make audit`: has the running mesh recompute every book from its facts; says what differs.

Exit code 0: balanced. 1: a figure differs, or nothing answers.
"""

import json
import sys
import urllib.error
import urllib.request
from typing import Any

from services.mesh.access import Access
from services.mesh.errors import MeshError
from services.mesh.settings import read_settings

READ_S = 300  # it reads the whole ledger


def main() -> None:
    """Prints one line a difference, and the verdict."""
    try:
        access = Access(read_settings())
        urllib.request.install_opener(access.opener())
        answer = read_audit(f"{access.url}/audit")
    except (MeshError, OSError) as error:  # OSError: no certificate or token has been made yet
        sys.exit(str(error))
    for one in answer["differences"]:
        print(
            f"{one['strategy_name']} {one['mode']} {one['figure']}: "
            f"recorded {one['recorded']}, recomputed {one['recomputed']}"
        )
    print(f"{answer['books']} books: {'balanced' if answer['balanced'] else 'NOT balanced'}")
    sys.exit(not answer["balanced"])


def read_audit(url: str) -> dict[str, Any]:
    """The router's AuditResponse as JSON."""
    try:
        with urllib.request.urlopen(url, timeout=READ_S) as answer:  # noqa: S310 (our own address)
            return dict(json.load(answer))
    except urllib.error.HTTPError as error:
        raise MeshError(f"{url} says: {error.read().decode(errors='replace')}") from None
    except OSError as error:
        raise MeshError(f"{url} does not answer ({error}): run `make up` first.") from None


if __name__ == "__main__":
    main()

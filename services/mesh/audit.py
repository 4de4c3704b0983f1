"""`make audit`: has the running mesh recompute every book from its facts; says what differs.

Exit code 0: balanced. 1: a figure differs, or nothing answers.
"""

import sys

from services.mesh.access import Access
from services.mesh.asking import ask, show_who_we_are
from services.mesh.errors import MeshError
from services.mesh.settings import read_settings


def main() -> None:
    """Prints one line a difference, and the verdict."""
    try:
        access = Access(read_settings())
        show_who_we_are(access)
        answer = ask(f"{access.url}/audit")
    except MeshError as error:
        sys.exit(str(error))
    for one in answer["differences"]:
        print(
            f"{one['strategy_name']} {one['mode']} {one['figure']}: "
            f"recorded {one['recorded']}, recomputed {one['recomputed']}"
        )
    print(f"{answer['books']} books: {'balanced' if answer['balanced'] else 'NOT balanced'}")
    sys.exit(not answer["balanced"])


if __name__ == "__main__":
    main()

"""`python -m services.mesh`, which `make up` runs: reads the settings and runs the mesh.

Exit code 0 after Ctrl-C or SIGTERM; 1 when it cannot start, with one line that says why.
"""

import sys

from services.mesh.errors import MeshError
from services.mesh.settings import read_settings


def main() -> None:
    """Runs the mesh until it is told to stop."""
    try:
        settings = read_settings()
        # Imported only now, so that a wrong setting is answered at once.
        from services.mesh.mesh import Mesh  # noqa: PLC0415

        Mesh(settings).run()
    except MeshError as error:
        sys.exit(f"make up: {error}")


if __name__ == "__main__":
    main()

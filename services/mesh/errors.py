"""What stops the mesh from starting."""


class MeshError(Exception):
    """The mesh cannot start or go on; the message is one line that says why and what to do."""

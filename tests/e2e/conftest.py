"""What end-to-end tests share."""

import pytest

from tests.e2e.rest import Rest
from tests.support.mesh import Mesh


@pytest.fixture
def rest(mesh: Mesh) -> Rest:
    """REST calls to the worker's mesh."""
    return Rest(mesh.rest_url)

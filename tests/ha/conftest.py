"""The mesh on more than one machine, for one test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ha.mesh import Mesh, running
from tests.support.replicated import Replicated, replicated


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Replicated]:
    """A primary and its synchronous standby."""
    with replicated(tmp_path) as one:
        yield one


@pytest.fixture
def mesh(pair: Replicated, tmp_path: Path) -> Iterator[Mesh]:
    """Three routers and two Envoys on it."""
    with running(pair, tmp_path) as one:
        yield one

"""Whatever router or door is rolled or lost under load: nothing is lost, nothing comes twice."""

import os
import signal
from collections.abc import Iterator

import pytest

from tests.ha.mesh import READY_S, Mesh, running, under_load
from tests.support.replicated import replicated
from tests.support.waiting import wait_until


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """One for these tests: each leaves it whole."""
    folder = tmp_path_factory.mktemp("mesh")
    with replicated(folder) as pair, running(pair, folder) as one:
        yield one


def test_rolling_every_router_fails_no_call(mesh: Mesh) -> None:
    with under_load(mesh, patient=False) as load:
        mesh.roll()
    assert load.failed == []
    assert load.reads > 0
    mesh.assert_kept(load)


def test_killing_a_router_loses_and_doubles_nothing(mesh: Mesh) -> None:
    router = mesh.routers[0]
    with under_load(mesh, patient=True) as load:
        router.kill()
        load.until_more()
        router.start()
        mesh.wait_whole()
    assert load.failed == []
    mesh.assert_kept(load)


def test_killing_a_door_sends_callers_that_know_both_to_the_other(mesh: Mesh) -> None:
    door = mesh.envoys[1]
    with under_load(mesh, patient=True) as load:
        os.kill(door.pid, signal.SIGKILL)
        wait_until(lambda: door.exit_code() is not None, 10, "it is gone")
        load.until_more()
        door.start()
        door.wait_ready(READY_S)
    assert load.failed == []
    mesh.assert_kept(load)

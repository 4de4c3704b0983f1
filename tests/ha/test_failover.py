"""The primary dies under load and the standby takes over: every answered order is there."""

import time

from tests.ha.mesh import Mesh, under_load


def test_a_failover_of_the_database_keeps_every_answered_order(mesh: Mesh) -> None:
    with under_load(mesh, patient=True) as load:
        killed = time.monotonic()
        mesh.database.fail_over()
        promoted = time.monotonic()
        load.until_more(100)
    print(
        f"\nThe standby took over {promoted - killed:.2f} s after the primary's death; the longest "
        f"time without an answered order was {load.longest_pause_s():.2f} s."
    )
    assert load.failed == []
    mesh.assert_kept(load)

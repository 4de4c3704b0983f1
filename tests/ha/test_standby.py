"""When the synchronous standby is lost, a commit waits for it: what callers see meanwhile."""

import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.ha.mesh import ANSWER_S, STRATEGIES, Mesh, running
from tests.support.database import psql
from tests.support.replicated import Replicated

SOON_S = 20.0  # 6 s behind a batch that waits twice for a lock, 6 itself, 4 for a commit; and more


@pytest.fixture
def mesh(pair: Replicated, tmp_path: Path) -> Iterator[Mesh]:
    """Two routers are enough here."""
    with running(pair, tmp_path, routers=2) as one:
        yield one


def order(mesh: Mesh, strategy: str, request_id: str) -> requests.Response:
    """An order by REST."""
    wish = {
        "strategy_name": strategy,
        "symbol": "SPXL",
        "side": "BUY",
        "quantity": 1,
        "price": 1.0,
        "request_id": request_id,
    }
    return requests.post(f"{mesh.rest()}/orders", json=wish, timeout=ANSWER_S)


def test_while_the_standby_is_away_writes_are_refused_and_what_hung_is_there_after(
    mesh: Mesh,
) -> None:
    mesh.database.standby.kill()
    request_ids = [str(uuid.uuid4()) for _ in range(4)]
    for strategy, request_id in zip(STRATEGIES, request_ids, strict=False):
        began = time.monotonic()
        refused = order(mesh, strategy, request_id)
        assert time.monotonic() - began < SOON_S
        assert refused.status_code == 503, refused.text
        assert refused.json()["details"][0]["reason"] == "DATABASE_UNAVAILABLE"
    seen = {"strategy_name": STRATEGIES[5], "prices": [{"symbol": "SPXL", "price": 2}]}
    assert requests.post(f"{mesh.rest()}/prices", json=seen, timeout=ANSWER_S).status_code == 503
    # Nothing that could still be lost is shown; reads go on.
    listed = requests.get(f"{mesh.rest()}/orders", timeout=ANSWER_S)
    assert listed.json()["orders"] == []
    # Nor does that keep a router from stopping, or another from starting.
    router = mesh.routers[0]
    router.terminate()
    assert router.wait() == 0
    assert "Traceback" not in router.output()
    router.start()
    mesh.database.wait_for_standby(False)
    ids = []
    for strategy, request_id in zip(STRATEGIES, request_ids, strict=False):
        give_up = time.monotonic() + SOON_S
        while (answer := order(mesh, strategy, request_id)).status_code == 503:
            assert time.monotonic() < give_up, answer.text
        assert answer.status_code == 200, answer.text
        ids.append(answer.json()["order_id"])
    stored = psql(mesh.url, "SELECT order_id FROM orders ORDER BY order_id").splitlines()
    assert stored == sorted(ids)

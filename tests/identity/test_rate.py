"""RATE_LIMIT: how often each caller may call."""

from pathlib import Path

import grpc

from services.portfolio.rpc.admission import BURST_S, Admission, Rate
from services.portfolio.rpc.tokens import Tokens
from tests.identity.desk import Desk, Headers, Keyring, served
from tests.ports.stores import memory_store
from tests.support.waiting import wait_until_async

READ = "ListPortfolios"
MOST = 2 * BURST_S


async def use_up(desk: Desk, headers: Headers = ()) -> int:
    """Calls until it is refused; how often it was not."""
    taken = 0
    while (await desk.refused(READ, headers)).code is grpc.StatusCode.OK:
        taken += 1
    return taken


async def test_each_caller_has_a_rate_of_its_own(tmp_path: Path) -> None:
    keyring = Keyring(tmp_path / "keys.json")
    tokens = Tokens(keyring.path, "efficientfrontier")
    async with served(memory_store(), Admission(tokens.identify, Rate(2))) as desk:
        one, other = keyring.header("reader/one"), keyring.header("reader/other")
        assert MOST <= await use_up(desk, one) <= MOST + 2  # the clock goes on
        refused = await desk.refused(READ, one)
        assert (refused.code, refused.reason) == (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "RATE_LIMITED",
        )
        assert refused.figures["actor"] == "reader/one"
        assert refused.figures["calls_a_second"] == "2"
        assert 0 < float(refused.figures["retry_after_s"]) <= BURST_S
        # A new token is no new caller, and who is nobody is told that first.
        assert (await desk.refused(READ, keyring.header("reader/one", days=2))).reason == (
            "RATE_LIMITED"
        )
        assert (await desk.refused(READ)).reason == "CREDENTIALS_MISSING"
        assert (await desk.refused(READ, other)).code is grpc.StatusCode.OK

        async def is_taken() -> bool:
            return (await desk.refused(READ, one)).code is grpc.StatusCode.OK

        assert await wait_until_async(is_taken, 2 * BURST_S, "the next call is taken")


async def test_without_credentials_all_are_one_caller() -> None:
    async with served(memory_store(), Admission(None, Rate(2))) as desk:
        assert MOST <= await use_up(desk) <= MOST + 2
        refused = await desk.refused("HaltPortfolio")
        assert refused.reason == "RATE_LIMITED"
        assert refused.figures["actor"] == "anonymous"
        assert not (await desk.router.risk.standings())[0].halted

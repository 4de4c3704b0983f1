"""Fixtures of the SDK's tests: a clean environment, and a router on loopback that fails as told."""

from collections.abc import Iterator

import pytest

from tests.sdk.scripted_router import ScriptedRouter

pytest.register_assert_rewrite("tests.sdk.portfolio_contract")

SETTINGS = (
    "DATA_DIR",
    "EXCHANGE_CALENDAR",
    "IBKR_CLIENT_ID",
    "IBKR_FEED_CLIENT_ID",
    "IBKR_HOST",
    "IBKR_PORT",
    "IDENTITY_DIR",
    "INTERVAL_S",
    "LOG_FORMAT",
    "PORTFOLIO_ADDRESS",
    "POSITION_SYMBOL",
    "PRICE_FEED",
    "SMA_WINDOW",
    "STOP_AT_END",
    "STRATEGY_NAME",
    "SYMBOL",
    "TOKEN_FILE",
)


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def router() -> Iterator[ScriptedRouter]:
    """A real gRPC server on loopback, answering by the rules in memory."""
    with ScriptedRouter() as running:
        yield running

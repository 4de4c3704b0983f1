"""The router's settings, as the environment gives them."""

from decimal import Decimal

import pytest
from pydantic import ValidationError

from services.portfolio.domain.promotion import Rule
from tests.support.settings import settings_from

pytestmark = pytest.mark.usefixtures("no_settings")

IBKR = {
    "IBKR_HOST": "127.0.0.1",
    "IBKR_PORT": "4002",
    "IBKR_CLIENT_ID": "7",
    "IBKR_ACCOUNT": "DU1000001",
    "AUTH": "none",
}


def test_live_names_each_setting_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings_from(monkeypatch).missing_for_live() == list(IBKR)
    for name in IBKR:
        others = {key: value for key, value in IBKR.items() if key != name}
        with monkeypatch.context() as one:
            assert settings_from(one, **others).missing_for_live() == [name]
    assert settings_from(monkeypatch, **IBKR).missing_for_live() == []


def test_the_live_capital_is_the_paper_capital_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings_from(monkeypatch, PORTFOLIO_CAPITAL="500").capital_of_live == 500
    assert settings_from(monkeypatch, LIVE_CAPITAL="70").capital_of_live == 70
    assert settings_from(monkeypatch, LIVE_CAPITAL="0").capital_of_live == 0


def test_the_distance_of_a_price_may_be_off(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings_from(monkeypatch).price_distance == Decimal("0.05")
    assert settings_from(monkeypatch, PRICE_DISTANCE="0.1").price_distance == Decimal("0.1")
    assert settings_from(monkeypatch, PRICE_DISTANCE="off").price_distance is None


def test_the_promotion_rule_is_what_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings_from(monkeypatch).promotion_rule == Rule()
    told = {
        "PROMOTION": "at_once",
        "PROMOTE_MIN_DAYS": "1",
        "PROMOTE_MIN_TRADES": "2",
        "PROMOTE_MIN_SHARPE": "-3",
        "PROMOTE_MAX_DRAWDOWN": "0.4",
        "PROMOTE_PRICE_AGE_S": "5",
        "DEMOTE_MAX_DRAWDOWN": "0.6",
        "DEMOTE_MIN_SHARPE": "-7",
        "DEMOTE_DAYS": "8",
    }
    rule = settings_from(monkeypatch, **told).promotion_rule
    assert rule == Rule(True, 1, 2, -3.0, 0.4, 5.0, 0.6, -7.0, 8)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PROMOTION", "soon"),
        ("PROMOTE_MIN_DAYS", "0"),
        ("PROMOTE_MIN_TRADES", "1001"),
        ("PROMOTE_MIN_SHARPE", "nan"),
        ("PROMOTE_MAX_DRAWDOWN", "25"),
        ("PROMOTE_PRICE_AGE_S", "0"),
        ("DEMOTE_MAX_DRAWDOWN", "-0.1"),
        ("DEMOTE_MIN_SHARPE", "inf"),
        ("DEMOTE_DAYS", "1"),
        ("PRICE_BUFFER", "-0.01"),
        ("PRICE_BUFFER", "2"),
        ("PRICE_DISTANCE", "0"),
        ("PRICE_DISTANCE", "no"),
        ("OUTSIDE_SESSION", "maybe"),
        ("AUTH", "password"),
        ("IBKR_PORT", "0"),
        ("IBKR_CLIENT_ID", "-1"),
        ("ANSWER_WITHIN_S", "0"),
        ("QUEUE_WITHIN_S", "0"),
        ("RECONCILE_EVERY_S", "0"),
        ("LIVE_CAPITAL", "-1"),
        ("TRUST_DOMAIN", "Desk One"),
        ("RATE_LIMIT", "0"),
        ("METRICS_EVERY_S", "0"),
        ("METRICS_EVERY_S", "nan"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    with pytest.raises(ValidationError, match=name.lower()):
        settings_from(monkeypatch, **{name: value})

"""The rule: at its edges, and what it says of those whom it is not asked about."""

from dataclasses import replace
from typing import Any

import pytest

from services.portfolio.domain.book import RequestedMode, State, Strategy
from services.portfolio.domain.order import Mode
from services.portfolio.domain.promotion import (
    DEMOTION,
    PROMOTION,
    REQUEST,
    Evidence,
    Results,
    Rule,
    Verdict,
    judged,
)
from tests.ledger.values import NAME, NOW

RULE = Rule()
ON_PAPER = Strategy(NAME, RequestedMode.AUTO, Mode.PAPER, State.ACTIVE, "", NOW)
ON_LIVE = replace(ON_PAPER, mode=Mode.LIVE, promoted=True, live_since=NOW)
JUST_ENOUGH = Results(60, 10, 0.5, 0.25, 86_400)
JUST_BEARABLE = Results(60, 0, -1.0, 0.2, None)


def failed(verdict: Verdict) -> list[str]:
    return [each.figure for each in verdict.evidence if not each.holds]


def test_a_strategy_that_has_just_enough_is_promoted() -> None:
    verdict = judged(RULE, ON_PAPER, JUST_ENOUGH)
    assert (verdict.rule, verdict.promoted, failed(verdict)) == (PROMOTION, True, [])
    assert verdict.evidence[:2] == (
        Evidence("days on paper", "60", "at least 60", holds=True),
        Evidence("trades", "10", "at least 10", holds=True),
    )


@pytest.mark.parametrize(
    ("missed", "figure"),
    [
        ({"days": 59}, "days on paper"),
        ({"trades": 9}, "trades"),
        ({"sharpe_ratio": 0.499999}, "Sharpe ratio"),
        ({"sharpe_ratio": None}, "Sharpe ratio"),
        ({"max_drawdown": 0.250001}, "maximum drawdown"),
        ({"max_drawdown": None}, "maximum drawdown"),
        ({"price_age_s": 86_401}, "age of its last price, in s"),
        ({"price_age_s": None}, "age of its last price, in s"),
    ],
)
def test_one_figure_just_short_keeps_it_on_paper(missed: dict[str, Any], figure: str) -> None:
    verdict = judged(RULE, ON_PAPER, replace(JUST_ENOUGH, **missed))
    assert (verdict.rule, verdict.promoted, failed(verdict)) == (PROMOTION, False, [figure])
    assert verdict.reason.startswith(f"It stays on paper: {figure} ")


def test_a_halted_strategy_is_not_promoted() -> None:
    for halted in (replace(ON_PAPER, state=State.HALTED), replace(ON_PAPER, portfolio_halted=True)):
        assert failed(judged(RULE, halted, JUST_ENOUGH)) == ["state"]


def test_one_that_was_promoted_and_waits_is_held_to_the_same_rule() -> None:
    waits = replace(ON_PAPER, promoted=True)
    assert judged(RULE, waits, JUST_ENOUGH).promoted
    assert not judged(RULE, waits, replace(JUST_ENOUGH, sharpe_ratio=0.4)).promoted


def test_a_live_strategy_stays_as_long_as_it_is_bearable() -> None:
    verdict = judged(RULE, ON_LIVE, JUST_BEARABLE)
    assert (verdict.rule, verdict.promoted, failed(verdict)) == (DEMOTION, True, [])


@pytest.mark.parametrize(
    ("missed", "figure"),
    [
        ({"max_drawdown": 0.200001}, "maximum drawdown LIVE"),
        ({"sharpe_ratio": -1.00001}, "Sharpe ratio of the last 60 days LIVE"),
    ],
)
def test_a_live_strategy_just_beyond_it_goes_back(missed: dict[str, Any], figure: str) -> None:
    verdict = judged(RULE, ON_LIVE, replace(JUST_BEARABLE, **missed))
    assert (verdict.rule, verdict.promoted, failed(verdict)) == (DEMOTION, False, [figure])


def test_the_sharpe_ratio_counts_only_once_there_are_enough_days() -> None:
    for few in ({"days": 59, "sharpe_ratio": -9.0}, {"sharpe_ratio": None}):
        assert judged(RULE, ON_LIVE, replace(JUST_BEARABLE, **few)).promoted
    assert judged(RULE, ON_LIVE, Results(0, 0, None, None, None)).promoted


def test_a_demoted_strategy_stays_demoted_whatever_comes_before_it_is_flat() -> None:
    verdict = judged(RULE, replace(ON_LIVE, promoted=False), JUST_BEARABLE)
    assert (verdict.rule, verdict.promoted, failed(verdict)) == (DEMOTION, False, [])


@pytest.mark.parametrize("wish", [RequestedMode.PAPER, RequestedMode.LIVE])
@pytest.mark.parametrize("promoted", [True, False])
def test_a_mode_by_name_is_not_the_rules_to_judge(wish: RequestedMode, promoted: bool) -> None:
    verdict = judged(RULE, replace(ON_PAPER, requested_mode=wish, promoted=promoted), JUST_ENOUGH)
    assert (verdict.rule, verdict.promoted) == (REQUEST, promoted)
    assert wish in verdict.reason


def test_at_once_asks_for_no_results() -> None:
    verdict = judged(Rule(at_once=True), ON_LIVE, Results(0, 0, None, 1.0, None))
    assert (verdict.promoted, failed(verdict)) == (True, [])
    assert verdict.evidence[0].value == "at_once"


def test_every_figure_of_the_rule_is_a_setting() -> None:
    other = Rule(False, 5, 1, 0.1, 0.5, 60.0, 0.1, -2.0, 5)
    assert judged(other, ON_PAPER, Results(5, 1, 0.1, 0.5, 60.0)).promoted
    assert judged(other, ON_LIVE, Results(5, 0, -2.0, 0.1, None)).promoted
    assert failed(judged(other, ON_PAPER, Results(4, 0, 0.09, 0.51, 61.0))) == [
        "days on paper",
        "trades",
        "Sharpe ratio",
        "maximum drawdown",
        "age of its last price, in s",
    ]
    assert len(failed(judged(other, ON_LIVE, Results(5, 0, -2.1, 0.11, None)))) == 2

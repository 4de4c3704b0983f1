"""Promotion: who trades LIVE by its results, and the record of every decision."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from services.portfolio.domain.book import RequestedMode, Strategy
from services.portfolio.domain.order import Mode

# What a decision is by.
PROMOTION = "promotion"
DEMOTION = "demotion"
REQUEST = "request"  # requested_mode
TRADING_MODE = "trading_mode"  # nothing is LIVE while TRADING_MODE is PAPER


class Outcome(StrEnum):
    """What followed from a decision."""

    STAYS = "STAYS"
    CHANGED = "CHANGED"
    WAITS_UNTIL_FLAT = "WAITS_UNTIL_FLAT"


@dataclass(frozen=True, slots=True)
class Evidence:
    """One thing that a rule asked, and the answer."""

    figure: str
    value: str
    wanted: str
    holds: bool


@dataclass(frozen=True, slots=True)
class Decision:
    """A fact: what was decided about a strategy's mode."""

    decision_id: UUID
    strategy_name: str
    time: datetime
    rule: str  # promotion, demotion, request or trading_mode
    requested_mode: RequestedMode
    from_mode: Mode
    to_mode: Mode
    outcome: Outcome
    reason: str
    evidence: tuple[Evidence, ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """What PROMOTION and the settings beside it say. Drawdowns are shares: 0.25 is 25 %."""

    at_once: bool = False  # every strategy on AUTO counts as promoted, whatever its results
    min_days: int = 60
    min_trades: int = 10
    min_sharpe: float = 0.5
    max_drawdown: float = 0.25
    max_price_age_s: float = 86_400.0
    live_max_drawdown: float = 0.2
    live_min_sharpe: float = -1.0
    live_days: int = 60  # that the Sharpe ratio of a LIVE strategy is of


@dataclass(frozen=True, slots=True)
class Results:
    """How a strategy has done in its mode in force: since it went LIVE, or since it came back.

    Ratios and drawdowns are those of analysis.statistics; None where they are not defined.
    """

    days: int  # closes
    trades: int  # orders that were filled, in whole or in part
    sharpe_ratio: float | None  # of all these days; of a LIVE strategy, of the last Rule.live_days
    max_drawdown: float | None
    price_age_s: float | None  # of the last price that it reported


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a rule says of a strategy, and why."""

    rule: str
    promoted: bool
    reason: str
    evidence: tuple[Evidence, ...]

    def repeats(self, last: Decision | None) -> bool:
        """Whether the last decision was by the same rule, with the same answers to it."""
        if last is None or last.rule != self.rule:
            return False
        said = {(each.figure, each.holds) for each in last.evidence}
        return all((each.figure, each.holds) in said for each in self.evidence)


def judged(rule: Rule, strategy: Strategy, results: Results) -> Verdict:
    """What the rule says of a strategy: on PAPER whether it goes LIVE, on LIVE whether it stays.

    One whose owner asks for a mode by name has it, and no rule is asked.
    """
    if strategy.requested_mode is not RequestedMode.AUTO:
        wish = strategy.requested_mode.value
        asked = Evidence("requested_mode", wish, "AUTO for the rule to decide", holds=False)
        return Verdict(REQUEST, strategy.promoted, f"Its owner asks for {wish}.", (asked,))
    if rule.at_once:
        at_once = Evidence("PROMOTION", "at_once", "at_once", holds=True)
        reason = "PROMOTION=at_once: AUTO counts as promoted, whatever the results."
        return Verdict(PROMOTION, strategy.promoted, reason, (at_once,))
    if strategy.mode is Mode.PAPER:
        return _promotion(rule, strategy, results)
    return _demotion(rule, strategy, results)


def _promotion(rule: Rule, strategy: Strategy, results: Results) -> Verdict:
    sharpe, fall, age_s = results.sharpe_ratio, results.max_drawdown, results.price_age_s
    evidence = (
        _at_least("days on paper", results.days, rule.min_days),
        _at_least("trades", results.trades, rule.min_trades),
        _at_least("Sharpe ratio", sharpe, rule.min_sharpe),
        _at_most("maximum drawdown", fall, rule.max_drawdown),
        _at_most("age of its last price, in s", age_s, rule.max_price_age_s),
        Evidence(
            "state",
            "HALTED" if strategy.is_halted else "ACTIVE",
            "ACTIVE",
            holds=not strategy.is_halted,
        ),
    )
    failed = _failed(evidence)
    reason = f"It stays on paper: {failed}." if failed else "All that the rule asks holds."
    return Verdict(PROMOTION, not failed, reason, evidence)


def _demotion(rule: Rule, strategy: Strategy, results: Results) -> Verdict:
    sharpe = Evidence(
        f"Sharpe ratio of the last {rule.live_days} days LIVE",
        _text(results.sharpe_ratio) if results.days >= rule.live_days else f"{results.days} days",
        f"at least {_text(rule.live_min_sharpe)}",
        holds=results.days < rule.live_days
        or results.sharpe_ratio is None
        or results.sharpe_ratio >= rule.live_min_sharpe,
    )
    fall = results.max_drawdown or 0.0  # before the first close there is none
    evidence = (_at_most("maximum drawdown LIVE", fall, rule.live_max_drawdown), sharpe)
    failed = _failed(evidence)
    if failed:
        return Verdict(DEMOTION, False, f"It goes back to paper: {failed}.", evidence)
    if not strategy.promoted:
        # What it was demoted for may hold again before it is flat; going back and forth helps none.
        return Verdict(DEMOTION, False, "It is not promoted, and LIVE until it is flat.", evidence)
    return Verdict(DEMOTION, True, "Nothing that the rule forbids has happened.", evidence)


def _at_least(figure: str, value: float | None, wanted: float) -> Evidence:
    holds = value is not None and value >= wanted
    return Evidence(figure, _text(value), f"at least {_text(wanted)}", holds)


def _at_most(figure: str, value: float | None, wanted: float) -> Evidence:
    holds = value is not None and value <= wanted
    return Evidence(figure, _text(value), f"at most {_text(wanted)}", holds)


def _failed(evidence: tuple[Evidence, ...]) -> str:
    """What does not hold, for a person to read; empty when all does."""
    return "; ".join(
        f"{each.figure} {each.value}, wanted {each.wanted}" for each in evidence if not each.holds
    )


def _text(value: float | None) -> str:
    return "none" if value is None else f"{value:.6g}"

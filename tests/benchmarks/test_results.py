"""Ratios are computed round by round, and a target says truly whether it is met."""

import pytest

from benchmarks import live, plan, report
from benchmarks.drivers import Sample
from benchmarks.results import Key, Results, Target

OURS, THEIRS = Key("ours", "orders", 64), Key("theirs", "orders", 64)


def results(ours: list[float], theirs: list[float]) -> Results:
    made = Results()
    for key, rates in ((OURS, ours), (THEIRS, theirs)):
        for rate in rates:
            made.add(key, Sample(rate, 1000 / rate, 2000 / rate, int(rate), 0.1))
    return made


def test_a_ratio_is_the_median_of_the_ratios_of_the_rounds() -> None:
    target = Target("Orders", OURS, THEIRS, "rate", 10)

    # The second round was slow for both, which leaves its ratio as it is.
    assert target.ratio(results([1000, 100, 1300], [100, 10, 100])) == 10


def test_cost_is_the_inverse_of_the_rate_and_p99_a_latency() -> None:
    measured = results([100], [200])

    assert Target("", OURS, THEIRS, "cost", 1.2, is_upper=True).ratio(measured) == 2
    assert Target("", OURS, THEIRS, "p99", 0.25, is_upper=True).ratio(measured) == 2


@pytest.mark.parametrize(
    ("is_upper", "ratio", "met"),
    [(False, 10.0, True), (False, 9.99, False), (True, 10.0, True), (True, 10.01, False)],
)
def test_a_bound_is_the_least_or_the_most(is_upper: bool, ratio: float, met: bool) -> None:
    assert Target("", OURS, THEIRS, "rate", 10, is_upper=is_upper).is_met(ratio) is met


def test_a_target_without_a_bound_is_a_ratio_to_know_and_nothing_to_meet() -> None:
    target = Target("Orders", OURS, THEIRS, "p50")

    text = report.markdown(results([100], [200]), (target,), {}, "1 round.")

    assert "| Orders, 64 callers | theirs | 2.00 | none | - |" in text


def test_the_report_says_what_is_met_and_what_is_not() -> None:
    targets = (Target("Orders", OURS, THEIRS, "rate", 10), Target("More", OURS, THEIRS, "rate", 99))

    text = report.markdown(results([1000], [100]), targets, {"CPU": "fast"}, "1 round.")

    assert "| Orders, 64 callers | theirs | 10.00 | at least 10 | yes |" in text
    assert "| More, 64 callers | theirs | 10.00 | at least 99 | NO |" in text
    assert "| orders | ours | 64 | 1,000 | 1.00 | 2.00 | 10% |" in text
    assert "| CPU | fast |" in text


def test_each_target_compares_the_same_work_for_as_many_callers() -> None:
    for target in (*plan.TARGETS, *live.TARGETS):
        assert target.of[1:] == target.beside[1:]
        assert target.of.system != target.beside.system


def test_callers_are_crews_of_one_strategy_each_other_ones_in_each_round() -> None:
    def crews(strategies: int, round_: int) -> list[tuple[bytes, int]]:
        return plan.crews_that(plan.order_of, strategies, callers=64, round_=round_)

    assert sum(callers for _, callers in crews(100, 1)) == 64
    assert len({order for order, _ in crews(100, 1)}) == len(crews(100, 1)) > 30
    assert crews(100, 1) == crews(100, 1)
    assert crews(100, 1) != crews(100, 2)
    assert crews(1, 1) == [(plan.order_of("Bench_001").SerializeToString(), 64)]

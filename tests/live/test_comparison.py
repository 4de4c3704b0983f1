"""A difference in positions counts when two looks have seen the same one."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from services.portfolio.domain.reconciliation import Reconciliation, compare
from services.portfolio.live.comparison import Comparison

NOON = datetime(2026, 3, 4, 17, 0, tzinfo=UTC)
SURE = timedelta(seconds=1)
D = Decimal


def look(
    comparison: Comparison, seconds: float, broker: int, ours: int, acknowledged: int = 0
) -> list[str]:
    """Takes a look at SPXL; returns what is frozen."""
    rows = compare({"SPXL": D(broker)}, {"SPXL": D(ours)}, {"SPXL": D(acknowledged)})
    comparison.take(rows, NOON + timedelta(seconds=seconds))
    return list(comparison.frozen)


def test_a_difference_seen_twice_freezes_its_symbol_until_it_is_gone() -> None:
    comparison = Comparison(SURE)
    assert look(comparison, 0, 10, 10) == []
    assert look(comparison, 1, 15, 10) == []
    assert comparison.unsure
    assert look(comparison, 1.5, 15, 10) == []  # too soon to be sure
    assert look(comparison, 2, 15, 10) == ["SPXL"]
    assert not comparison.unsure
    (row,) = comparison.rows
    assert (row.broker, row.strategies, row.unattributed) == (15, 10, 5)
    assert look(comparison, 3, 15, 15) == []


def test_a_difference_that_keeps_changing_is_a_fill_on_its_way() -> None:
    comparison = Comparison(SURE)
    for second in range(10):
        assert look(comparison, second, second + 1, second) == []
    assert comparison.unsure
    assert look(comparison, 10, 10, 10) == []
    assert not comparison.unsure


def test_what_was_acknowledged_is_no_break_and_a_change_of_it_is() -> None:
    comparison = Comparison(SURE)
    assert look(comparison, 0, 15, 10, 5) == []
    assert not comparison.unsure
    look(comparison, 1, 16, 10, 5)
    assert look(comparison, 2, 16, 10, 5) == ["SPXL"]


def test_a_frozen_symbol_whose_difference_changes_stays_frozen() -> None:
    comparison = Comparison(SURE)
    look(comparison, 0, 15, 10)
    look(comparison, 1, 15, 10)
    assert look(comparison, 2, 17, 10) == ["SPXL"]
    assert comparison.rows[0].broker == 15  # as published; the new one is not sure yet
    look(comparison, 3, 17, 10)
    assert comparison.rows[0].broker == 17


def test_strategies_and_unattributed_are_the_broker_s_per_symbol() -> None:
    rows = compare({"A": D(3), "B": D(-2)}, {"A": D(1), "C": D(4)}, {"D": D(0)})
    assert [(r.symbol, r.unattributed) for r in rows] == [("A", 2), ("B", -2), ("C", -4)]
    assert all(r.strategies + r.unattributed == r.broker for r in rows)


def test_unallocated_cash_is_what_no_strategy_has() -> None:
    assert Reconciliation(NOON, (), D(100), D(130)).unallocated_cash == -30
    assert Reconciliation(NOON, (), None, D(130)).unallocated_cash is None

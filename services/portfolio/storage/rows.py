"""Between rows and the domain's values, and from rows to the readers' views."""

from collections.abc import Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Any, Protocol

import orjson
from pydantic import TypeAdapter

from services.portfolio.domain.book import RequestedMode, State
from services.portfolio.domain.capital import AllocationPolicy, Plan
from services.portfolio.domain.mutation import Mutation
from services.portfolio.domain.order import Fill, FillKind, Mode, Order, Side, Status
from services.portfolio.domain.promotion import Decision, Evidence, Outcome
from services.portfolio.domain.reconciliation import SymbolRow
from services.portfolio.domain.risk import NO_LIMITS, UNTOUCHED, Limits, Whole
from services.portfolio.domain.valuation import Valuation, ValuationKind
from services.portfolio.views import PortfolioView, PositionView

LIMITS = TypeAdapter(Limits)
POLICY = TypeAdapter(AllocationPolicy)
PLAN = TypeAdapter(Plan)
DECISION = TypeAdapter(Decision)


class Row(Protocol):
    """A row of the driver's or of SQLAlchemy's: values by column name."""

    def __getitem__(self, column: str, /) -> Any:
        """The value of a column."""


def json_rows(rows: Sequence[object]) -> str:
    """Values or dicts as a JSON array of rows, every Decimal exact."""
    return orjson.dumps(rows, default=str).decode()


def order_of(row: Row) -> Order:
    """An order, from all its columns."""
    return Order(
        row["order_id"],
        row["strategy_name"],
        Mode(row["mode"]),
        row["symbol"],
        Side(row["side"]),
        row["quantity"],
        row["price"],
        Status(row["status"]),
        row["filled_quantity"],
        row["filled_value"],
        row["commission"],
        row["reserved_cash"],
        row["reason"],
        row["request_id"],
        row["create_time"],
        row["update_time"],
        row["twin_of"],
    )


def fill_of(row: Row) -> Fill:
    """A fill, from all its columns."""
    return Fill(
        row["order_id"],
        row["execution_id"],
        row["book_version"],
        row["quantity"],
        row["price"],
        row["value"],
        row["commission"],
        row["time"],
        FillKind(row["kind"]),
    )


def mutation_of(row: Row) -> Mutation:
    """A mutation, from all its columns."""
    return Mutation(
        row["mutation_id"],
        row["create_time"],
        row["actor"],
        row["method"],
        row["strategy_name"],
        row["subject"],
        row["request_id"],
        row["trace_id"],
    )


def symbol_row_of(row: Row) -> SymbolRow:
    """One symbol of the account."""
    return SymbolRow(row["symbol"], row["broker"], row["strategies"], row["acknowledged"])


def position_view_of(row: Row) -> PositionView:
    """A position at market."""
    return PositionView(
        row["position_id"],
        row["strategy_name"],
        row["symbol"],
        Mode(row["mode"]),
        row["quantity"],
        row["cost"],
        row["market_price"],
        row["realized_pnl"],
        row["update_time"],
    )


def portfolio_view_of(row: Row) -> PortfolioView:
    """A strategy's state."""
    return PortfolioView(
        row["strategy_name"],
        Mode(row["mode"]),
        RequestedMode(row["requested_mode"]),
        State(row["state"]),
        row["cash"],
        row["reserved_cash"],
        row["positions_value"],
        row["positions_cost"],
        row["realized_pnl"],
        row["invested"],
        row["total_equity"],
        row["update_time"],
        row["halt_reason"],
        row["seen_time"],
        row["session"],
        None if row["lease_s"] is None else Decimal(row["lease_s"]),
    )


def decision_of(row: Row) -> Decision:
    """A decision, from all its columns; the evidence as JSON."""
    return Decision(
        row["decision_id"],
        row["strategy_name"],
        row["time"],
        row["rule"],
        RequestedMode(row["requested_mode"]),
        Mode(row["from_mode"]),
        Mode(row["to_mode"]),
        Outcome(row["outcome"]),
        row["reason"],
        tuple(Evidence(**each) for each in orjson.loads(row["evidence"])),
    )


@lru_cache(maxsize=4096)  # few are ever set, and each batch reads them
def limits_of(text: str | None) -> Limits:
    """Limits, from their JSON; none when there is none."""
    return NO_LIMITS if text is None else LIMITS.validate_json(text)


def limits_json(limits: Limits) -> dict[str, object] | None:
    """Limits as JSON has them; None when none is set."""
    return None if limits == NO_LIMITS else LIMITS.dump_python(limits, mode="json")


def whole_of(row: Row | None) -> Whole:
    """The portfolio as one."""
    if row is None:
        return UNTOUCHED
    limits = limits_of(row["limits"])
    return Whole(row["halted"], row["halt_reason"], limits, row["update_time"])


def valuation_of(row: Row) -> Valuation:
    """A valuation, from all its columns."""
    return Valuation(
        row["strategy_name"],
        Mode(row["mode"]),
        row["number"],
        row["session"],
        ValuationKind(row["kind"]),
        row["book_version"],
        row["cash"],
        row["positions_value"],
        row["flow"],
        row["growth"],
        row["time"],
    )

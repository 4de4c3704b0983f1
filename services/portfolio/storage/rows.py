"""Between rows and the domain's values, and from rows to the readers' views."""

from collections.abc import Sequence
from typing import Any, Protocol

import orjson

from services.portfolio.domain.book import RequestedMode, State
from services.portfolio.domain.order import Fill, FillKind, Mode, Order, Side, Status
from services.portfolio.domain.reconciliation import SymbolRow
from services.portfolio.views import PortfolioView, PositionView


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
    )

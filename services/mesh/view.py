"""The view: the board as a table and notes on the terminal, with nothing else known here."""

from collections.abc import Sequence
from decimal import Decimal

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text, TextType

from services.mesh.board import Board, Broker, Row, broker_line, shares, short

COLUMNS = ("Strategy", "Follows", "Session", "Price", "Average", "Holds", "Cash", "Equity", "P&L")


def render(board: Board, headline: TextType, footer: Sequence[str]) -> RenderableType:
    """The whole view: headline, broker, one line a strategy, the total, last notes, footer."""
    table = Table(box=box.SIMPLE_HEAD, show_footer=True)
    for column, total in zip(COLUMNS, totals(board), strict=True):
        table.add_column(
            column, total, justify="left" if column in COLUMNS[:3] else "right", no_wrap=True
        )
    for row in board.rows.values():
        table.add_row(*cells(row))
    return Group(
        headline,
        *([weather(board.broker)] if board.broker else []),
        table,
        *(Text(note, overflow="ellipsis", no_wrap=True) for note in board.notes),
        *(Text(line, style="dim") for line in footer),
    )


def weather(broker: Broker) -> Text:
    """How things stand with the broker: red when it takes no orders."""
    style = "green" if broker.takes_orders else "bold red"
    return Text(f"Broker: {broker_line(broker)}", style, overflow="ellipsis", no_wrap=True)


def cells(row: Row) -> tuple[RenderableType, ...]:
    """One strategy's cells, in the order of COLUMNS."""
    above = None if row.price is None or row.average is None else row.price > row.average
    return (
        named(row),
        row.symbol or "",
        row.session or "",
        Text(money(row.price), style={True: "green", False: "red", None: ""}[above]),
        money(row.average),
        holding(row),
        money(row.cash),
        money(row.equity),
        signed(row.pnl),
    )


def named(row: Row) -> Text:
    """The strategy's name, with what people should know of it at once."""
    name = Text(short(row.strategy_name), style="bold")
    if row.mode == "LIVE":
        name.append(" LIVE", style="bold magenta")
    if row.halted:
        name.append(" HALTED", style="yellow")
    if row.trouble:
        name.append(f" {row.trouble}", style="red")
    return name


def holding(row: Row) -> Text:
    """What it holds: `663 SPXL`, `cash`, or nothing while that is not known; and open orders."""
    held = Text("")
    if row.holdings is not None:
        owned = ", ".join(f"{shares(count)} {symbol}" for symbol, count in row.holdings)
        held.append(owned or "cash")
    for order in row.open_orders.values():
        left = f", {order.side} {shares(order.quantity - order.filled)} {order.symbol} "
        held.append(left + order.status, style="red" if order.status == "UNKNOWN" else "yellow")
    return held


def totals(board: Board) -> tuple[RenderableType, ...]:
    """The footer cells: sums of cash, equity and P&L over the rows that are known."""
    rows = [row for row in board.rows.values() if row.equity is not None]
    if not rows:
        return ("",) * len(COLUMNS)
    cash, equity, pnl = (
        sum((getattr(row, figure) for row in rows), Decimal(0))
        for figure in ("cash", "equity", "pnl")
    )
    return ("All", "", "", "", "", "", money(cash), money(equity), signed(pnl))


def money(amount: Decimal | None) -> str:
    """USD to the cent; empty when not known."""
    return "" if amount is None else f"{amount:,.2f}"


def signed(amount: Decimal | None) -> Text:
    """USD to the cent with its sign, green for a profit and red for a loss."""
    if amount is None:
        return Text("")
    return Text(f"{amount:+,.2f}", style="green" if amount > 0 else "red" if amount < 0 else "")

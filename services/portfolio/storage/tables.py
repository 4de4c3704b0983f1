"""The tables, with what PostgreSQL itself enforces.

strategies, books, positions and orders hold the present state; fills, cash_entries,
position_adjustments and order_events are append-only facts that it follows from. `requests` keeps
the answers given to request_ids, `marks` the prices that strategies last saw.
"""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    LargeBinary,
    MetaData,
    Numeric,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
)
from sqlalchemy.dialects.postgresql import JSONB

metadata = MetaData(
    naming_convention={
        "ix": "%(table_name)s_%(column_0_N_name)s_ix",
        "uq": "%(table_name)s_%(column_0_N_name)s_uq",
        "ck": "%(table_name)s_%(constraint_name)s_ck",
        "fk": "%(table_name)s_%(column_0_N_name)s_fk",
        "pk": "%(table_name)s_pk",
    }
)

AMOUNT = Numeric(28, 8)  # USD, USD a share, or shares
TIME = DateTime(timezone=True)


def _book_columns() -> tuple[Column[str], Column[str]]:
    return Column("strategy_name", Text, nullable=False), Column("mode", Text, nullable=False)


def _book_reference() -> ForeignKeyConstraint:
    return ForeignKeyConstraint(["strategy_name", "mode"], ["books.strategy_name", "books.mode"])


strategies = Table(
    "strategies",
    metadata,
    Column("strategy_name", Text, primary_key=True),
    Column("requested_mode", Text, nullable=False),
    Column("mode", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("halt_reason", Text, nullable=False),
    Column("update_time", TIME, nullable=False),
    CheckConstraint("requested_mode IN ('AUTO', 'PAPER', 'LIVE')", name="requested_mode"),
    CheckConstraint("mode IN ('PAPER', 'LIVE')", name="mode"),
    CheckConstraint("state IN ('ACTIVE', 'HALTED')", name="state"),
)

books = Table(
    "books",
    metadata,
    Column("strategy_name", Text, ForeignKey("strategies.strategy_name"), nullable=False),
    Column("mode", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("cash", AMOUNT, nullable=False),
    Column("reserved_cash", AMOUNT, nullable=False),
    Column("update_time", TIME, nullable=False),
    PrimaryKeyConstraint("strategy_name", "mode"),
    CheckConstraint("mode IN ('PAPER', 'LIVE')", name="mode"),
    CheckConstraint("reserved_cash >= 0", name="reserved_cash_not_negative"),
    # A LIVE fill above the price that was reserved is booked truthfully, even below zero.
    CheckConstraint("mode = 'LIVE' OR cash >= reserved_cash", name="paper_cash_covers_reserved"),
)

positions = Table(
    "positions",
    metadata,
    Column("position_id", Uuid, primary_key=True),
    *_book_columns(),
    Column("symbol", Text, nullable=False),
    Column("quantity", AMOUNT, nullable=False),
    Column("reserved_quantity", AMOUNT, nullable=False),
    Column("cost", AMOUNT, nullable=False),
    Column("realized_pnl", AMOUNT, nullable=False),
    Column("last_price", AMOUNT, nullable=False),
    Column("update_time", TIME, nullable=False),
    _book_reference(),
    UniqueConstraint("strategy_name", "mode", "symbol"),
    CheckConstraint(
        "reserved_quantity >= 0 AND quantity >= reserved_quantity", name="quantity_covers_reserved"
    ),
    CheckConstraint("cost >= 0", name="cost_not_negative"),
)

orders = Table(
    "orders",
    metadata,
    Column("order_id", Uuid, primary_key=True),
    *_book_columns(),
    Column("symbol", Text, nullable=False),
    Column("side", Text, nullable=False),
    Column("quantity", AMOUNT, nullable=False),
    Column("price", AMOUNT, nullable=False),
    Column("status", Text, nullable=False),
    Column("filled_quantity", AMOUNT, nullable=False),
    Column("filled_value", AMOUNT, nullable=False),
    Column("commission", AMOUNT, nullable=False),
    Column("reserved_cash", AMOUNT, nullable=False),
    Column("reason", Text, nullable=False),
    Column("request_id", Text, nullable=False),
    Column("create_time", TIME, nullable=False),
    Column("update_time", TIME, nullable=False),
    _book_reference(),
    CheckConstraint("side IN ('BUY', 'SELL')", name="side"),
    CheckConstraint(
        "status IN ('PENDING', 'EXECUTED', 'CANCELLED', 'REJECTED', 'UNKNOWN')", name="status"
    ),
    CheckConstraint("quantity > 0 AND price > 0", name="quantity_and_price_positive"),
    CheckConstraint(
        "filled_quantity >= 0 AND filled_quantity <= quantity", name="filled_quantity_within"
    ),
    CheckConstraint("reserved_cash >= 0", name="reserved_cash_not_negative"),
    # Order ids are UUIDv7, so these indexes give each list newest first.
    Index(None, "strategy_name", "order_id"),
    Index(None, "symbol", "order_id"),
)
# Nearly every order is EXECUTED: that filter reads the newest orders and keeps most of them. The
# other statuses are rare, so they have an index of their own, which an EXECUTED order never enters.
Index(
    "orders_status_not_executed_ix",
    orders.c.status,
    orders.c.order_id,
    postgresql_where=orders.c.status != "EXECUTED",
)

fills = Table(
    "fills",
    metadata,
    Column("order_id", Uuid, ForeignKey("orders.order_id"), nullable=False),
    Column("execution_id", Text, nullable=False),
    Column("book_version", BigInteger, nullable=False),
    Column("quantity", AMOUNT, nullable=False),
    Column("price", AMOUNT, nullable=False),
    Column("value", AMOUNT, nullable=False),
    Column("commission", AMOUNT, nullable=False),
    Column("time", TIME, nullable=False),
    PrimaryKeyConstraint("order_id", "execution_id"),
    CheckConstraint("quantity > 0 AND value > 0", name="quantity_and_value_positive"),
)

cash_entries = Table(
    "cash_entries",
    metadata,
    *_book_columns(),
    Column("book_version", BigInteger, nullable=False),
    Column("kind", Text, nullable=False),
    Column("amount", AMOUNT, nullable=False),
    Column("actor", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("time", TIME, nullable=False),
    _book_reference(),
    # One entry of a kind for each version: two writers can never book the same move.
    PrimaryKeyConstraint("strategy_name", "mode", "book_version", "kind"),
    CheckConstraint("kind IN ('DEPOSIT', 'ADJUSTMENT', 'TRADE', 'COMMISSION')", name="kind"),
)

position_adjustments = Table(
    "position_adjustments",
    metadata,
    *_book_columns(),
    Column("book_version", BigInteger, nullable=False),
    Column("symbol", Text, nullable=False),
    Column("quantity_delta", AMOUNT, nullable=False),
    Column("cost_delta", AMOUNT, nullable=False),
    Column("price", AMOUNT, nullable=False),
    Column("actor", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("time", TIME, nullable=False),
    _book_reference(),
    PrimaryKeyConstraint("strategy_name", "mode", "book_version"),
)

order_events = Table(
    "order_events",
    metadata,
    Column("order_id", Uuid, ForeignKey("orders.order_id"), nullable=False),
    Column("book_version", BigInteger, nullable=False),
    Column("from_status", Text, nullable=False),
    Column("to_status", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("time", TIME, nullable=False),
    PrimaryKeyConstraint("order_id", "book_version"),
)

requests = Table(
    "requests",
    metadata,
    Column("request_id", Text, primary_key=True),
    Column("method", Text, nullable=False),
    Column("fingerprint", LargeBinary, nullable=False),
    Column("answer", JSONB, nullable=False),
    Column("time", TIME, nullable=False),
)

marks = Table(
    "marks",
    metadata,
    Column("strategy_name", Text, ForeignKey("strategies.strategy_name"), nullable=False),
    Column("symbol", Text, nullable=False),
    Column("price", AMOUNT, nullable=False),
    Column("time", TIME, nullable=False),
    PrimaryKeyConstraint("strategy_name", "symbol"),
    CheckConstraint("price > 0", name="price_positive"),
)

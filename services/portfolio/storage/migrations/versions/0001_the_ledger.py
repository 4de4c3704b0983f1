"""The ledger: strategies, books, positions, orders, and the facts they follow from."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Applies the change."""
    op.create_table(
        "requests",
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("method", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False),
        sa.Column("answer", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("time", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("request_id", name=op.f("requests_pk")),
    )
    op.create_table(
        "strategies",
        sa.Column("strategy_name", sa.Text(), nullable=False),
        sa.Column("requested_mode", sa.Text(), nullable=False),
        sa.Column("mode", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("halt_reason", sa.Text(), nullable=False),
        sa.Column("update_time", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("mode IN ('PAPER', 'LIVE')", name=op.f("strategies_mode_ck")),
        sa.CheckConstraint(
            "requested_mode IN ('AUTO', 'PAPER', 'LIVE')", name=op.f("strategies_requested_mode_ck")
        ),
        sa.CheckConstraint("state IN ('ACTIVE', 'HALTED')", name=op.f("strategies_state_ck")),
        sa.PrimaryKeyConstraint("strategy_name", name=op.f("strategies_pk")),
    )
    op.create_table(
        "books",
        sa.Column("strategy_name", sa.Text(), nullable=False),
        sa.Column("mode", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("cash", sa.Numeric(precision=28, scale=8), nullable=False),
        sa.Column("reserved_cash", sa.Numeric(precision=28, scale=8), nullable=False),
        sa.Column("update_time", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "mode = 'LIVE' OR cash >= reserved_cash",
            name=op.f("books_paper_cash_covers_reserved_ck"),
        ),
        sa.CheckConstraint("mode IN ('PAPER', 'LIVE')", name=op.f("books_mode_ck")),
        sa.CheckConstraint("reserved_cash >= 0", name=op.f("books_reserved_cash_not_negative_ck")),
        sa.ForeignKeyConstraint(
            ["strategy_name"], ["strategies.strategy_name"], name=op.f("books_strategy_name_fk")
        ),
        sa.PrimaryKeyConstraint("strategy_name", "mode", name=op.f("books_pk")),
    )
    op.create_table(
        "marks",
        sa.Column("strategy_name", sa.Text(), nullable=False),
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("price", sa.Numeric(precision=28, scale=8), nullable=False),
        sa.Column("time", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("price > 0", name=op.f("marks_price_positive_ck")),
        sa.ForeignKeyConstraint(
            ["strategy_name"], ["strategies.strategy_name"], name=op.f("marks_strategy_name_fk")
        ),
        sa.PrimaryKeyConstraint("strategy_name", "symbol", name=op.f("marks_pk")),
    )
    op.create_table(
        "cash_entries",
        sa.Column("strategy_name", sa.Text(), nullable=False),
        sa.Column("mode", sa.Text(), nullable=False),
        sa.Column("book_version", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("amount", sa.Numeric(precision=28, scale=8), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("time", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "kind IN ('DEPOSIT', 'ADJUSTMENT', 'TRADE', 'COMMISSION')",
            name=op.f("cash_entries_kind_ck"),
        ),
        sa.ForeignKeyConstraint(
            ["strategy_name", "mode"],
            ["books.strategy_name", "books.mode"],
            name=op.f("cash_entries_strategy_name_mode_fk"),
        ),
        sa.PrimaryKeyConstraint(
            "strategy_name", "mode", "book_version", "kind", name=op.f("cash_entries_pk")
        ),
    )
    op.create_table(
        "orders",
        sa.Column("order_id", sa.Uuid(), nullable=False),
        sa.Column("strategy_name", sa.Text(), nullable=False),
        sa.Column("mode", sa.Text(), nullable=False),
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("side", sa.Text(), nullable=False),
        sa.Column("quantity", sa.Numeric(precision=28, scale=8), nullable=False),
        sa.Column("price", sa.Numeric(precision=28, scale=8), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("filled_quantity", sa.Numeric(precision=28, scale=8), nullable=False),
        sa.Column("filled_value", sa.Numeric(precision=28, scale=8), nullable=False),
        sa.Column("commission", sa.Numeric(precision=28, scale=8), nullable=False),
        sa.Column("reserved_cash", sa.Numeric(precision=28, scale=8), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("update_time", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("side IN ('BUY', 'SELL')", name=op.f("orders_side_ck")),
        sa.CheckConstraint(
            "status IN ('PENDING', 'EXECUTED', 'CANCELLED', 'REJECTED', 'UNKNOWN')",
            name=op.f("orders_status_ck"),
        ),
        sa.CheckConstraint(
            "filled_quantity >= 0 AND filled_quantity <= quantity",
            name=op.f("orders_filled_quantity_within_ck"),
        ),
        sa.CheckConstraint(
            "quantity > 0 AND price > 0", name=op.f("orders_quantity_and_price_positive_ck")
        ),
        sa.CheckConstraint("reserved_cash >= 0", name=op.f("orders_reserved_cash_not_negative_ck")),
        sa.ForeignKeyConstraint(
            ["strategy_name", "mode"],
            ["books.strategy_name", "books.mode"],
            name=op.f("orders_strategy_name_mode_fk"),
        ),
        sa.PrimaryKeyConstraint("order_id", name=op.f("orders_pk")),
    )
    op.create_index(
        "orders_status_not_executed_ix",
        "orders",
        ["status", "order_id"],
        unique=False,
        postgresql_where=sa.text("status != 'EXECUTED'"),
    )
    op.create_index(
        op.f("orders_strategy_name_order_id_ix"),
        "orders",
        ["strategy_name", "order_id"],
        unique=False,
    )
    op.create_index(
        op.f("orders_symbol_order_id_ix"), "orders", ["symbol", "order_id"], unique=False
    )
    op.create_table(
        "position_adjustments",
        sa.Column("strategy_name", sa.Text(), nullable=False),
        sa.Column("mode", sa.Text(), nullable=False),
        sa.Column("book_version", sa.BigInteger(), nullable=False),
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("quantity_delta", sa.Numeric(precision=28, scale=8), nullable=False),
        sa.Column("cost_delta", sa.Numeric(precision=28, scale=8), nullable=False),
        sa.Column("price", sa.Numeric(precision=28, scale=8), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("time", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["strategy_name", "mode"],
            ["books.strategy_name", "books.mode"],
            name=op.f("position_adjustments_strategy_name_mode_fk"),
        ),
        sa.PrimaryKeyConstraint(
            "strategy_name", "mode", "book_version", name=op.f("position_adjustments_pk")
        ),
    )
    op.create_table(
        "positions",
        sa.Column("position_id", sa.Uuid(), nullable=False),
        sa.Column("strategy_name", sa.Text(), nullable=False),
        sa.Column("mode", sa.Text(), nullable=False),
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("quantity", sa.Numeric(precision=28, scale=8), nullable=False),
        sa.Column("reserved_quantity", sa.Numeric(precision=28, scale=8), nullable=False),
        sa.Column("cost", sa.Numeric(precision=28, scale=8), nullable=False),
        sa.Column("realized_pnl", sa.Numeric(precision=28, scale=8), nullable=False),
        sa.Column("last_price", sa.Numeric(precision=28, scale=8), nullable=False),
        sa.Column("update_time", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("cost >= 0", name=op.f("positions_cost_not_negative_ck")),
        sa.CheckConstraint(
            "reserved_quantity >= 0 AND quantity >= reserved_quantity",
            name=op.f("positions_quantity_covers_reserved_ck"),
        ),
        sa.ForeignKeyConstraint(
            ["strategy_name", "mode"],
            ["books.strategy_name", "books.mode"],
            name=op.f("positions_strategy_name_mode_fk"),
        ),
        sa.PrimaryKeyConstraint("position_id", name=op.f("positions_pk")),
        sa.UniqueConstraint(
            "strategy_name", "mode", "symbol", name=op.f("positions_strategy_name_mode_symbol_uq")
        ),
    )
    op.create_table(
        "fills",
        sa.Column("order_id", sa.Uuid(), nullable=False),
        sa.Column("execution_id", sa.Text(), nullable=False),
        sa.Column("book_version", sa.BigInteger(), nullable=False),
        sa.Column("quantity", sa.Numeric(precision=28, scale=8), nullable=False),
        sa.Column("price", sa.Numeric(precision=28, scale=8), nullable=False),
        sa.Column("value", sa.Numeric(precision=28, scale=8), nullable=False),
        sa.Column("commission", sa.Numeric(precision=28, scale=8), nullable=False),
        sa.Column("time", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "quantity > 0 AND value > 0", name=op.f("fills_quantity_and_value_positive_ck")
        ),
        sa.ForeignKeyConstraint(["order_id"], ["orders.order_id"], name=op.f("fills_order_id_fk")),
        sa.PrimaryKeyConstraint("order_id", "execution_id", name=op.f("fills_pk")),
    )
    op.create_table(
        "order_events",
        sa.Column("order_id", sa.Uuid(), nullable=False),
        sa.Column("book_version", sa.BigInteger(), nullable=False),
        sa.Column("from_status", sa.Text(), nullable=False),
        sa.Column("to_status", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("time", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["order_id"], ["orders.order_id"], name=op.f("order_events_order_id_fk")
        ),
        sa.PrimaryKeyConstraint("order_id", "book_version", name=op.f("order_events_pk")),
    )


def downgrade() -> None:
    """Takes the change back."""
    op.drop_table("order_events")
    op.drop_table("fills")
    op.drop_table("positions")
    op.drop_table("position_adjustments")
    op.drop_index(op.f("orders_symbol_order_id_ix"), table_name="orders")
    op.drop_index(op.f("orders_strategy_name_order_id_ix"), table_name="orders")
    op.drop_index(
        "orders_status_not_executed_ix",
        table_name="orders",
        postgresql_where=sa.text("status != 'EXECUTED'"),
    )
    op.drop_table("orders")
    op.drop_table("cash_entries")
    op.drop_table("marks")
    op.drop_table("books")
    op.drop_table("strategies")
    op.drop_table("requests")

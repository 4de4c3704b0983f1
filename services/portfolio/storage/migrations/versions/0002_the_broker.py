"""LIVE: intents and the ids given to them, what the broker said last, and what it said of fills."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

AMOUNT = sa.Numeric(precision=28, scale=8)
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Applies the change. No table is rewritten or read through."""
    _give_fills_a_kind()
    op.create_table(
        "broker_orders",
        sa.Column("order_id", sa.Uuid(), nullable=False),
        sa.Column("client_id", sa.BigInteger(), nullable=True),
        sa.Column("broker_order_id", sa.BigInteger(), nullable=True),
        sa.Column("sent_time", TIME, nullable=True),
        sa.Column("cancel_requested", sa.Boolean(), server_default="false", nullable=False),
        sa.CheckConstraint(
            "num_nulls(client_id, broker_order_id, sent_time) IN (0, 3)",
            name=op.f("broker_orders_sent_or_not_ck"),
        ),
        sa.ForeignKeyConstraint(
            ["order_id"], ["orders.order_id"], name=op.f("broker_orders_order_id_fk")
        ),
        sa.PrimaryKeyConstraint("order_id", name=op.f("broker_orders_pk")),
        sa.UniqueConstraint(
            "client_id", "broker_order_id", name=op.f("broker_orders_client_id_broker_order_id_uq")
        ),
    )
    op.create_index(
        "broker_orders_unsent_ix",
        "broker_orders",
        ["order_id"],
        unique=False,
        postgresql_where=sa.text("broker_order_id IS NULL"),
    )
    op.create_table(
        "broker_ids",
        sa.Column("client_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("last_id", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("last_id > 0", name=op.f("broker_ids_last_id_positive_ck")),
        sa.PrimaryKeyConstraint("client_id", name=op.f("broker_ids_pk")),
    )
    op.create_table(
        "broker_weather",
        sa.Column("one", sa.Boolean(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("since", TIME, nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("market_data", sa.Text(), nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("sender", sa.Text(), nullable=False),
        sa.Column("heartbeat", TIME, nullable=False),
        sa.CheckConstraint("one", name=op.f("broker_weather_one_row_ck")),
        sa.PrimaryKeyConstraint("one", name=op.f("broker_weather_pk")),
    )
    op.create_table(
        "broker_account",
        sa.Column("one", sa.Boolean(), nullable=False),
        sa.Column("time", TIME, nullable=False),
        sa.Column("cash", AMOUNT, nullable=True),
        sa.Column("strategies_cash", AMOUNT, nullable=False),
        sa.CheckConstraint("one", name=op.f("broker_account_one_row_ck")),
        sa.PrimaryKeyConstraint("one", name=op.f("broker_account_pk")),
    )
    op.create_table(
        "broker_positions",
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("quantity", AMOUNT, nullable=False),
        sa.Column("strategies_quantity", AMOUNT, nullable=False),
        sa.PrimaryKeyConstraint("symbol", name=op.f("broker_positions_pk")),
    )
    op.create_table(
        "acknowledgements",
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("acknowledgement_id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("quantity", AMOUNT, nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("time", TIME, nullable=False),
        sa.PrimaryKeyConstraint("symbol", "acknowledgement_id", name=op.f("acknowledgements_pk")),
    )


def _give_fills_a_kind() -> None:
    """New rows are checked from now on; 0003 looks at the old ones, without this exclusive lock."""
    op.add_column("fills", sa.Column("kind", sa.Text(), server_default="FILL", nullable=False))
    op.drop_constraint(op.f("fills_quantity_and_value_positive_ck"), "fills")
    for name, rule in (
        ("fills_kind_ck", "kind IN ('FILL', 'CORRECTION', 'COMMISSION')"),
        (
            "fills_quantity_and_value_positive_ck",
            "kind <> 'FILL' OR (quantity > 0 AND value > 0)",
        ),
        (
            "fills_commission_moves_no_shares_ck",
            "kind <> 'COMMISSION' OR (quantity = 0 AND value = 0)",
        ),
    ):
        op.create_check_constraint(op.f(name), "fills", rule, postgresql_not_valid=True)


def downgrade() -> None:
    """Takes the change back, unless the broker has told of fills what the old tables cannot say."""
    op.drop_table("acknowledgements")
    op.drop_table("broker_positions")
    op.drop_table("broker_account")
    op.drop_table("broker_weather")
    op.drop_table("broker_ids")
    op.drop_index("broker_orders_unsent_ix", table_name="broker_orders")
    op.drop_table("broker_orders")
    op.drop_constraint(op.f("fills_commission_moves_no_shares_ck"), "fills")
    op.drop_constraint(op.f("fills_quantity_and_value_positive_ck"), "fills")
    op.drop_constraint(op.f("fills_kind_ck"), "fills")
    op.create_check_constraint(
        op.f("fills_quantity_and_value_positive_ck"), "fills", "quantity > 0 AND value > 0"
    )
    op.drop_column("fills", "kind")

"""Judgement: valuations, limits and halts of the whole, plans and transfers, decisions on modes."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

AMOUNT = sa.Numeric(precision=28, scale=8)
TIME = sa.DateTime(timezone=True)
KINDS = "kind IN ('DEPOSIT', 'ADJUSTMENT', 'TRADE', 'COMMISSION', 'TRANSFER')"


def upgrade() -> None:
    """Applies the change. No table is rewritten or read through."""
    _widen_what_there_is()
    _create_valuations()
    op.create_table(
        "risk_events",
        sa.Column("event_id", sa.Uuid(), nullable=False),
        sa.Column("strategy_name", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("time", TIME, nullable=False),
        sa.CheckConstraint(
            "kind IN ('HALT', 'RESUME', 'FLATTEN', 'SILENT', 'HEARD', 'LIMITS')",
            name=op.f("risk_events_kind_ck"),
        ),
        sa.PrimaryKeyConstraint("event_id", name=op.f("risk_events_pk")),
    )
    op.create_index(
        op.f("risk_events_strategy_name_event_id_ix"),
        "risk_events",
        ["strategy_name", "event_id"],
        unique=False,
    )
    op.create_table(
        "portfolio_state",
        sa.Column("one", sa.Boolean(), nullable=False),
        sa.Column("halted", sa.Boolean(), nullable=False),
        sa.Column("halt_reason", sa.Text(), nullable=False),
        sa.Column("limits", JSONB(), nullable=True),
        sa.Column("update_time", TIME, nullable=False),
        sa.CheckConstraint("one", name=op.f("portfolio_state_one_row_ck")),
        sa.PrimaryKeyConstraint("one", name=op.f("portfolio_state_pk")),
    )
    op.create_table(
        "allocation_policy",
        sa.Column("one", sa.Boolean(), nullable=False),
        sa.Column("policy", JSONB(), nullable=False),
        sa.CheckConstraint("one", name=op.f("allocation_policy_one_row_ck")),
        sa.PrimaryKeyConstraint("one", name=op.f("allocation_policy_pk")),
    )
    op.create_table(
        "plans",
        sa.Column("plan_id", sa.Uuid(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("mode", sa.Text(), nullable=False),
        sa.Column("plan", JSONB(), nullable=False),
        sa.Column("carry_out_time", TIME, nullable=True),
        sa.CheckConstraint("state IN ('PLANNED', 'CARRIED_OUT')", name=op.f("plans_state_ck")),
        sa.CheckConstraint("mode IN ('PAPER', 'LIVE')", name=op.f("plans_mode_ck")),
        sa.CheckConstraint(
            "(state = 'CARRIED_OUT') = (carry_out_time IS NOT NULL)",
            name=op.f("plans_carried_out_or_not_ck"),
        ),
        sa.PrimaryKeyConstraint("plan_id", name=op.f("plans_pk")),
    )
    op.create_index(
        op.f("plans_mode_carry_out_time_ix"), "plans", ["mode", "carry_out_time"], unique=False
    )
    op.create_table(
        "decisions",
        sa.Column("decision_id", sa.Uuid(), nullable=False),
        sa.Column("strategy_name", sa.Text(), nullable=False),
        sa.Column("time", TIME, nullable=False),
        sa.Column("rule", sa.Text(), nullable=False),
        sa.Column("requested_mode", sa.Text(), nullable=False),
        sa.Column("from_mode", sa.Text(), nullable=False),
        sa.Column("to_mode", sa.Text(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("evidence", JSONB(), nullable=False),
        sa.CheckConstraint(
            "outcome IN ('STAYS', 'CHANGED', 'WAITS_UNTIL_FLAT')", name=op.f("decisions_outcome_ck")
        ),
        sa.ForeignKeyConstraint(
            ["strategy_name"],
            ["strategies.strategy_name"],
            name=op.f("decisions_strategy_name_fk"),
        ),
        sa.PrimaryKeyConstraint("decision_id", name=op.f("decisions_pk")),
    )
    op.create_index(
        op.f("decisions_strategy_name_decision_id_ix"),
        "decisions",
        ["strategy_name", "decision_id"],
        unique=False,
    )


def _widen_what_there_is() -> None:
    false = sa.text("false")
    op.add_column("strategies", sa.Column("session", sa.Date(), nullable=True))
    for name in ("session_given", "portfolio_halted", "silent", "flattening"):
        op.add_column(
            "strategies", sa.Column(name, sa.Boolean(), server_default=false, nullable=False)
        )
    op.add_column("strategies", sa.Column("limits", JSONB(), nullable=True))
    op.add_column(
        "strategies", sa.Column("promoted", sa.Boolean(), server_default=false, nullable=False)
    )
    op.add_column("strategies", sa.Column("live_since", TIME, nullable=True))
    op.add_column("books", sa.Column("due", AMOUNT, server_default="0", nullable=False))
    op.add_column("orders", sa.Column("twin_of", sa.Uuid(), nullable=True))
    op.add_column("broker_account", sa.Column("net_liquidation", AMOUNT, nullable=True))
    # New rows are checked from now on; 0005 looks at the old ones, without this exclusive lock.
    op.drop_constraint(op.f("cash_entries_kind_ck"), "cash_entries")
    op.create_check_constraint(
        op.f("cash_entries_kind_ck"), "cash_entries", KINDS, postgresql_not_valid=True
    )


def _create_valuations() -> None:
    op.create_table(
        "valuations",
        sa.Column("strategy_name", sa.Text(), nullable=False),
        sa.Column("mode", sa.Text(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("session", sa.Date(), nullable=True),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("book_version", sa.BigInteger(), nullable=False),
        sa.Column("cash", AMOUNT, nullable=False),
        sa.Column("positions_value", AMOUNT, nullable=False),
        sa.Column("flow", AMOUNT, nullable=False),
        sa.Column("growth", sa.Numeric(precision=38, scale=18), nullable=False),
        sa.Column("time", TIME, nullable=False),
        sa.CheckConstraint("kind IN ('FLOW', 'CLOSE')", name=op.f("valuations_kind_ck")),
        sa.CheckConstraint(
            "kind = 'FLOW' OR (flow = 0 AND session IS NOT NULL)",
            name=op.f("valuations_close_of_session_ck"),
        ),
        sa.ForeignKeyConstraint(
            ["strategy_name", "mode"],
            ["books.strategy_name", "books.mode"],
            name=op.f("valuations_strategy_name_mode_fk"),
        ),
        sa.PrimaryKeyConstraint("strategy_name", "mode", "number", name=op.f("valuations_pk")),
    )
    op.create_index(
        "valuations_closes_ix",
        "valuations",
        ["strategy_name", "mode", "session"],
        unique=True,
        postgresql_where=sa.text("kind = 'CLOSE'"),
    )


def downgrade() -> None:
    """Takes the change back, unless cash was transferred, which the old tables cannot say."""
    op.drop_table("decisions")
    op.drop_table("plans")
    op.drop_table("allocation_policy")
    op.drop_table("portfolio_state")
    op.drop_table("risk_events")
    op.drop_table("valuations")
    op.drop_constraint(op.f("cash_entries_kind_ck"), "cash_entries")
    op.create_check_constraint(
        op.f("cash_entries_kind_ck"),
        "cash_entries",
        "kind IN ('DEPOSIT', 'ADJUSTMENT', 'TRADE', 'COMMISSION')",
    )
    op.drop_column("broker_account", "net_liquidation")
    op.drop_column("orders", "twin_of")
    op.drop_column("books", "due")
    for name in (
        "flattening",
        "silent",
        "live_since",
        "promoted",
        "limits",
        "portfolio_halted",
        "session_given",
        "session",
    ):
        op.drop_column("strategies", name)

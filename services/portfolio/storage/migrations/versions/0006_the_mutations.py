"""Who changed what: a row beside each change."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Applies the change: a new table. What replicas of the version before change is not in it."""
    op.create_table(
        "mutations",
        sa.Column("mutation_id", sa.Uuid(), nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("method", sa.Text(), nullable=False),
        sa.Column("strategy_name", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("trace_id", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("mutation_id", name=op.f("mutations_pk")),
    )
    for name in ("strategy_name", "actor"):
        columns = [name, "mutation_id"]
        op.create_index(op.f(f"mutations_{name}_mutation_id_ix"), "mutations", columns)


def downgrade() -> None:
    """Takes the change back."""
    op.drop_table("mutations")

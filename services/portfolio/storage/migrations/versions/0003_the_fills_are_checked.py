"""The checks of 0002 on fills count as proved. In a transaction of its own: nobody waits for it."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

CHECKS = (
    "fills_kind_ck",
    "fills_quantity_and_value_positive_ck",
    "fills_commission_moves_no_shares_ck",
)


def upgrade() -> None:
    """Applies the change. Reads all fills, while routers go on reading and writing them."""
    for name in CHECKS:
        op.execute(f"ALTER TABLE fills VALIDATE CONSTRAINT {name}")


def downgrade() -> None:
    """Takes the change back: there is nothing to take back."""

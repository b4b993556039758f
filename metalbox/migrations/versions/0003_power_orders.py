"""Orders to switch machines, saved before anything is sent."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "power_orders",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("machine_id", sa.Integer, sa.ForeignKey("machines.id", ondelete="CASCADE"), nullable=False),
        sa.Column("verb", sa.String, nullable=False),
        sa.Column("boot", sa.Text, nullable=False),
        sa.Column("sent", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("finished_at", sa.Double),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_power_orders"),
    )
    op.create_index("ix_power_orders_machine_id", "power_orders", ["machine_id"])

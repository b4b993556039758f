"""The management processors, with their sealed passwords."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "bmcs",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("machine_id", sa.Integer, sa.ForeignKey("machines.id", ondelete="SET NULL")),
        sa.Column("address", sa.String, nullable=False),
        sa.Column("port", sa.Integer, nullable=False),
        sa.Column("drivers", sa.String, nullable=False),
        sa.Column("mac", sa.String, nullable=False),
        sa.Column("vendor", sa.String, nullable=False),
        sa.Column("model", sa.String, nullable=False),
        sa.Column("firmware", sa.String, nullable=False),
        sa.Column("serial", sa.String, nullable=False),
        sa.Column("uuid", sa.String, nullable=False),
        sa.Column("user", sa.String, nullable=False),
        sa.Column("sealed", sa.Text, nullable=False),
        sa.Column("source", sa.String, nullable=False),
        sa.Column("channel", sa.Integer),
        sa.Column("first_seen", sa.Double, nullable=False),
        sa.Column("last_seen", sa.Double, nullable=False),
        sa.Column("error_code", sa.String, nullable=False),
        sa.Column("error_text", sa.Text, nullable=False),
        sa.Column("error_at", sa.Double, nullable=False),
        sa.Column("facts", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_bmcs"),
    )
    for column in ("machine_id", "address", "mac", "serial", "uuid"):
        op.create_index(f"ix_bmcs_{column}", "bmcs", [column])

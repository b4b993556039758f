"""What an operator says of a machine, faults beside its state, orders to agents with their outcome, certificates."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    for column in (
        sa.Column("labels", sa.Text, nullable=False, server_default="{}"),
        sa.Column("owner", sa.String, nullable=False, server_default=""),
        sa.Column("note", sa.Text, nullable=False, server_default=""),
        sa.Column("held", sa.Text, nullable=False, server_default=""),
        sa.Column("fault", sa.Text, nullable=False, server_default=""),
        sa.Column("state_since", sa.Double, nullable=False, server_default="0"),
        sa.Column("deadline_at", sa.Double, nullable=False, server_default="0"),
    ):
        op.add_column("machines", column)
    op.execute("UPDATE machines SET state_since = first_seen")
    for column in (
        sa.Column("data", sa.Text, nullable=False, server_default="{}"),
        sa.Column("boot_id", sa.String, nullable=False, server_default=""),
        sa.Column("token", sa.String, nullable=False, server_default=""),
        sa.Column("claimed_at", sa.Double),
        sa.Column("progress", sa.Text, nullable=False, server_default="{}"),
        sa.Column("outcome", sa.Text, nullable=False, server_default="{}"),
    ):
        op.add_column("orders", column)
    op.create_table(
        "certificates",
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("machine_id", sa.Integer),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("machine", sa.String, nullable=False),
        sa.Column("serial", sa.String, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("digest", sa.String, nullable=False),
        sa.Column("document", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_certificates"),
    )
    op.create_table(
        "counters",
        sa.Column("name", sa.String, nullable=False),
        sa.Column("value", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_counters"),
    )
    op.create_index("ix_certificates_machine_id", "certificates", ["machine_id"])
    op.create_index("ix_certificates_serial", "certificates", ["serial"])

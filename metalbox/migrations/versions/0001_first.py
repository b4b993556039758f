"""The first tables: machines and their addresses, leases, timeline, orders."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "machines",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("uuid", sa.String, nullable=False),
        sa.Column("serial", sa.String, nullable=False),
        sa.Column("vendor", sa.String, nullable=False),
        sa.Column("product", sa.String, nullable=False),
        sa.Column("address", sa.String, nullable=False),
        sa.Column("location", sa.String, nullable=False),
        sa.Column("conflict", sa.Text, nullable=False),
        sa.Column("boot_id", sa.String, nullable=False),
        sa.Column("mode", sa.String, nullable=False),
        sa.Column("memory_bytes", sa.BigInteger),
        sa.Column("cpus", sa.Integer, nullable=False),
        sa.Column("disks", sa.Integer, nullable=False),
        sa.Column("disk_bytes", sa.BigInteger, nullable=False),
        sa.Column("first_seen", sa.Double, nullable=False),
        sa.Column("last_seen", sa.Double, nullable=False),
        sa.Column("reported_at", sa.Double, nullable=False),
        sa.Column("hardware", sa.Text, nullable=False),
        sa.Column("facts", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_machines"),
        sa.UniqueConstraint("name", name="uq_machines_name"),
    )
    for column in ("uuid", "serial", "boot_id"):
        op.create_index(f"ix_machines_{column}", "machines", [column])
    op.create_table(
        "macs",
        sa.Column("mac", sa.String, nullable=False),
        sa.Column("machine_id", sa.Integer, sa.ForeignKey("machines.id", ondelete="CASCADE"), nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("mac", name="pk_macs"),
    )
    op.create_index("ix_macs_machine_id", "macs", ["machine_id"])
    op.create_table(
        "leases",
        sa.Column("subnet", sa.String, nullable=False),
        sa.Column("address", sa.String, nullable=False),
        sa.Column("mac", sa.String, nullable=False),
        sa.Column("client_id", sa.String, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
        sa.Column("hostname", sa.String, nullable=False),
        sa.Column("circuit_id", sa.String, nullable=False),
        sa.Column("remote_id", sa.String, nullable=False),
        sa.PrimaryKeyConstraint("subnet", "address", name="pk_leases"),
    )
    op.create_table(
        "events",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), autoincrement=False, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("last_at", sa.Double, nullable=False),
        sa.Column("count", sa.Integer, nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("mac", sa.String),
        sa.Column("machine_id", sa.Integer),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("data", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_events"),
    )
    op.create_index("ix_events_mac_id", "events", ["mac", "id"])
    op.create_index("ix_events_machine_id_id", "events", ["machine_id", "id"])
    op.create_index("ix_events_last_at", "events", ["last_at"])
    op.create_table(
        "orders",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("machine_id", sa.Integer, sa.ForeignKey("machines.id", ondelete="CASCADE"), nullable=False),
        sa.Column("verb", sa.String, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("done_at", sa.Double),
        sa.PrimaryKeyConstraint("id", name="pk_orders"),
    )
    op.create_index("ix_orders_machine_id", "orders", ["machine_id"])

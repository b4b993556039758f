"""The tables, as SQLAlchemy Core knows them, and the names of the schema's versions. No rules and no queries.

What is listed, searched or sorted is a column; all else of a machine is one JSON text. Times are Unix seconds, in
double precision. JSON is kept as text: nobody queries inside it, and it is then the same in every database.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    func,
)

# Oldest first; the last one is what this metalbox reads and writes. Each has its file in migrations/versions.
REVISIONS = ("0001", "0002", "0003", "0004", "0005")

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(column_0_label)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

machines = Table(
    "machines",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String, nullable=False, unique=True),
    Column("state", String, nullable=False),
    Column("uuid", String, nullable=False, index=True),
    Column("serial", String, nullable=False),
    Column("vendor", String, nullable=False),
    Column("product", String, nullable=False),
    Column("address", String, nullable=False),
    Column("location", String, nullable=False),
    Column("conflict", Text, nullable=False),
    Column("boot_id", String, nullable=False, index=True),
    Column("mode", String, nullable=False),
    Column("memory_bytes", BigInteger),
    Column("cpus", Integer, nullable=False),
    Column("disks", Integer, nullable=False),
    Column("disk_bytes", BigInteger, nullable=False),
    Column("first_seen", Double, nullable=False),
    Column("last_seen", Double, nullable=False),
    Column("reported_at", Double, nullable=False),
    Column("hardware", Text, nullable=False),
    Column("facts", Text, nullable=False),
    Column("labels", Text, nullable=False, server_default="{}"),
    Column("owner", String, nullable=False, server_default=""),
    Column("note", Text, nullable=False, server_default=""),
    Column("held", Text, nullable=False, server_default=""),
    Column("fault", Text, nullable=False, server_default=""),
    Column("state_since", Double, nullable=False, server_default="0"),
    Column("deadline_at", Double, nullable=False, server_default="0"),
)

Index("ix_machines_serial_lower", func.lower(machines.c.serial))

# A hardware address belongs to one machine at a time: the one whose report named it last. `position` keeps their order.
macs = Table(
    "macs",
    metadata,
    Column("mac", String, primary_key=True),
    Column("machine_id", Integer, ForeignKey("machines.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("position", Integer, nullable=False),
)

leases = Table(
    "leases",
    metadata,
    Column("subnet", String, primary_key=True),
    Column("address", String, primary_key=True),
    Column("mac", String, nullable=False),
    Column("client_id", String, nullable=False),
    Column("state", String, nullable=False),
    Column("expires_at", Double, nullable=False),
    Column("hostname", String, nullable=False),
    Column("circuit_id", String, nullable=False),
    Column("remote_id", String, nullable=False),
)

events = Table(
    "events",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False),
    Column("at", Double, nullable=False),
    Column("last_at", Double, nullable=False),
    Column("count", Integer, nullable=False),
    Column("kind", String, nullable=False),
    Column("mac", String),
    Column("machine_id", Integer),
    Column("text", Text, nullable=False),
    Column("data", Text, nullable=False),
    Index("ix_events_mac_id", "mac", "id"),
    Index("ix_events_machine_id_id", "machine_id", "id"),
    Index("ix_events_last_at", "last_at"),
)

# What an agent shall do. `data`, `progress` and `outcome` are JSON. `boot_id` and `token` bind it to the one boot that
# it was told to, `claimed_at` is when that agent said that it begins; `done_at` is NULL until it is known to be done.
orders = Table(
    "orders",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("machine_id", Integer, ForeignKey("machines.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("verb", String, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("done_at", Double),
    Column("data", Text, nullable=False, server_default="{}"),
    Column("boot_id", String, nullable=False, server_default=""),
    Column("token", String, nullable=False, server_default=""),
    Column("claimed_at", Double),
    Column("progress", Text, nullable=False, server_default="{}"),
    Column("outcome", Text, nullable=False, server_default="{}"),
)

# Management processors. `serial` and `uuid` are the machine's, as its BMC or an operator's list tells them; `drivers`
# are names with commas; `port` 0 is the default of each driver; `sealed` is the password as the vault seals it.
bmcs = Table(
    "bmcs",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("machine_id", Integer, ForeignKey("machines.id", ondelete="SET NULL"), index=True),
    Column("address", String, nullable=False, index=True),
    Column("port", Integer, nullable=False),
    Column("drivers", String, nullable=False),
    Column("mac", String, nullable=False, index=True),
    Column("vendor", String, nullable=False),
    Column("model", String, nullable=False),
    Column("firmware", String, nullable=False),
    Column("serial", String, nullable=False, index=True),
    Column("uuid", String, nullable=False, index=True),
    Column("user", String, nullable=False),
    Column("sealed", Text, nullable=False),
    Column("source", String, nullable=False),
    Column("channel", Integer),
    Column("first_seen", Double, nullable=False),
    Column("last_seen", Double, nullable=False),
    Column("error_code", String, nullable=False),
    Column("error_text", Text, nullable=False),
    Column("error_at", Double, nullable=False),
    Column("facts", Text, nullable=False),
)

# Orders to switch a machine: saved before anything is sent. `boot`, `sent` and `outcome` are JSON; `finished_at` is
# NULL until it is known what came of it.
power_orders = Table(
    "power_orders",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("machine_id", Integer, ForeignKey("machines.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("verb", String, nullable=False),
    Column("boot", Text, nullable=False),
    Column("sent", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("finished_at", Double),
    Column("outcome", Text, nullable=False),
)

# Proofs of erasing and records of failures, each chained to the one before by its digest. `document` is the canonical
# JSON with its signature; they outlive the machine that they tell of.
certificates = Table(
    "certificates",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("machine_id", Integer, index=True),
    Column("kind", String, nullable=False),
    Column("machine", String, nullable=False),
    Column("serial", String, nullable=False, index=True),
    Column("at", Double, nullable=False),
    Column("digest", String, nullable=False),
    Column("document", Text, nullable=False),
)

# Numbers that only grow, whatever rows are deleted: "erase" is the last erase order.
counters = Table(
    "counters",
    metadata,
    Column("name", String, primary_key=True),
    Column("value", BigInteger, nullable=False),
)

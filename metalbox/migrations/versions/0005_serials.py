"""Serial numbers are looked up in lower case: with 100,000 machines each boot and report would read all of them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_index("ix_machines_serial_lower", "machines", [sa.text("lower(serial)")])
    op.drop_index("ix_machines_serial", "machines")

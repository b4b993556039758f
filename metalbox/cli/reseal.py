"""`metalbox bmc reseal`: another key for the passwords in the database, while the service is stopped."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_action(actions: Any) -> None:
    """Add the action to those of `bmc`."""
    action = actions.add_parser(
        "reseal",
        help="seal all passwords with another key, while the service is stopped",
        description="Run it as the service's user or root. Broken off at any moment, all passwords are sealed with one "
        "of the two keys, and the next start goes on with that one.",
    )
    action.add_argument(
        "--config", type=Path, metavar="FILE", help="default: $METALBOX_CONFIG or /etc/metalbox/metalbox.yaml"
    )
    action.add_argument("--new-key", type=Path, metavar="FILE", help="64 hex digits (default: a key is made)")
    action.add_argument(
        "--key",
        type=Path,
        metavar="FILE",
        help="the present key, where it is a credential of systemd's",
    )
    action.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Exchange the keys and say what remains to be done."""
    from metalbox import config
    from metalbox.resealing import reseal
    from metalbox.service import open_store

    settings = config.load(args.config or config.default_path())
    store = open_store(settings)
    try:
        done = reseal(store, settings.data_dir, key=args.key, new_key=args.new_key)
    finally:
        store.close()
    print(f"{done.count} secrets are sealed anew, with key {done.key} in {done.path}")
    if args.key is not None:
        print(f"now give {done.path} to the service as its credential metalbox-key, and start it")
    return 0

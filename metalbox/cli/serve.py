"""`metalbox serve`: run the service."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_parser(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser("serve", help="run the service", description="Run the service until SIGTERM or Ctrl-C.")
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="default: $METALBOX_CONFIG or /etc/metalbox/metalbox.yaml"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Check the configuration whole, then serve."""
    from metalbox import config

    path = args.config or config.default_path()
    settings = config.load(path)
    from metalbox import service

    return service.run(settings, path)

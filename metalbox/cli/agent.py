"""`metalbox agent build`: make the kernel and initramfs that machines run the agent from."""

from __future__ import annotations

import argparse
import platform
import sys
from pathlib import Path
from typing import Any

EXAMPLE = """examples:
  metalbox agent build                            into /var/lib/metalbox/agent, where the service looks
  metalbox agent build --output var/agent         somewhere else
  metalbox agent build --with lldpd --with tcpdump   with more programs for people at its shell (metalbox.shell)"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    agent = subparsers.add_parser("agent", help="make the image that machines report from")
    verbs = agent.add_subparsers(dest="verb", required=True, metavar="VERB")
    build = verbs.add_parser(
        "build",
        help="build the agent's kernel and initramfs from Debian packages",
        description="Build the agent's kernel and initramfs from the Debian packages of this machine's apt sources. "
        "Needs no root. Equal packages and an equal agent give equal bytes.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    build.add_argument("--arch", default="x86_64", help="x86_64 (default) or arm64")
    build.add_argument("--output", type=Path, metavar="DIR", help="default: boot.agent's, /var/lib/metalbox/agent")
    build.add_argument(
        "--with", action="append", default=[], dest="extra", metavar="PACKAGE", help="add a whole package"
    )
    build.add_argument("--suite", default="", help="another Debian suite than this machine's, for example trixie")
    build.add_argument("--cache", type=Path, metavar="DIR", help="where packages are kept (default: ~/.cache/metalbox)")
    build.add_argument(
        "--level", type=int, default=19, choices=range(1, 20), metavar="1-19", help="zstd level (default 19)"
    )
    build.add_argument("--force", action="store_true", help="build even when nothing has changed")
    build.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from metalbox.build import agent, contents, debs

    options = agent.Options(
        arch=contents.architecture(args.arch or platform.machine()),
        output=args.output or _default_output(),
        cache=args.cache or debs.default_cache(),
        suite=args.suite,
        extra=tuple(sorted(set(args.extra))),
        level=args.level,
        force=args.force,
    )
    manifest = agent.build(options, lambda line: print(line, file=sys.stderr))
    print(table(manifest, options.output / options.arch.name))
    return 0


def _default_output() -> Path:
    from metalbox.config import Config

    return Config().boot.agent


def table(manifest: dict[str, Any], folder: Path) -> str:
    """What was made, for people."""
    files = manifest["files"]
    modules = sum(len(names) for names in manifest["modules"].values())
    rows = [
        ("kernel", f"{_mb(files['vmlinuz']['bytes'])}  {manifest['kernel']}"),
        ("initrd", f"{_mb(files['initrd']['bytes'])}  {_mb(manifest['unpacked_bytes'])} unpacked"),
        ("needs", f"{manifest['ram_mib']} MiB of RAM"),
        *((name, _mb(size)) for name, size in manifest["parts"].items()),
        ("drivers", f"{modules}: " + ", ".join(manifest["modules"])),
        ("tools", ", ".join(manifest["tools"])),
        ("firmware", f"{len(manifest['firmware'])} files"),
        ("left out", _left_out(manifest["not_included"])),
    ]
    return "\n".join([str(folder), *(f"  {name:<15}{text}" for name, text in rows if text)])


def _left_out(reasons: dict[str, str]) -> str:
    """Names grouped by their reason."""
    groups: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        groups.setdefault(reason, []).append(name)
    return "; ".join(f"{', '.join(names)} ({reason})" for reason, names in groups.items())


def _mb(size: int) -> str:
    return f"{size / 1e6:6.1f} MB"

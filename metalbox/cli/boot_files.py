"""`metalbox boot-files fetch`: fill the folder of iPXE, shim and GRUB programs that firmware asks for."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

EXAMPLE = """examples:
  metalbox boot-files fetch                       into /var/lib/metalbox/boot, where the service looks first
  metalbox boot-files fetch --suite trixie        a newer iPXE than this machine's Debian has"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    boot_files = subparsers.add_parser("boot-files", help="get the iPXE, shim and GRUB programs")
    verbs = boot_files.add_subparsers(dest="verb", required=True, metavar="VERB")
    fetch = verbs.add_parser(
        "fetch",
        help="take the boot files out of Debian's packages",
        description="Take iPXE, shim and GRUB out of the Debian packages of this machine's apt sources. Needs no root.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    fetch.add_argument(
        "--output", type=Path, metavar="DIR", help="default: the first of boot.files, /var/lib/metalbox/boot"
    )
    fetch.add_argument("--suite", default="", help="another Debian suite than this machine's, for example trixie")
    fetch.add_argument("--cache", type=Path, metavar="DIR", help="where packages are kept (default: ~/.cache/metalbox)")
    fetch.add_argument("--force", action="store_true", help="write the files even when nothing has changed")
    fetch.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from metalbox.build import bootfiles, debs
    from metalbox.config import Config

    output = args.output or Config().boot.files[0]
    manifest = bootfiles.fetch(
        output,
        args.cache or debs.default_cache(),
        lambda line: print(line, file=sys.stderr),
        suite=args.suite,
        force=args.force,
    )
    print(output)
    for name, facts in manifest["files"].items():
        print(f"  {name:<16}{facts['bytes'] / 1e3:8.1f} kB  {facts['package']} {facts['package_version']}")
    for name, reason in manifest["not_included"].items():
        print(f"  {name:<16}  not included: {reason}")
    return 0

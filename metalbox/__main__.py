"""`python -m metalbox` is the `metalbox` command."""

from metalbox.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())

# One line each; `make lab` and `make test` set up all they need on a fresh Debian.
PYTHON = .venv/bin/python
SUDO = $(if $(filter 0,$(shell id -u)),,sudo -E)
METALBOX = $(SUDO) .venv/bin/metalbox
LAB_SOCKET = var/lab/metalbox.sock

BENCHES = bench-dhcp bench-tftp bench-http bench-storm bench-boot bench-inventory

.PHONY: setup lab lab-down check format test bench $(BENCHES)

setup:
	@tools/setup

lab: setup
	$(METALBOX) lab up --machines 2 --mode proxy --wait 300
	$(METALBOX) list --socket $(LAB_SOCKET)

lab-down:
	$(METALBOX) lab down

check:
	.venv/bin/ruff format --check . && .venv/bin/ruff check . && .venv/bin/mypy

format:
	.venv/bin/ruff format . && .venv/bin/ruff check --fix .

# Two processes, see tests/conftest.py: what boots waits much.
test: setup check
	$(SUDO) $(PYTHON) -m pytest -n 2

# Options: make bench BENCH="--rounds 5 --profile var/profiles"; see docs/performance.md.
bench: setup
	$(SUDO) $(PYTHON) -m bench.beside --json var/bench.json $(BENCH)

$(BENCHES): bench-%: setup
	$(SUDO) $(PYTHON) -m bench.beside $* --json var/bench-$*.json $(BENCH)

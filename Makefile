# The five things there are to do with a checkout. `make build` and `make test` need nothing but Python and make.

MKROOT = .venv/bin/mkroot
PYTEST = .venv/bin/python -m pytest

.PHONY: setup setup-dev build test check bench clean

# .venv with .venv/bin/mkroot, and what the host lacks named (as root: installed). Quick when nothing changed.
setup:
	@tools/setup.sh

setup-dev:
	@tools/setup.sh dev

build: setup
	$(MKROOT) build recipes/ubuntu-min.yaml

# The long ones on real archives first, then unit tests; a file's tests stay in one process, which shares what they prepare.
# Guests are booted last and one at a time: without KVM each takes a whole processor.
test: setup-dev
	$(PYTEST) -q -n 2 --dist loadfile -m "not boot" tests/integration tests/unit $(PYTESTFLAGS)
	$(PYTEST) -q -m boot tests/integration $(PYTESTFLAGS)

check: setup-dev
	.venv/bin/ruff format --check mkroot tests
	.venv/bin/ruff check mkroot tests
	.venv/bin/mypy
	.venv/bin/lint-imports
	$(PYTEST) -q tests/unit/test_architecture.py

# Ratios against the peers, on the same packages over loopback; BENCH_RUNS=5 by default.
bench: setup-dev
	.venv/bin/python -m tests.bench

clean:
	rm -rf .venv out bench-out .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

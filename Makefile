# The six things there are to do with a checkout. `make build` and `make test` need nothing but Python and make.

MKROOT = .venv/bin/mkroot
PYTEST = .venv/bin/python -m pytest

.PHONY: setup setup-dev setup-fuzz build test check bench bench-growth fuzz clean

# .venv with .venv/bin/mkroot, and what the host lacks named (as root: installed). Quick when nothing changed.
setup:
	@tools/setup.sh

setup-dev:
	@tools/setup.sh dev

setup-fuzz:
	@tools/setup.sh fuzz

build: setup
	$(MKROOT) build recipes/ubuntu-min.yaml

# The long ones on real archives first, then unit tests; a file's tests stay in one process, which shares what they prepare.
# Guests are booted last and by themselves, two at a time: without KVM each takes a whole processor.
test: setup-dev
	$(PYTEST) -q -n 2 --dist loadfile --no-loadscope-reorder -m "not boot" tests/integration tests/faults tests/unit $(PYTESTFLAGS)
	$(PYTEST) -q -n 2 --dist load -m boot tests/integration $(PYTESTFLAGS)

check: setup-dev
	.venv/bin/ruff format --check mkroot tests
	.venv/bin/ruff check mkroot tests
	.venv/bin/mypy
	.venv/bin/lint-imports
	$(PYTEST) -q tests/unit/test_architecture.py

# Ratios against the peers, on the same packages over loopback; BENCH_RUNS=5 by default.
bench: setup-dev
	.venv/bin/python -m tests.bench

# What builds cost from 90 to 1,500 packages, and commands in stores of 1 to 1,000 images: minutes, and 15 GB of disk.
bench-growth: setup-dev
	BENCH_ONLY=growth .venv/bin/python -m tests.bench

# A million random inputs for every parser of outside bytes, guided by its branches (atheris); FUZZ_RUNS=1000000 by
# default, FUZZ=NAMES for some of them alone. What breaks one lies in fuzz-out/ afterwards.
fuzz: setup-fuzz
	.venv/bin/python -m tests.fuzz $(FUZZ)

clean:
	rm -rf .venv out bench-out fuzz-out .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

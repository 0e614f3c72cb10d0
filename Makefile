# The front door: everything a user, a developer or CI does starts here. `make help` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUST_SOURCES := $(shell find rust -path rust/fuzz -prune -o -name target -prune -o \( -name '*.rs' -o -name Cargo.toml \) -print)

.PHONY: help install build lock fmt lint typecheck demo test test-long test-rust test-unit test-property \
	test-integration chaos fuzz bench bench-gate bench-e2e clean

# Cargo runs as many jobs as there are cores, whatever make was told.
ALONE := env -u MAKEFLAGS -u MFLAGS
CARGO := $(ALONE) cargo

# Seconds of generated histories per property test, rounds per chaos scenario: `make test` takes a
# seeded subset, `make test-long` the full counts.
PYTEST := $(BIN)/python -m pytest
# Of what starts servers half the time is waiting, for leases to expire and the like: two to a core.
CROWDED := -n 4 --dist worksteal --durations 12
LONG := PGFLO_LONG=1

# Commands and their fork servers start a thousand times in the tests: from compiled modules.
unexport PYTHONDONTWRITEBYTECODE

# Tests start many small servers: in memory where there is room for them, which takes a third of the time.
MEMORY_KB := $(shell df --output=avail -k /dev/shm 2>/dev/null | tail -n 1)
test-property test-integration chaos test-long: export TMPDIR := $(shell [ "$(or $(MEMORY_KB),0)" -gt 6000000 ] && echo /dev/shm || echo "$${TMPDIR:-/tmp}")

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sort | sed -E 's/^([a-z0-9-]+):.*## (.*)/  make \1\t\2/' | expand -t 26

install: $(VENV)/.built ## set up .venv with pgflo in it (again and again, at no cost)

build: install ## compile the Rust core into .venv

$(VENV)/.locked: requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	touch $@

$(VENV)/.built: $(VENV)/.locked pyproject.toml Cargo.toml Cargo.lock $(RUST_SOURCES)
	PIP_QUIET=1 VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/maturin develop --release --locked --quiet
	touch $@

lock: ## resolve the Python dependencies anew (needs uv)
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		--extra dev --extra embedded -o requirements.lock pyproject.toml
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		--extra embedded -o requirements-runtime.lock pyproject.toml

fmt: install ## format Python and Rust
	$(BIN)/ruff format python tests benches
	$(BIN)/ruff check --fix python tests benches
	cargo fmt

lint: install ## ruff, rustfmt, mypy, stubtest, clippy
	$(BIN)/ruff format --check --quiet python tests benches
	$(BIN)/ruff check --quiet python tests benches
	$(CARGO) fmt --check
	$(MAKE) --no-print-directory typecheck
	$(CARGO) clippy --quiet --locked --workspace --all-targets -- -D warnings

typecheck: install ## mypy --strict, and the stub of the Rust core against the core itself
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest pgflo._core

demo: install ## two PostgreSQL servers, a broker and a load: copy, stream, and prove both sides equal
	$(BIN)/pgflo demo

# What only compiles and counts goes side by side: the benches' link keeps one core busy for a minute.
test: install ## everything, in the order of its cost (under 20 minutes)
	$(MAKE) --no-print-directory -j2 --output-sync=target bench-gate lint test-rust
	$(MAKE) --no-print-directory test-unit test-property test-integration chaos
	@echo "all tests passed"

test-long: lint test-rust ## the full counts: every kill ten times, long property runs, fuzzing
	$(LONG) $(PYTEST) tests/unit tests/property tests/integration benches/python
	$(LONG) $(PYTEST) tests/chaos
	$(MAKE) --no-print-directory bench-gate fuzz

test-rust: install ## the core under plain cargo test
	$(CARGO) test --quiet --locked --workspace --exclude pgflo-py

test-unit: install ## what needs no server
	$(PYTEST) -q tests/unit

test-property: install ## generated input: the Rust core against the slow Python oracle, net effects against replay
	$(PYTEST) -q -n 2 --dist worksteal tests/property

test-integration: install ## real PostgreSQL, real NATS
	$(PYTEST) -q $(CROWDED) tests/integration

chaos: install ## kill -9, lost answers and a broker that forgets, under load
	$(PYTEST) -q -n 2 --dist worksteal --durations 12 tests/chaos

bench: install ## Rust decoder against the Python oracle (pytest-benchmark)
	$(PYTEST) benches/python --benchmark-verbose

# What to measure and how much of it: BENCH="pgbench latency --shards 2 --profile", BENCH=--help.
BENCH ?=
bench-e2e: install ## copy, backlogs, latency, a large transaction, against native replication
	$(BIN)/python -m benches.e2e $(BENCH)

bench-gate: install ## fail when a hot path executes 5 % more instructions than it did
	$(ALONE) $(BIN)/python benches/gate/gate.py

FUZZ_SECONDS ?= 60
FUZZ_TARGETS := decode_body read_header assemble replay net split json rules
fuzz: .tools/bin/cargo-fuzz ## throw mutated bytes at the Rust core for a minute (needs a nightly toolchain)
	for target in $(FUZZ_TARGETS); do \
		mkdir -p rust/fuzz/corpus/$$target; \
		PATH="$(CURDIR)/.tools/bin:$$PATH" cargo +nightly fuzz run --fuzz-dir rust/fuzz $$target \
			rust/fuzz/corpus/$$target rust/fuzz/seeds/$$target -- \
			-max_total_time=$$(($(FUZZ_SECONDS) / $(words $(FUZZ_TARGETS)))) -rss_limit_mb=512 -verbosity=0; \
	done

.tools/bin/cargo-fuzz:
	cargo install --quiet --locked --root .tools cargo-fuzz

clean: ## remove what was built
	rm -rf $(VENV) .tools target rust/fuzz/target dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

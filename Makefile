# The front door: everything a user, a developer or CI does starts here. `make help` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUST_SOURCES := $(shell find rust -path rust/fuzz -prune -o -name target -prune -o \( -name '*.rs' -o -name Cargo.toml \) -print)

.PHONY: help install lock build fmt lint typecheck clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 22

install: $(VENV)/.built ## set up .venv with pgflo in it (again and again, at no cost)

build: install ## compile the Rust core into .venv

$(VENV)/.locked: requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	touch $@

$(VENV)/.built: $(VENV)/.locked pyproject.toml Cargo.toml Cargo.lock $(RUST_SOURCES)
	VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/maturin develop --release --locked --quiet
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

lint: install ## ruff, mypy, stubtest, rustfmt, clippy
	$(BIN)/ruff format --check python tests benches
	$(BIN)/ruff check python tests benches
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest pgflo._core
	cargo fmt --check
	cargo clippy --quiet --locked --workspace --all-targets -- -D warnings

clean: ## remove what was built
	rm -rf $(VENV) .tools target rust/fuzz/target dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

# What can be done with a fresh clone. `make` lists it. Everything runs in .venv, which is made on first use.

PYTHON_IN_VENV := .venv/bin/python
UV := $(firstword $(wildcard .venv/bin/uv) uv)

.DEFAULT_GOAL := help
.PHONY: help demo test quick lint type fmt bench consume consume-all emulators lock runtime dev

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

demo: runtime ## run examples/csv_submit.lua: two sweeps and a table of winners; again: answered from the record
	@.venv/bin/sparkles run examples/csv_submit.lua

test: dev ## every test group; SPARKLES_TEST_ALL=1: a group that cannot run is a failure
	@$(PYTHON_IN_VENV) tests/run-all

quick: dev ## what to run before each commit, under two minutes
	@$(PYTHON_IN_VENV) tests/run-all --quick

lint: dev ## format and lint rules
	@$(PYTHON_IN_VENV) tests/run-all lint

type: dev ## mypy --strict
	@$(PYTHON_IN_VENV) tests/run-all type

fmt: dev ## format, and mend what can be mended
	@$(PYTHON_IN_VENV) -m ruff format .
	@$(PYTHON_IN_VENV) -m ruff check --fix --quiet .

bench: dev ## measure, and write the table of docs/performance.md
	@$(PYTHON_IN_VENV) bench/all.py

consume: ## build the cloud worker, consume/bin/consume (needs Go)
	@consume/build

consume-all: ## the same for linux/amd64 and linux/arm64, for an image
	@consume/build amd64 arm64

emulators: dev ## Google's services on this machine: prints what to export, runs until Ctrl-C
	@$(PYTHON_IN_VENV) -m tests.support.emulators

lock: ## compute requirements/*.lock anew (needs uv)
	@command -v $(UV) >/dev/null || { echo "uv is needed to lock: .venv/bin/python -m pip install uv" >&2; exit 1; }
	@$(UV) pip compile pyproject.toml --group build --universal --generate-hashes --upgrade --quiet \
	  --custom-compile-command "make lock" --output-file requirements/runtime.lock
	@$(UV) pip compile pyproject.toml --group dev --universal --generate-hashes --upgrade --quiet \
	  --constraints requirements/runtime.lock --custom-compile-command "make lock" --output-file requirements/dev.lock

runtime:
	@requirements/install runtime

dev:
	@requirements/install dev

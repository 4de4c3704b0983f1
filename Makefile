# Everything needs only python3 (3.11 or newer) and make; the rest is installed into .venv.
# Settings are given as `make up NAME=value`: make puts them into the environment of what it runs.
.DEFAULT_GOAL := help
.PHONY: help up test lint breaking proto bench audit clean
.SILENT:

PYTHON ?= python3
BIN := .venv/bin
INSTALL = $(BIN)/python -m pip install -q --disable-pip-version-check --root-user-action=ignore \
          -c constraints.txt
# Two: on the two-core machines that this must be quick on, more workers only slow each other down.
WORKERS ?= 2
ARGS ?=
BASE ?= main

help: ## Show this list
	echo "make TARGET [NAME=value ...], such as: make up PORT=9000 STRATEGIES=SPXL INTERVAL_S=1"
	sed -n 's/^\([a-z]*\):.*## \(.*\)/  \1\t\2/p' Makefile | expand -t 12

up: .venv/installed-run ## Run the whole mesh on this machine: PostgreSQL, router, Envoy, strategies
	$(BIN)/python -m services.mesh

test: .venv/installed-dev lint ## Lint, then run all tests (ARGS="-k name" passes on to pytest)
	$(BIN)/python -m pytest -q -n $(WORKERS) $(ARGS)

lint: .venv/installed-dev breaking ## Check format, style, types, generated files, import rules, contract
	$(BIN)/ruff format --check -q .
	$(BIN)/ruff check -q .
	$(BIN)/mypy
	$(BIN)/python protos/generate.py --check
	$(BIN)/lint-imports

# The contract must lint, and must not break callers of what branch BASE holds.
breaking: .venv/installed-dev
	mkdir -p .build && $(BIN)/python protos/generate.py --image .build/contract.binpb
	$(BIN)/buf lint .build/contract.binpb
	rm -rf .build/base && mkdir -p .build/base
	for ref in $(BASE) origin/$(BASE); do \
	    git archive "$$ref" protos 2>/dev/null | tar -x -C .build/base 2>/dev/null && break; \
	done; \
	if [ -d .build/base/protos/efficientfrontier ]; then \
	    $(BIN)/python protos/generate.py --protos .build/base/protos --image .build/base.binpb && \
	    $(BIN)/buf breaking .build/contract.binpb --against .build/base.binpb; \
	else \
	    echo "Breaking changes are not checked: git has no protos on branch $(BASE)."; \
	fi

proto: .venv/installed-dev ## Write the stubs and Envoy's descriptors anew from protos/
	$(BIN)/python protos/generate.py

bench: .venv/installed-dev ## Measure orders a second, beside an ordinary implementation
	$(BIN)/python -m benchmarks $(ARGS)

audit: .venv/installed-run ## Recompute every book of the running mesh from its facts
	$(BIN)/python -m services.mesh.audit

clean: ## Remove what was installed and built; what the mesh has stored in .data stays
	rm -rf .venv .build build *.egg-info sdk/*.egg-info \
	    .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps: pip runs again only when what it installs has changed.
.venv/installed-run: pyproject.toml constraints.txt | .venv/bin/python
	echo "Setting up (about a minute) ..."
	$(INSTALL) -e '.[server,local]'
	touch $@

.venv/installed-dev: pyproject.toml constraints.txt | .venv/bin/python
	echo "Setting up for development (about a minute) ..."
	$(INSTALL) -e '.[server,local,dev]'
	touch .venv/installed-run $@

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	    { echo "Python 3.11 or newer is needed; $(PYTHON) is not: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv --clear .venv >/dev/null 2>&1 || { rm -rf .venv; \
	    echo "$(PYTHON) cannot make a virtual environment: install its venv module" \
	         "(Debian, Ubuntu: apt install python3-venv)."; exit 1; }

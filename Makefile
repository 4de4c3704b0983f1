# Everything needs only python3 (3.11 or newer) and make; the rest is installed into .venv.
# Settings are given as `make up NAME=value`: make puts them into the environment of what it runs.
.DEFAULT_GOAL := help
.PHONY: help up test lint breaking chaos proto manifests bench audit pictures identity clean
.SILENT:

PYTHON ?= python3
BIN := .venv/bin
PIP_INSTALL = install -q --use-pep517 --disable-pip-version-check --root-user-action=ignore -c constraints.txt
INSTALL = $(BIN)/python -m pip $(PIP_INSTALL)
# Two: on the two-core machines that this must be quick on, more workers only slow each other down.
WORKERS ?= 2
ARGS ?=
BASE ?= main
SEED ?= 1
KILLS ?= 300

# What speaks to Interactive Brokers is tested on both of its client libraries. Both bring a module
# named eventkit, so ib_async has an environment of its own, which takes all else from .venv. Of
# paths among ARGS, it gets those that lie here.
ON_BOTH = $(wildcard tests/gateway tests/live tests/sdk/test_ibkr_feed.py tests/e2e/test_live*.py)
NAMED = $(filter tests/%,$(ARGS))
AGAIN = $(if $(NAMED),$(filter $(addsuffix %,$(ON_BOTH)),$(NAMED)),$(ON_BOTH))

help: ## Show this list
	echo "make TARGET [NAME=value ...], such as: make up PORT=9000 STRATEGIES=SPXL INTERVAL_S=1"
	echo "LIVE with a simulated broker: make up TRADING_MODE=LIVE IBKR_HOST=simulated"
	sed -n 's/^\([a-z]*\):.*## \(.*\)/  \1\t\2/p' Makefile | expand -t 12

up: .venv/installed-run ## Run the whole mesh on this machine: PostgreSQL, router, Envoy, strategies
	$(BIN)/python -m services.mesh

test: .venv/installed-dev .venv/ib_async/installed lint ## Lint, then all tests (ARGS="-k name": pytest's)
	if [ -n "$(AGAIN)" ] && $(BIN)/python -c 'import ib_insync' 2>/dev/null; then \
	    echo "The tests of the broker, on ib_async:"; \
	    .venv/ib_async/bin/python -m pytest -q -n $(WORKERS) $(AGAIN) $(filter-out tests/%,$(ARGS)) || \
	        [ $$? -eq 5 ] || exit 1; \
	    echo "All tests, on ib_insync:"; \
	fi # 5: ARGS selects none of them
	$(BIN)/python -m pytest -q -n $(WORKERS) $(ARGS)

lint: .venv/installed-dev breaking ## Check format, style, types, generated files, import rules, contract
	$(BIN)/ruff format --check -q .
	$(BIN)/ruff check -q .
	$(BIN)/mypy
	$(BIN)/python protos/generate.py --check
	$(BIN)/python -m services.mesh.door_tls --check
	$(BIN)/python k8s/generate.py --check
	$(BIN)/python k8s/components/monitoring/generate.py --check
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

chaos: .venv/installed-dev ## Kill parts of the LIVE path at random, then check (SEED=1 KILLS=300)
	$(BIN)/python -m tests.live.chaos --seed $(SEED) --kills $(KILLS) $(ARGS)

proto: .venv/installed-dev ## Write the stubs and Envoy's descriptors anew from protos/, and what holds them
	$(BIN)/python protos/generate.py
	$(MAKE) manifests

manifests: .venv/installed-dev ## Write Envoy's mTLS variant and k8s/EfficientFrontier.yaml anew
	$(BIN)/python -m services.mesh.door_tls
	$(BIN)/python k8s/generate.py
	$(BIN)/python k8s/components/monitoring/generate.py

bench: .venv/installed-dev ## Measure orders a second, beside an ordinary implementation
	$(BIN)/python -m benchmarks $(ARGS)

audit: .venv/installed-run ## Recompute every book of the running mesh from its facts
	$(BIN)/python -m services.mesh.audit

pictures: .venv/installed-run ## Save the running mesh's pictures as files (ARGS="--out FOLDER")
	$(BIN)/python -m services.mesh.pictures $(ARGS)

identity: .venv/installed-run ## Certificates and tokens (ARGS="issue operator/alice --out FOLDER")
	$(BIN)/python -m services.mesh.identity $(ARGS)

clean: ## Remove what was installed and built; what the mesh has stored in .data stays
	rm -rf .venv .build build *.egg-info sdk/*.egg-info \
	    .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps: pip runs again only when what it installs has changed.
.venv/installed-run: pyproject.toml constraints.txt | .venv/bin/python
	echo "Setting up (about a minute) ..."
	$(INSTALL) -e '.[server,local,ibkr]'
	touch $@

.venv/installed-dev: pyproject.toml constraints.txt | .venv/bin/python
	echo "Setting up for development (about a minute) ..."
	$(INSTALL) -e '.[server,local,ibkr,dev]'
	touch .venv/installed-run $@

# site.addsitedir, unlike a bare path, also heeds what points to sdk/. With --no-deps nothing is
# installed that .venv has already, numpy above all.
.venv/ib_async/installed: constraints.txt | .venv/installed-dev
	rm -rf .venv/ib_async && $(BIN)/python -m venv --without-pip .venv/ib_async
	first=$$(cd .venv/lib/python*/site-packages && pwd); \
	    echo "import site; site.addsitedir('$$first')" \
	    > "$$(ls -d .venv/ib_async/lib/python*/site-packages)/first.pth"
	$(BIN)/python -m pip --python .venv/ib_async/bin/python \
	    $(PIP_INSTALL) --no-deps ib_async aeventkit
	touch $@

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	    { echo "Python 3.11 or newer is needed; $(PYTHON) is not: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv --clear .venv >/dev/null 2>&1 || { rm -rf .venv; \
	    echo "$(PYTHON) cannot make a virtual environment: install its venv module" \
	         "(Debian, Ubuntu: apt install python3-venv)."; exit 1; }

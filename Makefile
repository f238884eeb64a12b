# Works from any folder (make -C), in several clones side by side, and without a network after the first run.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
MINIMUM := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(firstword $(foreach p,python3.11 python3 python3.12 python3.13,$(shell $(p) -c '$(MINIMUM)' 2>/dev/null && echo $(p))))

PACKAGES := schemas libs/servicekit $(patsubst %/pyproject.toml,%,$(wildcard services/*/pyproject.toml)) deploy
SOURCES := schemas libs services deploy tests bench
TYPED := $(wildcard bench/*.py) tests $(PACKAGES)

.PHONY: help install demo test lint format bench-pipeline bench-decide bench-withdraw bench-disclose lock schemas clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' Makefile

install: $(VENV)/packages.stamp ## make .venv with everything in it, Kafka and PostgreSQL included

$(VENV)/requirements.stamp: requirements/dev.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is missing: install it, or name it with make install PYTHON=/path/to/python3.11." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@echo '*' > $(VENV)/.gitignore
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@touch $@

$(VENV)/packages.stamp: $(VENV)/requirements.stamp $(addsuffix /pyproject.toml,$(PACKAGES))
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-build-isolation $(addprefix -e ./,$(PACKAGES))
	$(BIN)/python -m throughgate.native
	@touch $@

demo: install ## run the whole system here; BROKERS=1|3, KEEP=1 (leave it running), CHAOS=1 (kill processes meanwhile)
	$(BIN)/throughgate demo $(if $(BROKERS),--brokers $(BROKERS)) $(if $(KEEP),--keep) $(if $(CHAOS),--chaos)

test: install ## run the tests; ARGS="tests/unit -k consent" chooses
	$(BIN)/python -m pytest -n 2 --dist loadfile $(if $(ARGS),$(ARGS),tests)

lint: install ## check style, types and who imports whom
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy $(TYPED)
	$(BIN)/lint-imports

format: install ## put the sources in order
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

bench-pipeline: install ## measure the way of an event through the whole system
	$(BIN)/python -m bench.pipeline $(ARGS)

bench-withdraw: install ## measure withdrawals under full load: how soon they are done, and that nothing leaves behind them
	$(BIN)/python -m bench.withdraw $(ARGS)

bench-disclose: install ## measure one discloser and two, beside the bare loop, and what the ledger costs
	$(BIN)/python -m bench.disclose $(ARGS)

bench-decide: $(VENV)/bench.stamp ## measure the rules alone, beside Cedar, Rego and Casbin, and with a full store
	$(BIN)/python -m bench.decide $(ARGS)

$(VENV)/bench.stamp: requirements/bench.txt $(VENV)/packages.stamp
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/bench.txt
	@touch $@

# --universal: one file for every machine; each later file takes the versions of the one before it.
LOCK = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header
lock: install ## compile requirements/*.in again; ARGS=--upgrade takes newer versions (needs a network)
	$(LOCK) $(ARGS) requirements/runtime.in -o requirements/runtime.txt
	$(LOCK) $(ARGS) -c requirements/runtime.txt requirements/matching.in -o requirements/matching.txt
	$(LOCK) $(ARGS) -c requirements/matching.txt requirements/dev.in -o requirements/dev.txt
	$(LOCK) $(ARGS) -c requirements/dev.txt requirements/bench.in -o requirements/bench.txt
	$(LOCK) $(ARGS) -c requirements/dev.txt deploy/images/tools.in -o deploy/images/tools.txt
	$(LOCK) $(ARGS) -c requirements/dev.txt deploy/images/build.in -o deploy/images/build.txt

schemas: install ## make schema files, AsyncAPI and OpenAPI again from the contracts
	$(BIN)/python -m contracts.make

clean: ## remove .venv and what the tools left (caches outside the checkout stay)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
	find . -name '*.egg-info' -prune -exec rm -rf {} +

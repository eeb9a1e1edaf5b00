# One entry for each chore, the same here and in CI. A target makes its own .venv, with nothing but python3, venv and make.
#
#   make demo          the story on a throwaway cell and fleet, with times
#   make test          the tests, in parallel; what a failed test leaves is kept in test-logs/
#   make lint          ruff, basedpyright, import-linter
#   make conformance   clients written by others, against a real cell
#   make bench         the numbers, each with its peer; table and bench-results/*.json
#   make soak          the slow tests
#   make docs          the pages that are made from what there is
#   make clean         forget everything that these targets made
#
# PYTHON=python3.12 chooses the interpreter; ARGS="-k wake -x" reaches pytest, bench and demo.

PYTHON ?= python3
ARGS ?=
# Two workers even on one core: the tests wait for processes more than they compute.
WORKERS ?= $(shell [ "$$(getconf _NPROCESSORS_ONLN)" -gt 2 ] && echo auto || echo 2)

VENV := .venv
PY := $(VENV)/bin/python
# All paths are relative, so a checkout may lie anywhere. No cache: nothing is written outside of the checkout.
PIP := $(PY) -m pip --disable-pip-version-check --quiet --no-input --no-cache-dir install --constraint constraints.txt
# On all cores, which pip does not use; and before the tests make errors of what Python says while it compiles others' sources.
COMPILE := $(PY) -W ignore -m compileall -qq -j 0 -x '/(pip|setuptools)/' $(VENV)/lib src || true
PYTEST := $(PY) -m pytest --numprocesses=$(WORKERS) --maxprocesses=8 --dist=worksteal

# A stamp's name holds all that its step depends on: another place, interpreter or commit makes it anew.
BASE := $(VENV)/base-$(shell { pwd -P; $(PYTHON) --version; } 2>&1 | cksum | tr ' ' -)
PINS := $(shell cat pyproject.toml constraints.txt | cksum | tr ' ' -)
RUNTIME := $(VENV)/runtime-$(PINS)
DEV := $(VENV)/dev-$(PINS)

.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo test lint conformance bench soak docs clean

help:
	@sed -n 's/^#   //p' Makefile

demo: $(RUNTIME)
	@$(VENV)/bin/tenantry demo $(ARGS)

test: $(DEV)
	@rm -rf test-logs
	@$(PYTEST) -m "not slow and not conformance" $(ARGS)

lint: $(DEV)
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m basedpyright
	@$(VENV)/bin/lint-imports --no-logo

conformance: $(DEV)
	@rm -rf test-logs
	@$(PYTEST) -m "conformance and not slow" $(ARGS)

bench: $(DEV)
	@$(PY) tests/bench/main.py $(ARGS)

soak: $(DEV)
	@rm -rf test-logs
	@$(PY) -m pytest -m slow $(ARGS)

docs: $(RUNTIME)
	@$(PY) -m tenantry.cell.api.page docs/api.md

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis .import_linter_cache test-logs bench-results build dist
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(BASE):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Tenantry needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	@echo "Making $(VENV) with $$($(PYTHON) --version), once"
	@$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(RUNTIME): $(BASE)
	@echo "Installing Tenantry and what it needs into $(VENV)"
	@rm -f $(VENV)/runtime-* $(VENV)/dev-*
	@$(PIP) --no-compile hatchling editables
	@$(PIP) --no-compile --no-build-isolation --editable .
	@$(COMPILE)
	@touch $@

$(DEV): $(RUNTIME)
	@echo "Installing the development tools into $(VENV)"
	@$(PY) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["dependency-groups"]["dev"], sep="\n")' > $(VENV)/dev.txt
	@$(PIP) --no-compile --requirement $(VENV)/dev.txt
	@$(COMPILE)
	@touch $@

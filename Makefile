# Drift Lab. Two commands matter: `make lab` and `make test`. `make help` lists the rest.
PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=
JOBS ?= $(shell getconf _NPROCESSORS_ONLN)

BIN := $(VENV)/bin
INDEX := $(if $(filter cpu,$(TORCH_INDEX)),$(shell sed -n 's/^--extra-index-url //p' binder/requirements.txt),$(TORCH_INDEX))
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -qq -c binder/constraints.txt $(if $(INDEX),--extra-index-url $(INDEX))
NEEDS := pyproject.toml binder/constraints.txt
PYTEST := $(BIN)/python -m pytest -q

test unit notebooks browser claims mutate bench: export OMP_NUM_THREADS = 1
notebooks: export PLOTLY_RENDERER = plotly_mimetype
notebooks: export DRIFTLAB_HOME = $(abspath $(VENV))/reader

.DEFAULT_GOAL := help
.PHONY: help lab serve build test lint unit notebooks browser claims mutate bench clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  PYTHON=python3.12   the interpreter that makes $(VENV) (3.11 or later)"
	@echo "  TORCH_INDEX=cpu     take PyTorch's small CPU build instead of the default one; or the address of another package index"
	@echo "  JOBS=4              test processes, one per core by default"
	@echo "  CHROMIUM=/path      the browser that the browser tests drive"

lab: $(VENV)/.lab ## Set up, then open JupyterLab on the start page
	$(BIN)/labkit lab

serve: $(VENV)/.lab ## Set up, then open the Drift Explorer and the Ledger in the browser
	$(BIN)/labkit serve

build: $(VENV)/.lab ## Build the notebooks from course/chapters
	$(BIN)/labkit build

test: lint unit notebooks browser ## Set up, then lint, type check and run every test

lint: $(VENV)/.test ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/mypy

unit: $(VENV)/.test ## Unit tests, one process per core
	$(PYTEST) -n $(JOBS) --dist worksteal --ignore=tests/browser tests

notebooks: $(VENV)/.test ## Rerun every notebook and compare with what it stores
	$(BIN)/labkit build --check
	@rm -rf $(VENV)/reader
	$(PYTEST) -n $(JOBS) --dist loadfile --nbval --nbval-sanitize-with tests/nbval_sanitize.cfg --nbval-cell-timeout 120 notebooks

browser: $(VENV)/.test ## Drive the lab in headless Chromium
	$(PYTEST) tests/browser

claims: $(VENV)/.lab ## Judge the claims whose verdict is missing or stale
	$(BIN)/labkit claims --jobs $(JOBS)

mutate: $(VENV)/.test ## Do the tests bite? Mutants of losses, divergences and papers
	$(BIN)/labkit claims --mutate --jobs $(JOBS)

bench: $(VENV)/.test ## Measure speed, latency and memory beside the peers
	$(BIN)/labkit bench

clean: ## Remove the environment and the caches
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

define quiet
	@$(BIN)/jupyter labextension disable "@jupyterlab/apputils-extension:announcements" 2>/dev/null
	@touch $(1)
endef

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Drift Lab needs Python 3.11 or later; name one with make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.lab: $(NEEDS) | $(BIN)/python
	@echo 'Setting up $(VENV): PyTorch, JupyterLab and the lab itself, a few minutes the first time.'
	$(INSTALL) -e .
	$(call quiet,$@)

$(VENV)/.test: $(NEEDS) | $(BIN)/python
	@echo 'Setting up $(VENV) with what the tests need, a few minutes the first time.'
	$(INSTALL) -e ".[test]"
	$(call quiet,$@ $(VENV)/.lab)

# Needs git, make and Python 3.11 or 3.12. `make` alone lists what there is.

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
VENV := .venv
READY := $(VENV)/.ready

export MLFLOW_DISABLE_TELEMETRY := true
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help run test lint ui lock clean

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile | expand -t 14

run: $(READY)  ## the pipeline on the embedded data: prepare, adapt the encoder, promote it, probe it
	@echo "mlflow run . -e main -P rank=8"
	@. $(VENV)/bin/activate && mlflow run . -e main -P rank=8

test: lint  ## lint, types, import contracts, all tests
	@echo "pytest"
	@# Files as they come, so that the long ones of end_to_end begin early and none of them is waited for at the end.
	@# A process has 1.5 GB, beside what it starts.
	@. $(VENV)/bin/activate && OMP_NUM_THREADS=1 pytest -q -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

lint: $(READY)  ## ruff, mypy, import contracts
	@echo "ruff, mypy, lint-imports"
	@. $(VENV)/bin/activate && ruff check --quiet && ruff format --check --quiet && mypy -n auto && lint-imports

ui: $(READY)  ## browse the runs and the registered models; prints the address of the last run
	@. $(VENV)/bin/activate && medexp ui

lock:  ## renew requirements.lock from pyproject.toml
	$(PYTHON) -m venv --clear build/lock
	build/lock/bin/pip install -qq -e '.[dev]'
	build/lock/bin/pip freeze --exclude-editable | sed 's/+.*//' > build/pins
	{ grep '^#' requirements.lock; cat build/pins; } > build/requirements.lock
	mv build/requirements.lock requirements.lock

clean:  ## remove the environment and all caches; runs and models stay
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml requirements.lock
	@echo "installing what requirements.lock pins into $(VENV) with $(PYTHON)"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(VENV)/bin/pip install -qq -c requirements.lock -e '.[dev]'
	@touch $@

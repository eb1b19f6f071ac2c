PYTHON ?= python3
SPEC ?= searchspaces/quickstart.yaml
BIN := .venv/bin
TWO_PROCESSES := -n 2 --dist loadscope --no-loadscope-reorder    # one has all that runs on Ray: tests/conftest.py

.PHONY: sweep test test-all lint cluster-check setup

sweep: setup
	$(BIN)/python -m platform.sweep $(SPEC)

test: setup
	$(BIN)/python -m pytest $(TWO_PROCESSES)

test-all: setup
	$(BIN)/python -m pytest $(TWO_PROCESSES) -m "" --timeout 3600

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

cluster-check: setup
	$(BIN)/python -m platform.cluster_check

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev,aws]'
	touch $@

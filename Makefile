.PHONY: help install run unit test lint bench soak lock clean
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --require-hashes

help:  ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

install: $(READY)  ## set everything up in .venv

$(READY): requirements-build.txt requirements.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv --clear $(VENV)
	$(PIP) -r requirements-build.txt
	$(PIP) --no-build-isolation -r requirements-dev.txt
	@touch $(READY)

run: $(READY)  ## the whole service on this machine, with real servers
	@$(BIN)/python deploy/local/run.py

lint: $(READY)  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

unit: $(READY)  ## the fast tests alone, without a server
	$(BIN)/python -m pytest -q -n 2 -m "not thorough" --ignore=tests/system $(TESTS)

test: lint  ## lint, types and all tests
	$(BIN)/python -m pytest -n 4 --dist worksteal $(TESTS)

lock: $(READY)  ## compile the requirements anew
	for each in requirements requirements-build requirements-tracing requirements-dev; do \
	  $(BIN)/uv pip compile --quiet --upgrade --generate-hashes --no-header --no-emit-index-url \
	    --no-emit-find-links --universal --python-version 3.11 $$each.in -o $$each.txt || exit 1; \
	done

clean:  ## remove .venv and the local stack's data
	rm -rf $(VENV) var

bench: $(READY)  ## what an upload costs, beside others; takes a quarter of an hour
	$(BIN)/python bench/uploads.py $(BENCH)
	$(BIN)/python bench/situations.py

soak: $(READY)  ## ten minutes of uploads: memory, leaks, counters
	$(BIN)/python bench/soak.py $(SOAK)

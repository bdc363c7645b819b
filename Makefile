.PHONY: help install run unit test lint bench soak lock clean
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Made last, so that an install that broke off runs again.
READY := $(VENV)/ready
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --require-hashes

help:  ## show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

install: $(READY)  ## set up .venv

$(READY): requirements-build.txt requirements.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv --clear $(VENV)
	$(PIP) -r requirements-build.txt
	$(PIP) --no-build-isolation -r requirements-dev.txt
	@touch $(READY)

run: $(READY)  ## run the whole service on this machine, with real servers
	@$(BIN)/python deploy/local/run.py

lint: $(READY)  ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

unit: $(READY)  ## run the fast tests, without a server
	$(BIN)/python -m pytest -q -n 2 -m "not thorough" --ignore=tests/system $(TESTS)

test: lint  ## check style and types, and run all tests
	$(BIN)/python -m pytest -n 4 --dist worksteal $(TESTS)

lock: $(READY)  ## update all pinned requirements
	for each in requirements requirements-build requirements-tracing requirements-dev; do \
	  $(BIN)/uv pip compile --quiet --upgrade --generate-hashes --no-header --no-emit-index-url \
	    --no-emit-find-links --universal --python-version 3.11 $$each.in -o $$each.txt || exit 1; \
	done

clean:  ## remove .venv and the data of make run
	rm -rf $(VENV) var

bench: $(READY)  ## measure the cost of uploads; takes a quarter of an hour
	$(BIN)/python -m bench.uploads $(BENCH)
	$(BIN)/python -m bench.situations

soak: $(READY)  ## upload for ten minutes: memory, leaks, counters
	$(BIN)/python -m bench.soak $(SOAK)

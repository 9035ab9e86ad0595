# Two commands for a newcomer: make demo, make test. Needs Python 3.11 or newer, make, and a package registry.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready

.PHONY: demo test test-slow lint clean

demo: $(READY)
	$(BIN)/sluicegate demo

test: $(READY)
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2

test-slow: $(READY)
	$(BIN)/python -m pytest -n 2 --slow

lint: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Both installs are pinned by constraints.txt; torch is named there, so that no larger build is taken.
$(READY): pyproject.toml study/pyproject.toml papers/pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Sluicegate needs Python 3.11 or newer; set PYTHON=/path/to/python" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]' -e ./study -e ./papers
	touch $(READY)

clean:
	rm -rf $(VENV)

# Two commands for a newcomer: make demo, make test. Needs Python 3.11 or newer, make, and a package registry.
# TORCH_INDEX=URL takes PyTorch from an index of your choice, for example from PyTorch's own index of CPU builds.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
TORCH_INDEX ?=
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt
# What is installed: the library alone, for the demo; all three distributions and the tools, for the rest.
LIBRARY := $(VENV)/library
READY := $(VENV)/ready

.PHONY: demo test test-slow lint docs wheels clean

demo: $(LIBRARY)
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

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo site/index.html

wheels: $(READY)
	$(BIN)/python -m pip --disable-pip-version-check wheel --quiet --no-deps -w dist . ./study ./papers

# Both installs are pinned by constraints.txt. PyTorch comes first, from TORCH_INDEX where one is given; what it needs itself
# comes from the usual index with the library.
$(LIBRARY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Sluicegate needs Python 3.11 or newer; set PYTHON=/path/to/python" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(if $(TORCH_INDEX),--no-deps --index-url $(TORCH_INDEX)) torch
	$(PIP) -e .
	touch $(LIBRARY)

$(READY): $(LIBRARY) study/pyproject.toml papers/pyproject.toml
	$(PIP) -e '.[dev]' -e ./study -e ./papers
	touch $(READY)

clean:
	rm -rf $(VENV) dist site

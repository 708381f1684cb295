# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
# The torch to install first. The pinned release is a small CPU build where the registry offers one; on a machine
# with an NVIDIA GPU name the build that fits it, e.g. make demo TORCH="torch==2.13.0 --index-url …"
TORCH ?= torch==2.13.0
BIN := $(VENV)/bin
PYTEST_ARGUMENTS ?=

.PHONY: install demo test lint format clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet $(TORCH)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[test]"
	touch $@

demo: install
	$(BIN)/smol-hf demo --output runs/demo

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test: lint
	$(BIN)/python -m pytest $(PYTEST_ARGUMENTS)

clean:
	rm -rf $(VENV) .cache runs

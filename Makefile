# Two commands do everything on a fresh machine: `make demo` and `make test`. CONTRIBUTING.md says more.
PYTHON ?= python3
VENV ?= .venv
# The torch to install first. The pinned release is a small CPU build where the registry offers one; on a machine
# with an NVIDIA GPU name the build that fits it, e.g. make demo TORCH="torch==2.13.0 --index-url …"
TORCH ?= torch==2.13.0
# The torch of `make test-lowest`. The lowest declared release is 2.8.0; the registry has only its CUDA build.
LOWEST_TORCH ?= $(TORCH)
BIN := $(VENV)/bin
PYTEST_ARGUMENTS ?=
# A process for each core. An idle one takes over half of the tests that wait in another.
PYTEST := -m pytest -n auto --dist worksteal
# Builds an environment with other releases of the dependencies and prints the path of its Python.
OTHER_PYTHON := $(BIN)/python tests/modeling/older_transformers.py
export TORCH LOWEST_TORCH

.PHONY: install demo test older-environment test-fast style test-all test-transformers test-newest test-lowest bench lint format docs clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet $(TORCH)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[test]"
	touch $@

demo: install
	$(BIN)/smol-hf demo --output runs/demo

style: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

# Types take a minute, so `make test-fast` leaves them out.
lint: style
	$(BIN)/basedpyright --level error

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The documentation, into site/. A warning is an error.
docs: $(VENV)/.docs
	$(BIN)/python -m mkdocs build --strict

$(VENV)/.docs: $(VENV)/.installed
	$(BIN)/pip install --quiet --editable ".[docs]"
	touch $@

test test-fast test-transformers test-newest test-lowest: export OMP_NUM_THREADS = 1
# Compiled code and assertions of the tests are kept for the next run, also where this variable forbids it.
test test-fast test-transformers test-newest test-lowest: export PYTHONDONTWRITEBYTECODE =

test: older-environment lint
	$(BIN)/python $(PYTEST) $(PYTEST_ARGUMENTS)

# The environment with another transformers is built while the code is checked. A test that needs it waits for it.
older-environment: install
	$(OTHER_PYTHON) 4.57 > /dev/null 2>&1 &

# For daily work: the tests without the mark `slow`, some of each area.
test-fast: style
	$(BIN)/python $(PYTEST) -m "not slow" $(PYTEST_ARGUMENTS)

test-all: export SMOL_HF_KILLS = 20
test-all: export SMOL_HF_WHOLE_DEMO = yes
test-all: export SMOL_HF_BENCHMARKS = yes
test-all: export SMOL_HF_MLX = yes
test-all: export SMOL_HF_LAUNCH = yes
test-all: export SMOL_HF_BROWSER = yes
test-all: test test-transformers test-newest test-lowest

# Checkpoints between this environment and every transformers release that a model card names.
test-transformers: install
	SMOL_HF_TRANSFORMERS="4.57 5.23" $(BIN)/python $(PYTEST) tests/modeling/test_travelling_code.py $(PYTEST_ARGUMENTS)

# Every test with the newest release of every dependency, and with the lowest that pyproject.toml declares.
test-newest test-lowest: test-%: install
	python=$$($(OTHER_PYTHON) $*) && $$python $(PYTEST) $(PYTEST_ARGUMENTS)

# Every benchmark, and docs/performance.md from their results. Leave the machine idle meanwhile.
bench: install
	$(BIN)/python benchmarks/run_all.py

clean:
	rm -rf $(VENV) .cache runs site

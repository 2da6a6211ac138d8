# Each target makes the virtual environment it needs. The only requirement is Python >= 3.11 with pip.

PYTHON ?= python3
VENV ?= .venv
# What to hand to pip for PyTorch: another version, or options such as an index with CPU-only builds.
TORCH ?= torch==2.13.0
# Options for pytest: make test ARGS="-k cone -x"
ARGS ?=
# Processes that share the tests, each with one thread for PyTorch and BLAS; neighbouring tests stay together, for what
# they compile and keep. WORKERS=0 runs them in one process.
WORKERS ?= 2
SHARED := -n $(WORKERS) --dist worksteal

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# A stamp says that an installation is complete, so that a second run starts at once.
TORCH_STAMP := $(VENV)/.torch-$(shell printf '%s' '$(TORCH)' | tr -c 'A-Za-z0-9.' '-')

.PHONY: help demo test test-slow test-gpu lint type bench docs format clean

help:
	@echo "make demo       install, and run examples/quickstart.py"
	@echo "make test       install, and run the tests and the doctests"
	@echo "make test-slow  the tests marked slow"
	@echo "make test-gpu   the tests marked gpu"
	@echo "make lint       ruff: rules and format"
	@echo "make type       pyright"
	@echo "make docs       write docs/api.md again; check the examples and links of the documentation"
	@echo "make bench      benchmarks/run.py"
	@echo "make format     let ruff fix and format"
	@echo "make clean      remove the virtual environment and caches"

demo: $(VENV)/.demo
	$(BIN)/python examples/quickstart.py

test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(SHARED) $(ARGS)

test-slow: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow $(SHARED) $(ARGS)

test-gpu: $(VENV)/.dev
	$(BIN)/python -m pytest -m gpu $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

type: $(VENV)/.dev
	$(BIN)/pyright

docs: $(VENV)/.dev
	$(BIN)/python docs/write_api.py
	$(BIN)/python -m pytest tests/test_docs.py $(ARGS)

bench: $(VENV)/.bench
	$(BIN)/python benchmarks/run.py

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "cvxlayers needs Python >= 3.11; set another one with make PYTHON=..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

# PyTorch goes first and alone, so that the extras below find it installed and do not choose another build.
$(TORCH_STAMP): | $(BIN)/python
	$(PIP) $(TORCH)
	@rm -f $(VENV)/.torch-*
	@touch "$@"

$(VENV)/.demo: setup.cfg $(TORCH_STAMP)
	$(PIP) --editable ".[torch,jax,examples]"
	@touch "$@"

$(VENV)/.dev: setup.cfg $(TORCH_STAMP)
	$(PIP) --editable ".[dev]"
	@touch "$@"

$(VENV)/.bench: setup.cfg $(TORCH_STAMP)
	$(PIP) --editable ".[bench]"
	@touch "$@"

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis

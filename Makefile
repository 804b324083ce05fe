PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
JOBS ?= $(shell $(PYTHON) -c "import os; print(min(os.cpu_count() or 1, 8))")

OLDEST := .venv-oldest
OLDEST_PYTHON ?= $(shell for name in python3.10 python3.11 $(PYTHON); do $$name --version >/dev/null 2>&1 && echo $$name && break; done)

.PHONY: install demo benchmark benchmark-all test test-oldest lint docs site clean

$(VENV)/.installed: setup.py pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --editable '.[test]'
	touch $@

install: $(VENV)/.installed

demo: install
	$(BIN)/python tools/demo.py --output out/demo --jobs $(JOBS)

benchmark: install
	$(BIN)/python tools/sweep.py --config configs/benchmarks/embedded.yaml --output out/demo --html out/demo/report.html \
		--jobs $(JOBS) --stack 15

# The other tables of the embedded world; prints first how long they take
benchmark-all: benchmark
	$(BIN)/python tools/sweep.py --config configs/benchmarks/embedded_others.yaml --output out/demo --jobs $(JOBS) --estimate
	$(BIN)/python tools/sweep.py --config configs/benchmarks/embedded_others.yaml --output out/demo --html out/demo/report.html \
		--jobs $(JOBS) --stack 15

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --platform win32 --cache-dir .mypy_cache/win32

test: install docs lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not slow"

# The tests of backbones, methods and damaged files with the lowest versions that setup.py allows
test-oldest: $(OLDEST)/.installed
	OMP_NUM_THREADS=1 $(OLDEST)/bin/python -m pytest -n 2 -m "not slow" \
		$$(grep -lE "^(import|from) (coop|vpt|promptvision\.backbones|fuzzing)\b" tests/test_*.py)

$(OLDEST)/.installed: setup.py pyproject.toml
	rm -rf $(OLDEST)
	$(OLDEST_PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet uv
	$(OLDEST)/bin/uv pip install --quiet --python $(OLDEST)/bin/python --resolution lowest-direct --editable '.[test]'
	touch $@

docs: install
	$(BIN)/python tools/docs.py

# The documentation as pages with search and an API reference, in site/; fails at a warning or a broken link
site: docs $(VENV)/.docs
	$(BIN)/zensical build --clean --strict

$(VENV)/.docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	touch $@

clean:
	rm -rf $(VENV) $(OLDEST) site out build dist *.egg-info

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
JOBS ?= $(shell $(PYTHON) -c "import os; print(min(os.cpu_count() or 1, 8))")

.PHONY: install demo benchmark test lint docs clean

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
		--jobs $(JOBS)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --platform win32 --cache-dir .mypy_cache/win32

test: install docs lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not slow"

docs: install
	$(BIN)/python tools/docs.py

clean:
	rm -rf $(VENV) out build dist *.egg-info

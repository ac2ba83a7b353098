# Two commands: `make gate` runs the gates on the built-in model, `make test` the project's own tests.
# Without CUDA builds of torch: PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make gate

PYTHON ?= python3
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
SMOKE := ultra_low_bit or canary or codec or kernel
CORE := quantcheck/artifact_facts.py,quantcheck/baseline.py,quantcheck/errors.py,quantcheck/gate.py,quantcheck/measurement.py,quantcheck/plan.py,quantcheck/policy.py,quantcheck/provenance.py,quantcheck/record.py,quantcheck/registry.py,quantcheck/results.py,quantcheck/spec.py,quantcheck/report/*

.PHONY: gate test test-slow lint wheel clean

gate: $(VENV)/installed
	$(BIN)/pytest suites -n $(WORKERS) -m "$(SMOKE)" --quantcheck-report json:build/gate.json

test: lint
	$(BIN)/pytest tests -n $(WORKERS) -m "not slow" --ignore tests/unit
	$(BIN)/coverage run --branch --include "$(CORE)" -m pytest tests/unit -m "not slow"
	$(BIN)/coverage report --fail-under 100

test-slow: $(VENV)/installed
	$(BIN)/pytest tests -n $(WORKERS) -m slow

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

wheel: $(VENV)/installed
	$(BIN)/python -m build --wheel

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "pip>=25.1"
	$(BIN)/pip install --quiet --constraint constraints.txt --editable . --group dev
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info

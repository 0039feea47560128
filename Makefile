# make demo and make test are complete on a fresh machine: they create the environment they need.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test slow lint wheel clean

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt --editable '.[dev,weights,text,lora,umap,parquet,optuna,ray,slurm]'
	touch $@

demo: $(VENV)/installed  ## the main job on the embedded data
	$(BIN)/tlrun

test: $(VENV)/installed  ## the fast tests
	$(BIN)/python -m pytest -n auto

slow: $(VENV)/installed  ## the tests that take minutes
	$(BIN)/python -m pytest -m slow -n auto --dist worksteal

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) dist .mypy_cache .ruff_cache .pytest_cache

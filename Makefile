# Two commands are enough: `make serve` runs the bundled model, `make test` runs the tests. Each installs what it needs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: serve chat test slow check bench clients train train-toy clean

serve: $(VENV)/.base
	$(BIN)/senryu serve $(if $(PORT),--port $(PORT))

chat: $(VENV)/.base
	$(BIN)/senryu chat

test: $(VENV)/.dev
	$(BIN)/python -m pytest -m "not slow"

slow: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow -s

check: $(VENV)/.dev
	$(BIN)/ruff check src tests
	$(BIN)/ruff format --check src tests
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_layers.py tests/test_docs.py

bench: $(VENV)/.base
	$(BIN)/senryu bench

clients: $(VENV)/.dev
	$(BIN)/python -m tests.clients

train: $(VENV)/.dev
	$(BIN)/senryu train all recipes/nano.toml --data $(DATA) --out runs/nano

train-toy: $(VENV)/.dev
	$(BIN)/python -m tests.train.end_to_end

clean:
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache

$(VENV)/.base: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e .
	touch $@

$(VENV)/.dev: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e ".[dev]"
	touch $(VENV)/.base $@

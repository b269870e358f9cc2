# make tiny   environment, generated pool, one whole contest round     make test   every test without GPU and network
# make lint   ruff, mypy, import-linter            make verify-entries   entries changed since BASE
# make board  the entries shipped at tiny           make site             the board as a static site in site/
.PHONY: tiny test test-fast lint format board verify-entries site vectors clean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DONE := $(VENV)/.installed
WHAT := --constraint constraints.txt --editable '.[dev]'

# An environment without pip is one whose making was interrupted. uv is faster, and does not know the package index that
# pip is told of by its own configuration: where it fails, pip does the work.
$(DONE): pyproject.toml constraints.txt
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv && \
	  $(BIN)/uv pip install --python $(BIN)/python --quiet $(WHAT) || \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check $(WHAT)
	@touch $(DONE)

tiny: $(DONE)
	$(BIN)/python -m harness.run scale=tiny method=clip_score method.arch=l14 method.fraction=0.3 $(ARGS)

test: $(DONE)
	$(BIN)/python -m pytest -m "not gpu and not network" $(ARGS)

test-fast: $(DONE)
	$(BIN)/python -m pytest $(ARGS)

lint: $(DONE)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(DONE)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# What is missing of leaderboard/tiny.yaml is run, packed and verified; ARGS="jobs=2", "only=dsir" or "dry_run=true".
board: $(DONE)
	$(BIN)/python scripts/board.py $(ARGS)

verify-entries: $(DONE)
	$(BIN)/python -m leaderboard verify --changed-since $${BASE:-origin/main}

site: $(DONE)
	$(BIN)/python -m leaderboard build --out site

clean:
	rm -rf runs site build dist

# make tiny   environment, generated pool, one whole contest round     make test   every test without GPU and network
# make lint   ruff, mypy, import-linter            make verify-entries   entries changed since BASE
# make board  the baselines at tiny, as entries    make site             the board as a static site in site/
.PHONY: tiny test test-fast lint format board verify-entries site vectors clean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DONE := $(VENV)/.installed

$(DONE): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --python $(BIN)/python --quiet --constraint constraints.txt --editable '.[dev]'
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

# Every method of METHODS with SEEDS at tiny, packed and verified; what is there already is not done again.
METHODS ?= no_filter random_subset basic_filter clip_score laion2b text_based image_based image_based_intersect_clip_score \
	dfn_head density_pruning prototypes metaclip dsir semdedup compute_aware concept_balance
SEEDS ?= 0 1 2
comma := ,
space := $(subst ,, )
board: $(DONE)
	$(BIN)/python -m harness.run -m scale=tiny \
		method=$(subst $(space),$(comma),$(METHODS)) seed=$(subst $(space),$(comma),$(SEEDS))
	for method in $(METHODS); do \
		$(BIN)/python -m harness.entry pack $$(for seed in $(SEEDS); do echo runs/tiny-$$method-seed$$seed; done) \
			--name $$method --out leaderboard/entries/tiny/$$method || exit $$?; \
	done
	$(BIN)/python -m leaderboard verify leaderboard/entries/tiny --write

verify-entries: $(DONE)
	$(BIN)/python -m leaderboard verify --changed-since $${BASE:-origin/main}

site: $(DONE)
	$(BIN)/python -m leaderboard build --out site

clean:
	rm -rf runs site build dist

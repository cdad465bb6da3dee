# Every target does its own set-up: `make demo` on a fresh checkout is enough.
PYTHON ?= python3
BIN := .venv/bin
CORE := .venv/.installed
STUDIO := .venv/.installed-studio
DEV := .venv/.installed-dev

.DEFAULT_GOAL := help
.PHONY: help install install-studio demo studio test test-slow coverage check format bench clean

help: ## these lines
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r target words; do printf '%-21s %s\n' "$$target" "$$words"; done

install: $(CORE) ## make .venv with the pinned packages (again only when their lists change)

install-studio: $(STUDIO) ## the same with what the studio needs

demo: $(CORE) ## the whole loop on the embedded workflow, offline after the first fetch; ends with a report
	$(BIN)/tutelage demo

studio: $(STUDIO) ## open a studio on the embedded workflow in runs/studio: write, rank, train
	@test -f runs/studio/project.json || $(BIN)/tutelage init runs/studio --from support
	$(BIN)/tutelage studio runs/studio

test: $(DEV) ## the fast tests
	$(BIN)/python -m pytest -m "not slow" --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test-slow: $(DEV) ## the slow tests: real models, whole loops
	$(BIN)/python -m pytest -m slow

coverage: $(DEV) ## what tests reach of the queue, the statistics and the export: 95% with branches, or it fails
	$(BIN)/coverage run -m pytest -q -m "not slow" \
		tests/test_evaluate_agreement.py tests/test_evaluate_calibration.py tests/test_evaluate_winrate.py \
		tests/studio/test_export.py tests/studio/test_queue.py tests/studio/test_store.py
	$(BIN)/coverage report

check: $(DEV) ## lint, formatting, types, and the rules of the house
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_structure.py

format: $(DEV) ## rewrite the code in the house's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(DEV) ## measure the speed of the stages on this machine
	$(BIN)/python -m benchmarks

clean: ## remove .venv and what tools leave behind; runs and fetched models stay
	rm -rf .venv .coverage .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than Python 3.11; name a newer one: make PYTHON=python3.12 ..." >&2; exit 2; }
	$(PYTHON) -m venv .venv

$(CORE): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable .
	@touch $@

$(STUDIO): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable '.[parquet,studio]'
	@touch $(CORE) $@

$(DEV): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable '.[dev,parquet,studio,postgres]'
	@touch $(CORE) $(STUDIO) $@

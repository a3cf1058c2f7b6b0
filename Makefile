# Each target sets up what it needs from a bare checkout (Python 3.11 or newer).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test test-slow lint format typecheck links bench docs clean

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(STAMP)
	@if [ -t 0 ] && [ -t 1 ]; then \
	  $(BIN)/mc-tui live --config configs/demo.yaml --out runs/demo.arrow --overwrite; \
	else \
	  $(BIN)/megacontext run --config configs/demo.yaml --out runs/demo.arrow --overwrite; \
	fi

test: $(STAMP)
	$(BIN)/python -m pytest -n auto

test-slow: $(STAMP)
	$(BIN)/python -m pytest -n auto --slow

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

typecheck: $(STAMP) links
	$(BIN)/mypy -p megacontext.core -p megacontext.traces -p megacontext.simulator -p megacontext.tui

# For type checkers and IDEs: the packages under their import names.
links:
	mkdir -p .links/megacontext
	for d in core simulator traces tui; do ln -sfn ../../$$d .links/megacontext/$$d; done

bench: $(STAMP)
	$(BIN)/megacontext bench refocus
	$(BIN)/megacontext bench tree
	$(BIN)/megacontext bench trace
	$(BIN)/megacontext bench decode

docs: $(STAMP)
	$(BIN)/python tests/check_docs.py

clean:
	rm -rf $(VENV) .links build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

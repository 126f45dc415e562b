# Needs only Python 3.10-3.13 and make. `make` alone lists the targets.

PYTHON ?= python3
# Test processes; raise it on a larger machine.
WORKERS ?= 2
# How long `make fuzz` goes on, and the first of its seeds.
MINUTES ?= 10
SEED ?= 1000

VENV  := .venv
BIN   := $(VENV)/bin
# Its date tells when the environment was last brought in line with pyproject.toml and constraints.txt.
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: $(READY) ## check and time the ready-made masks on real sizes, and draw out/gallery.png
	$(BIN)/saccade demo --out out/gallery.png

.PHONY: test
test: $(READY) ## tests and doctests, of the longest suites a share, with coverage (at least 95 %)
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --cov --cov-report=term:skip-covered --cov-fail-under=95

.PHONY: thorough
thorough: $(READY) ## every case of the long suites too, of which `make test` runs a share
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --thorough

.PHONY: fuzz
fuzz: $(READY) ## random calls of the CPU engine and their gradients against float64, for MINUTES=10, from SEED=1000 on
	PYTHONPATH=src:tests $(BIN)/python -m fuzz --minutes $(MINUTES) --seed $(SEED)

.PHONY: check
check: format lint types test ## format, lint, types, then the tests; CI runs docs and package too

.PHONY: format
format: $(READY) ## is every file formatted? (`ruff format` repairs)
	$(BIN)/ruff format --check .

.PHONY: lint
lint: $(READY) ## ruff's rules, each chosen in pyproject.toml
	$(BIN)/ruff check .

.PHONY: types
types: $(READY) ## mypy, strict
	$(BIN)/mypy
	$(BIN)/mypy examples

.PHONY: train
train: $(READY) ## train a small byte model on Python's own sources, into out/train_bytes
	$(BIN)/python examples/train_bytes.py --out out/train_bytes

.PHONY: examples
examples: $(READY) ## run the short examples, each in under a minute; their pictures go to out
	for script in examples/r[0-9]_*.py; do $(BIN)/python $$script || exit 1; done

.PHONY: bench
bench: $(READY) ## time masks, tracing, attention and its gradients on the CPU beside their peers; draw out/*.png
	$(BIN)/saccade bench masks
	$(BIN)/saccade bench trace
	$(BIN)/saccade bench cpu --plot out/cpu.png
	$(BIN)/saccade bench train --plot out/train.png
	$(BIN)/saccade bench jagged --plot out/jagged.png

.PHONY: docs
docs: $(READY) ## run the examples and build the documentation into out/site, warnings being errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	@echo 'open out/site/index.html'

.PHONY: package
package: $(READY) ## build wheel and sdist, and use each in an empty environment
	.ci/package

.PHONY: clean
clean: ## remove caches and build outputs; the environment stays (rm -rf .venv)
	rm -rf build dist out docs/pictures docs/notebooks htmlcov .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find src tests docs examples -name __pycache__ -prune -exec rm -rf {} +

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]' --constraint constraints.txt
	@touch $@

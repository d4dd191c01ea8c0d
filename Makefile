PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check
CORES ?= 2
CPU_ONLY := CUDA_VISIBLE_DEVICES=
export PATH := $(CURDIR)/$(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev demo run test lint bench lock

help: ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 8

$(BIN)/.ready: requirements/run.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "hipqct needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) --require-hashes -r requirements/run.txt
	$(PIP) --no-deps --no-build-isolation -e .
	touch $@

$(BIN)/.dev: $(BIN)/.ready requirements/dev.txt requirements/oracles.txt
	$(PIP) --require-hashes -r requirements/dev.txt
	$(PIP) --require-hashes --no-deps -r requirements/oracles.txt
	touch $@

setup: $(BIN)/.ready ## Set up .venv with what a run needs, pinned

setup-dev: $(BIN)/.dev ## Add what tests and linters need

demo: setup ## Run the whole workflow on five synthetic subjects, on the CPU
	$(CPU_ONLY) snakemake --cores $(CORES)
	@hipqct summary

run: setup ## Run the workflow on the cohort of config/config.yaml (CORES=8)
	snakemake --cores $(CORES) --resources gpu=1

test: setup-dev ## Run the test suite
	$(CPU_ONLY) pytest -n $(CORES) --dist loadfile --no-loadscope-reorder

lint: setup-dev ## Check style, rules and import contracts
	ruff check .
	ruff format --check .
	snakefmt --check Snakefile workflow
	snakemake --lint
	lint-imports

# The libraries compared with: they come last and change no package that is there.
$(BIN)/.peers: $(BIN)/.dev requirements/bench.txt requirements/peers.txt
	$(PIP) --require-hashes -r requirements/bench.txt
	$(PIP) --require-hashes --no-deps -r requirements/peers.txt
	touch $@

bench: setup-dev $(BIN)/.peers ## Run the benchmarks and write benchmarks/results/*.json
	status=0; for benchmark in benchmarks/bench_*.py; do python $$benchmark || status=1; done; exit $$status

lock: setup-dev ## Pin the newest dependencies again
	uv pip compile pyproject.toml requirements/build.in --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-annotate --no-header --upgrade --quiet -o requirements/run.txt
	uv pip compile pyproject.toml requirements/build.in --extra dev --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-annotate --no-header -c requirements/run.txt --quiet -o requirements/dev.txt
	uv pip compile requirements/bench.in --python-version 3.11 --universal --generate-hashes \
		--no-emit-index-url --no-annotate --no-header -c requirements/dev.txt --upgrade --quiet -o requirements/bench.txt

# Two commands do everything: `make demo` and `make test`. See README.md.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export RAY_USAGE_STATS_ENABLED := 0
export HF_HUB_DISABLE_TELEMETRY := 1

# Prints one line a claim; `make bench BENCH='--only steps'` measures one file.
BENCH ?=

.PHONY: demo test gpu slow bench bench-gpu check lint types imports bandit audit fuzz unit conformance integration security faults cluster
.PHONY: check-cluster docs docs-check clean help
.DEFAULT_GOAL := help

help:  ## say what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --constraint constraints.txt --editable '.[demo,dev]'
	@touch $@

demo: $(VENV)/.installed  ## install, then the main job on real data: a printed table, Parquet, exports
	$(BIN)/raycomp run jobs/quickstart.toml

test: $(VENV)/.installed  ## install, then everything that CI runs
	$(MAKE) --no-print-directory check
	$(BIN)/python -m pytest tests

gpu: $(VENV)/.installed  ## tests that need a GPU: the core beside a processor, whole runs, a killed one
	$(BIN)/python -m pytest -m gpu tests/gpu

slow: $(VENV)/.installed  ## tests too long for CI: hung workers, full disks, further kills, a node that dies, two runs on one cluster, a sweep
	$(BIN)/python -m pytest -m slow tests

bench: $(VENV)/.installed  ## install, then every claim of speed, each beside its peer: benchmarks/README.md
	$(BIN)/python -m benchmarks.run_all $(BENCH)

bench-gpu: $(VENV)/.installed  ## the claims that need no Ray, on one GPU
	$(BIN)/python -m benchmarks.run_all --device cuda $(BENCH)

check: lint types imports bandit audit docs-check check-cluster  ## lint, types, walls, bandit, audit, documents, cluster

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed
	$(BIN)/mypy

imports: $(VENV)/.installed
	$(BIN)/lint-imports --no-cache

bandit: $(VENV)/.installed
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive raycomp tools

audit: $(VENV)/.installed  ## known weaknesses of the pinned packages, where advisories can be reached
	.ci/audit $(BIN)

fuzz: $(VENV)/.installed  ## 22,000 job files, tables, data files and model folders that nobody would write
	RAYCOMP_FUZZ=25000 $(BIN)/python -m pytest tests/fuzz

docs-check: $(VENV)/.installed
	$(BIN)/python -m tools.job_reference --check docs/job-file.md

check-cluster: $(VENV)/.installed  ## the files of cluster/: Ray's schema, KubeRay's rules, bash -n, this project's rules
	$(BIN)/mypy tools/check_cluster.py
	$(BIN)/python -m tools.check_cluster

docs: $(VENV)/.installed  ## write docs/job-file.md from the schema
	$(BIN)/python -m tools.job_reference docs/job-file.md

unit conformance integration security faults cluster: $(VENV)/.installed  ## one part of the tests
	$(BIN)/python -m pytest tests/$@

clean:  ## remove the environment and caches (runs/ stays)
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache

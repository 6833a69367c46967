# Two commands do everything: `make demo` and `make test`. README.md explains them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export RAY_USAGE_STATS_ENABLED := 0
export HF_HUB_DISABLE_TELEMETRY := 1

# Tests without Ray run in two processes with one thread each. Those with Ray use all processors themselves.
IN_PARALLEL := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

# Options of the benchmarks: `make bench BENCH='--only steps'` measures one file.
BENCH ?=

.PHONY: demo test gpu slow bench bench-gpu check lint types imports bandit audit browser fuzz unit conformance integration security faults cluster
.PHONY: check-cluster docs docs-check docs-build prose clean help
.DEFAULT_GOAL := help

help:  ## print this list
	@grep -E '^[a-z -]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --constraint constraints.txt --editable '.[demo,dev]'
	@touch $@

demo: $(VENV)/.installed  ## install, run jobs/quickstart.toml on real data, print a table, write the exports
	$(BIN)/raycomp run jobs/quickstart.toml

test: $(VENV)/.installed  ## install, then run all checks and tests of CI
	$(MAKE) --no-print-directory --jobs 2 --output-sync check
	$(IN_PARALLEL) tests/unit tests/conformance tests/security tests/fuzz
	$(BIN)/python -m pytest tests/integration tests/faults tests/cluster tests/browser

gpu: $(VENV)/.installed  ## tests that need a GPU: the core against the CPU, whole runs, a killed run
	$(BIN)/python -m pytest -m gpu tests/gpu

slow: $(VENV)/.installed  ## tests that are too long for CI: hung workers, full disks, failing nodes, two runs on one cluster
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[demo,dev,serve]'
	$(BIN)/python -m pytest -m slow tests

bench: $(VENV)/.installed  ## install, then measure every speed claim against its reference (benchmarks/README.md)
	$(BIN)/python -m benchmarks.run_all $(BENCH)

bench-gpu: $(VENV)/.installed  ## measure the speed claims that need no Ray on one GPU
	$(BIN)/python -m benchmarks.run_all --device cuda $(BENCH)

check: lint types imports bandit audit prose docs-check docs-build check-cluster  ## all checks that are not tests

lint: $(VENV)/.installed  ## ruff: lint and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed  ## mypy, strict
	$(BIN)/mypy

imports: $(VENV)/.installed  ## import-linter: the order of the packages in pyproject.toml
	$(BIN)/lint-imports --no-cache

bandit: $(VENV)/.installed  ## bandit: security lint
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive raycomp tools

browser:  ## install Chromium and ChromeDriver for tests/browser from Debian's packages, where this user may
	.ci/browser

audit: $(VENV)/.installed  ## pip-audit: known vulnerabilities of the pinned packages, if an advisory database is reachable
	.ci/audit $(BIN)

prose: $(VENV)/.installed  ## count the habits of prose that the project avoids
	$(BIN)/python -m tools.prose_check

docs-check: $(VENV)/.installed  ## the generated pages of docs/ are current
	$(BIN)/python -m tools.job_reference --check docs/job-file.md
	$(BIN)/python -m tools.cli_reference --check docs/reference/cli.md
	$(BIN)/python -m tools.import_order --check

docs-build: $(VENV)/.installed  ## build the documentation site in build/docs, with warnings as errors, and run its examples
	$(BIN)/sphinx-build -q -W --keep-going -b html -d build/doctrees -c docs . build/docs
	$(BIN)/sphinx-build -q -W --keep-going -b doctest -d build/doctrees -c docs . build/doctest

check-cluster: $(VENV)/.installed  ## the files of cluster/: schemas of Ray and KubeRay, bash -n, rules of this project
	$(BIN)/python -m tools.check_cluster

docs: $(VENV)/.installed  ## write the generated pages of docs/
	$(BIN)/python -m tools.job_reference docs/job-file.md
	$(BIN)/python -m tools.cli_reference docs/reference/cli.md
	$(BIN)/python -m tools.import_order

fuzz: $(VENV)/.installed  ## 22,000 malformed job files, profiles, tables, data files and model folders
	RAYCOMP_FUZZ=18000 $(BIN)/python -m pytest tests/fuzz

unit conformance security: $(VENV)/.installed  ## one part of the tests, without Ray
	$(IN_PARALLEL) tests/$@

integration faults cluster: $(VENV)/.installed  ## one part of the tests, with Ray
	$(BIN)/python -m pytest tests/$@

clean:  ## remove the environment and the caches; runs/ stays
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache

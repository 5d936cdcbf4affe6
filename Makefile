# Basalt: `make demo` shows the whole loop, `make test` proves it. `make help` lists the rest.
SHELL := /bin/bash
.DELETE_ON_ERROR:
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
CACHE := $(or $(BASALT_CACHE),$(HOME)/.cache/basalt)
export BASALT_CACHE := $(CACHE)
export UV_CACHE_DIR := $(CACHE)/uv
WORKERS ?= 2

.PHONY: help setup demo up test test-real chaos bench lint format types protos lock reference clean

help: ## Lists what make can do.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

$(VENV)/.installed: requirements.lock pyproject.toml libs/sdk/pyproject.toml
	@command -v $(PYTHON) > /dev/null || { echo "Basalt needs Python 3.11: install it (Debian: apt-get install python3.11-venv), or name it: make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "$(PYTHON) is not Python 3.11; name one that is: make PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --require-hashes -r requirements-uv.lock || { echo "uv could not be installed: is there a network, and does pip reach its index?"; exit 1; }
	@echo "Installing the locked dependencies into $(VENV) (about 7 GB, most of it torch)..."
	@$(BIN)/uv pip install --python $(BIN)/python --quiet --require-hashes -r requirements.lock || { echo "The dependencies could not be installed: see above; the network or the disk (8 GB are needed) are the usual reasons."; exit 1; }
	@$(BIN)/uv pip install --python $(BIN)/python --quiet --no-deps --no-build-isolation -e . -e libs/sdk
	@touch $@

setup: $(VENV)/.installed ## Makes .venv and gets Kafka, Envoy and Triton.
	@$(BIN)/python -m tools.servers obtain kafka envoy triton

demo: setup ## Tells the whole story on real parts, then stops.
	@$(BIN)/python -m apps.hospital.demo

up: setup ## Runs the platform until Ctrl-C.
	@$(BIN)/basalt up

test: setup ## Passes every test that needs no Go toolchain.
	$(BIN)/python -m pytest -m "not real" -n $(WORKERS) --dist loadgroup --max-worker-restart 0

test-real: setup ## The contract, e2e, fault and chaos suites on Kafka, MinIO, a MongoDB-wire server and Triton.
	@$(BIN)/python -m tools.servers obtain minio ferretdb
	BASALT_TEST_EDITION=real $(BIN)/python -m pytest tests/contract tests/servers tests/e2e tests/faults tests/chaos -m "real" -n $(WORKERS) --dist loadgroup --max-worker-restart 0

SEEDS ?= 3
chaos: setup ## Harms a working platform by SEEDS=3 seeds, four minutes each at most, and looks what holds.
	@$(BIN)/python -m tests.chaos --seeds $(SEEDS)

bench: setup ## Measures against peers, one line a figure.
	@$(BIN)/python -m bench

lint: $(VENV)/.installed ## ruff, the contracts, the import rules.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m tools.protos check
	$(BIN)/lint-imports
	$(BIN)/python -m tools.settings_reference check
	$(BIN)/python -m tools.licences check

types: $(VENV)/.installed ## Strict types.
	$(BIN)/basedpyright

format: $(VENV)/.installed ## Formats the code.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

protos: $(VENV)/.installed ## Generates libs/common/pb and libs/sdk/basalt/pb from protos/.
	$(BIN)/python -m tools.protos generate

lock: ## Resolves the dependencies anew, pinned by hash.
	$(BIN)/uv pip compile -q --universal --generate-hashes --no-emit-index-url --no-emit-find-links --python-version 3.11 --extra standalone --group dev pyproject.toml -o requirements.lock
	echo "uv" | $(BIN)/uv pip compile -q --universal --generate-hashes --no-emit-index-url --no-emit-find-links --python-version 3.11 - -o requirements-uv.lock
	for service in ingest trainer inference monitoring security gateway; do \
	  $(BIN)/uv pip compile -q --universal --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --no-annotate --python-version 3.11 --extra $$service --constraints requirements.lock pyproject.toml -o deploy/images/requirements-$$service.lock || exit 1; \
	done

reference: $(VENV)/.installed ## Writes the pages of docs/reference that come from the code.
	$(BIN)/python -m tools.settings_reference
	$(BIN)/python -m tools.licences

clean: ## Removes the virtual environment; the download cache stays.
	rm -rf $(VENV)

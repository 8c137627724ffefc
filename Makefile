# Everything works in ./.venv (made where absent); VENV=/path overrides. The same targets run locally and in CI.
#
# TORCH_INDEX picks torch's wheels: empty for what pip finds by itself, or for example
#   make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu      (small, no GPU)
#   make demo TORCH_INDEX=https://download.pytorch.org/whl/cu130    (NVIDIA GPU)
# The kernels are compiled with what is found here, their CUDA code where nvcc is. Variables for `make install`:
#   ADPFL_REQUIRE_EXT=1               fail where they cannot be compiled, in place of going on with slower ones
#   ADPFL_CUDA=1, ADPFL_CUDA=0        fail without nvcc; leave the CUDA code out
#   TORCH_CUDA_ARCH_LIST="8.0;9.0"    the GPUs to compile for
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
# Beside the lock as well: its wheels are for few machines.
ATHERIS ?= atheris==3.0.0
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
SOURCES := adpfl adpfl_server adpfl_client tests proto setup.py
KERNELS := $(shell find csrc -name '*.cpp' -o -name '*.cu' -o -name '*.h' -o -name '*.cuh')
PYTEST_WORKERS ?= 2
FUZZ ?=
FUZZ_SECONDS ?= 60

# Options of `make demo`
DATA ?=
ARM ?= adp-fl
OUTPUT ?= demo
DEMO_OPTIONS ?=

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z-]+:.*?## ' $(MAKEFILE_LIST) | awk -F ':.*?## ' '{printf "  make %-12s %s\n", $$1, $$2}'

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "adpfl needs Python 3.11 or later; name one: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

# The lock is complete, so pip resolves nothing; torch stands beside it because its wheels differ by machine.
$(VENV)/.installed: requirements.lock setup.py pyproject.toml $(KERNELS) | $(BIN)/python
	$(PIP) install --quiet --no-deps --requirement requirements.lock
	$(PIP) install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH)
	$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@$(BIN)/adpfl kernels
	@touch $@

$(VENV)/.installed-dev: requirements-dev.lock $(VENV)/.installed
	$(PIP) install --quiet --no-deps --requirement requirements-dev.lock
	@touch $@

.PHONY: install
install: $(VENV)/.installed ## Install adpfl and its locked dependencies into VENV

.PHONY: dev
dev: $(VENV)/.installed-dev ## Install what developing needs as well

.PHONY: demo
demo: install ## Three hospitals train over TLS on this machine; DATA=DIR for an ISIC folder, ARM=fl|dp-fl|adp-fl|rigorous
	$(BIN)/adpfl demo --arm $(ARM) --output $(OUTPUT) $(if $(DATA),--data $(DATA)) $(DEMO_OPTIONS)

.PHONY: test
test: dev ## Run the tests
	$(BIN)/python -m pytest -m "not full" -n $(PYTEST_WORKERS) --dist worksteal

.PHONY: test-full
test-full: dev ## Run every test, the slow ones too
	$(BIN)/python -m pytest -n $(PYTEST_WORKERS) --dist worksteal

.PHONY: fuzz
fuzz: dev ## Fuzz every parser, FUZZ_SECONDS each; FUZZ=NAME takes one (atheris: Linux on x86-64, Python 3.11 to 3.13)
	$(PIP) install --quiet --no-deps $(ATHERIS)
	$(BIN)/python -m tests.fuzz.with_atheris $(if $(FUZZ),"$(FUZZ)") --seconds $(FUZZ_SECONDS)

.PHONY: lint
lint: dev ## Check style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.PHONY: format
format: dev ## Mend style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: type
type: dev ## Check types (mypy, strict)
	$(BIN)/mypy

.PHONY: proto
proto: dev ## Regenerate the wire code from proto/
	$(BIN)/python proto/generate.py

.PHONY: proto-check
proto-check: dev ## Fail if the generated wire code differs from proto/
	$(BIN)/python proto/generate.py --check

.PHONY: bench
bench: dev ## Run the benchmarks (some 12 minutes on an idle machine; Opacus joins after pip install '.[bench]')
	$(BIN)/python benchmarks/dp_release.py --parts
	$(BIN)/python benchmarks/dp_step.py

.PHONY: docs
docs: dev ## Run the documentation's examples and check its links
	$(BIN)/python -m pytest tests/docs

.PHONY: lock
lock: dev ## Pin the newest allowed versions anew (TORCH_INDEX applies)
	CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/pip-compile --quiet --upgrade --generate-hashes --strip-extras --no-emit-index-url --no-emit-find-links \
		--unsafe-package torch --unsafe-package pip --constraint <(echo $(TORCH)) --extra build --output-file requirements.lock pyproject.toml
	CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/pip-compile --quiet --upgrade --generate-hashes --strip-extras --no-emit-index-url --no-emit-find-links \
		--unsafe-package torch --unsafe-package pip --constraint <(echo $(TORCH)) --constraint requirements.lock --extra build --extra dev --output-file requirements-dev.lock pyproject.toml

.PHONY: clean
clean: ## Remove builds and caches, not the virtual environment
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

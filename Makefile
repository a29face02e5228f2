# What people type. `make` alone lists it.

VENV := .venv
BIN := $(VENV)/bin
DEMO := demo
# Where pip finds torch when its usual index has no CPU build: PyTorch's CPU wheel index, as named on
# PyTorch's own install page. Empty: pip's usual index decides.
TORCH_INDEX ?=

export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Tests and services start many Python processes: each module is compiled once, and not by every one of them.
unexport PYTHONDONTWRITEBYTECODE
PIP_INSTALL = $(BIN)/python -m pip install -qq --constraint constraints.txt \
	$(if $(TORCH_INDEX),--extra-index-url "$(TORCH_INDEX)")
CODE := seedvr2_ray tests $(wildcard examples training benchmarks docs jobs notebooks)
TYPED := $(filter-out tests,$(CODE))

.DEFAULT_GOAL := help
.PHONY: help setup system-packages demo serve test test-fast lint format bench docs clean

help: ## List these targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

setup: $(VENV)/.developer ## Install everything that demo, test and lint need into .venv
	@echo "$(VENV) is ready."

demo: $(VENV)/.user ## Restore the example clip into demo/ and say where the report and a picture are
	@echo "Restoring examples/demo.mp4 into $(DEMO)/ ..."
	@mkdir -p $(DEMO)
	@$(BIN)/seedvr2-ray restore examples/demo.mp4 $(DEMO)/demo.mp4 --resolution x2 --overwrite
	@$(BIN)/python examples/before_and_after.py examples/demo.mp4 $(DEMO)/demo.mp4 $(DEMO)/before_and_after.png --frame 140 \
		--part 0.14 0.3 0.47 0.64

serve: $(VENV)/.user ## Start the service of serve_config.yaml on this machine; open http://127.0.0.1:8000
	@echo "Starting the service; Ctrl-C ends it. Its page: http://127.0.0.1:8000"
	@SEEDVR2_AUTH=$${SEEDVR2_AUTH:-none} $(BIN)/seedvr2-ray serve serve_config.yaml

# A cluster, a browser and a GPU are one for all, so their tests run one after the other; all others side by side.
ALONE := ray or browser or gpu
SIDE_BY_SIDE := -n logical --maxprocesses 4 --dist worksteal

test: lint system-packages ## Check style and types, then run every test
	@failed=; \
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "not ($(ALONE))" || failed=yes; \
	$(BIN)/python -m pytest -m "$(ALONE)" || failed=yes; \
	test -z "$$failed"

test-fast: $(VENV)/.developer ## Run only the tests that take no time: under a minute
	$(BIN)/python -m pytest -q $(SIDE_BY_SIDE) -m "not slow and not ($(ALONE))"

lint: $(VENV)/.developer ## Check style and types
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy $(TYPED)

format: $(VENV)/.developer ## Rewrite the code in the common format
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

bench: $(VENV)/.developer ## Run every benchmark; results go to benchmarks/results/
	@for script in $(basename $(notdir $(shell grep -l '__main__' benchmarks/*.py))); do \
		echo "== benchmarks.$$script"; $(BIN)/python -m benchmarks.$$script || exit 1; \
	done

# Some tests run against a PostgreSQL server, drive a browser, put nginx in front, or follow the API with curl and jq.
system-packages: ## Install the Debian packages that some tests need (as root; else only name them)
	@missing=; \
	ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || missing="$$missing postgresql"; \
	command -v chromium chromium-browser google-chrome >/dev/null || missing="$$missing chromium"; \
	command -v jq >/dev/null || missing="$$missing jq"; \
	command -v curl >/dev/null || missing="$$missing curl"; \
	PATH="$$PATH:/usr/sbin" command -v nginx >/dev/null || missing="$$missing nginx-light"; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "Installing$$missing with apt-get, for the tests ..."; \
		sh tests/apt_install.sh $$missing && exit 0; \
		why="Could not install$$missing"; \
	else \
		why="Not installed:$$missing (on Debian or Ubuntu: sudo apt-get install$$missing)"; \
	fi; \
	if [ -n "$$CI" ]; then \
		echo "$$why; the tests that need them would fail, so continuous integration stops here." >&2; exit 1; \
	fi; \
	echo "$$why; the tests that need them are skipped." >&2

docs: $(VENV)/.developer ## Build the documentation site into build/site, generated pages brought up to date
	$(BIN)/python -m docs.generate
	$(BIN)/python -m docs.build --strict
	@echo "Open build/site/index.html"

clean: ## Remove .venv, caches and the demo's output
	rm -rf $(VENV) $(DEMO) build dist .mypy_cache .ruff_cache .pytest_cache

# Each stamp says that .venv holds what pyproject.toml and constraints.txt ask for.
$(VENV)/.developer: $(VENV)/.user
	@echo "Installing the development tools into $(VENV) ..."
	@$(PIP_INSTALL) --editable '.[dev]'
	@touch $@

$(VENV)/.user: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing seedvr2-ray and what it needs into $(VENV) (a few minutes the first time) ..."
	@test -n "$(TORCH_INDEX)" || test -e /dev/nvidiactl || echo "No NVIDIA driver here: torch's CPU build is enough." \
		"If pip downloads the CUDA build, stop it and set TORCH_INDEX (see docs/start.md)."
	@$(PIP_INSTALL) --editable .
	@touch $@

# pip finds torch's CPU build for 3.11 in more places than for later versions, so 3.11 is tried first.
$(BIN)/python:
	@set -e; python=; \
	for candidate in python3.11 python3.12 python3.13 python3; do \
		if $$candidate -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python=$$candidate; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
		echo "seedvr2-ray needs Python 3.11 or newer and found none; on Debian or Ubuntu: apt-get install python3 python3-venv" >&2; \
		exit 1; \
	fi; \
	if ! $$python -c 'import ensurepip, venv' 2>/dev/null; then \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			echo "$$python cannot make virtual environments; installing python3-venv with apt-get ..."; \
			sh tests/apt_install.sh python3-venv; \
		else \
			echo "$$python cannot make virtual environments; on Debian or Ubuntu: sudo apt-get install python3-venv" >&2; \
			exit 1; \
		fi; \
	fi; \
	echo "Creating $(VENV) with $$($$python --version) ..."; \
	$$python -m venv --clear $(VENV)

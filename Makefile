# Cutaway from a fresh clone: `make demo` trains, explains and attacks a network; `make test` runs the checks.
# Works with GNU make 3.81 and later. Another interpreter: make PYTHON=/path/to/python3 demo

VENV := .venv
BENCH := .bench
PIP := -m pip --disable-pip-version-check install
# The tests take eight minutes of CPU time; a file's tests stay on one worker, because they share what they train.
PYTEST := -m pytest -q --numprocesses auto --maxprocesses 4 --dist loadfile

# The pinned torch has wheels for CPython 3.11 to 3.14. Every candidate is run, because a command that exists may be a
# stub that fails; one without ensurepip (Debian without python3-venv) is passed over as long as there is another.
CANDIDATES := python3.14 python3.13 python3.12 python3.11 python3
RIGHT_VERSION := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))
CAN_MAKE_ENV := import ensurepip, venv
FIND = for p in $(CANDIDATES); do "$$p" -c '$(1)' >/dev/null 2>&1 && { echo "$$p"; break; }; done
PYTHON ?= $(shell $(call FIND,$(RIGHT_VERSION); $(CAN_MAKE_ENV)))

.PHONY: help demo env test test-all lint bench-env gallery clean

help:
	@echo "make demo       make the environment, train LeNet-5 on digits and write its report"
	@echo "make test       make the environment and run linters, type checker and tests"
	@echo "make test-all   the same with the slow tests"
	@echo "make env        make the environment ($(VENV)) only"
	@echo "make bench-env  make the environment of the benchmarks ($(BENCH)), with the peers"
	@echo "make gallery    make docs/gallery.md and its pictures from the folder in CUTAWAY_DATA"
	@echo "make clean      remove caches and build products; environments and runs stay"

demo: env
	$(VENV)/bin/cutaway train lenet5 --data digits --out runs/demo --overwrite

env: $(VENV)/.package

test: lint
	$(VENV)/bin/python $(PYTEST) -m "not slow"

test-all: lint
	$(VENV)/bin/python $(PYTEST)

lint: $(VENV)/.tools
	$(VENV)/bin/python -m ruff check .
	$(VENV)/bin/python -m ruff format --check .
	$(VENV)/bin/python -m pyright

bench-env: $(BENCH)/.package

gallery:
	@test -n "$(CUTAWAY_DATA)" || { \
	  echo "make: the gallery needs networks and photographs: make gallery CUTAWAY_DATA=path/to/data" >&2; \
	  echo "make: docs/gallery.py says which; ONLY=\"dream priors\" makes chapters or pictures again" >&2; exit 1; }
	@$(MAKE) --no-print-directory env
	CUTAWAY_DATA="$(CUTAWAY_DATA)" $(VENV)/bin/python docs/gallery.py $(if $(ONLY),--only $(ONLY))

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache
	find cutaway tests -name __pycache__ -type d -prune -exec rm -rf {} +

# One empty file per finished step, so that nothing is installed twice and an interrupted step is done again.
$(VENV)/.runtime: requirements.txt
	$(call make_venv,$(VENV))
	$(VENV)/bin/python $(PIP) -r requirements.txt
	@touch $@

$(VENV)/.package: $(VENV)/.runtime pyproject.toml
	$(VENV)/bin/python $(PIP) --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.tools: $(VENV)/.package requirements-test.txt
	$(VENV)/bin/python $(PIP) -r requirements-test.txt
	@touch $@

$(BENCH)/.peers: requirements.txt requirements-bench.txt
	$(call make_venv,$(BENCH))
	$(BENCH)/bin/python $(PIP) -r requirements-bench.txt
	@touch $@

$(BENCH)/.package: $(BENCH)/.peers pyproject.toml
	$(BENCH)/bin/python $(PIP) --quiet --no-deps --no-build-isolation --editable .
	@touch $@

# Make the environment $(1), unless a working one is there (one left half made, or whose Python has gone, is remade).
define make_venv
@"$(1)/bin/python" -c '$(RIGHT_VERSION)' 2>/dev/null && "$(1)/bin/python" -m pip --version >/dev/null 2>&1 || { \
  python="$(PYTHON)"; \
  if [ -z "$$python" ]; then python=`$(call FIND,$(RIGHT_VERSION))`; fi; \
  if [ -z "$$python" ]; then \
    echo "make: no Python between 3.11 and 3.14 found (tried $(CANDIDATES))." >&2; \
    echo "make: install one (Debian, Ubuntu: apt install python3 python3-venv; macOS: brew install python)" >&2; \
    echo "make: or name one: make PYTHON=/path/to/python3" >&2; exit 1; fi; \
  if ! "$$python" -c '$(RIGHT_VERSION)' 2>/dev/null; then \
    echo "make: $$python is `"$$python" -V 2>&1`; Python 3.11 to 3.14 is needed" >&2; exit 1; fi; \
  if ! "$$python" -c '$(CAN_MAKE_ENV)' 2>/dev/null; then \
    echo "make: $$python lacks venv or ensurepip (Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; fi; \
  echo "making $(1) with `"$$python" -V`"; \
  "$$python" -m venv --clear "$(1)"; }
endef

# Needs Python 3.11 or newer and a package index; everything else goes into .venv, once.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed
# By name: to look for them among all tests takes each worker 15 seconds.
RAY_TESTS = $(sort $(shell grep -rl --include='test_*.py' 'pytest\.mark\.ray' tests))
QUIET := --quiet --disable-pip-version-check
PACKAGES := -c .ci/constraints.txt -e '.[dev]'
UV_CACHE := .venv/uv-cache
UV := $(BIN)/uv --cache-dir $(UV_CACHE) $(if $(PIP_INDEX_URL),--default-index $(PIP_INDEX_URL))

.PHONY: quickstart test check types style compile bench soak clean

quickstart: $(STAMP)
	$(BIN)/ray-tl quickstart $(ARGS)

test: $(STAMP)
	@# Types take one processor; on the other the first import of everything compiles it, once and not in each process.
	@$(MAKE) --no-print-directory -j 2 check compile
	$(BIN)/python -m pytest -m 'not ray' -n 2 --dist loadfile $(ARGS)
	$(BIN)/python -m pytest -m ray -n 2 --dist loadfile --no-loadscope-reorder $(RAY_TESTS) $(ARGS)

check: $(STAMP)
	@$(MAKE) --no-print-directory -j 2 types style

types:
	$(BIN)/mypy

style:
	$(BIN)/ruff check ray_tl tests
	$(BIN)/ruff format --check ray_tl tests
	$(BIN)/lint-imports

compile:
	@$(BIN)/python -m pytest --collect-only >/dev/null 2>&1 || true  # what is wrong with a test, the tests will say

bench: $(STAMP)
	$(BIN)/python tests/benchmarks/overhead.py $(ARGS)

soak: $(STAMP)
	$(BIN)/python -m tests.soak.kills -o tests/soak/REPORT.md $(ARGS)

$(STAMP): pyproject.toml .ci/constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Error: $(PYTHON) is older than 3.11; name a newer one: make PYTHON=python3.12 quickstart"; exit 1; }
	@echo 'Installing into .venv, once: 6 GB, one to five minutes ...'
	$(PYTHON) -m venv .venv
	@# uv is much faster than pip; where it can't be had, or can't reach what pip is configured for, pip does it.
	@$(BIN)/pip install $(QUIET) -c .ci/constraints.txt uv \
	  && $(UV) pip install --quiet --python $(BIN)/python $(PACKAGES) \
	  || { echo 'uv could not; pip takes over ...'; $(BIN)/pip install $(QUIET) $(PACKAGES); }
	@rm -rf $(UV_CACHE)
	@touch $@

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache

# Needs Python 3.11 or newer and a package index; everything else goes into .venv, once.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed

.PHONY: quickstart test check bench clean

quickstart: $(STAMP)
	$(BIN)/ray-tl quickstart $(ARGS)

test: check
	$(BIN)/python -m pytest -m 'not ray' -n 2 $(ARGS)
	$(BIN)/python -m pytest -m ray -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

check: $(STAMP)
	$(BIN)/ruff check ray_tl tests
	$(BIN)/ruff format --check ray_tl tests
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP)
	$(BIN)/python tests/benchmarks/overhead.py $(ARGS)

$(STAMP): pyproject.toml .ci/constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Error: $(PYTHON) is older than 3.11; name a newer one: make PYTHON=python3.12 quickstart"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c .ci/constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache

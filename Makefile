# The two commands: `make demo` and `make test`. Both need a package index and nothing else.

PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/
PIP := $(RUN)python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
PACKAGES := --editable packages/core[torch,transformers,parquet] --editable packages/langchain \
	--editable packages/llamaindex --editable packages/qdrant
PROJECTS := pyproject.toml constraints.txt $(wildcard packages/*/pyproject.toml)

.PHONY: install install-dev demo test check fix bench capabilities

install: $(VENV)/installed
install-dev: $(VENV)/installed-dev

$(VENV)/installed: $(PROJECTS)
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade "pip>=25.1"
	$(PIP) $(PACKAGES)
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(PIP) --group dev $(PACKAGES)
	touch $@

$(VENV)/installed-bench: $(VENV)/installed-dev
	$(PIP) --group benchmarks $(PACKAGES)
	touch $@

demo: install
	PATH="$(abspath $(VENV))/bin:$$PATH" examples/demo.sh

test: install-dev
	$(RUN)pytest

check: install-dev
	$(RUN)ruff check
	$(RUN)ruff format --check
	$(RUN)mypy

fix: install-dev
	$(RUN)ruff check --fix
	$(RUN)ruff format

bench: $(VENV)/installed-bench
	$(RUN)python -m benchmarks

# the table of docs/engines.md, from what the contract suites find
capabilities: install-dev
	$(RUN)pytest --capabilities docs/capabilities tests/core/engines/test_contract.py
	$(RUN)python -m quernstone.testing docs/capabilities docs/engines.md

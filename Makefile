# `make demo` trains, evaluates and segments on drawn volumes; `make test` runs the tests. Both first make a virtual
# environment, which needs Python 3.10 or later and a connection to a package index.

PYTHON ?= python3
VENV ?= .venv

# The version the tests ran with. Another one, with pip's options, for example for a certain CUDA:
#   make demo TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cu130"
# or, smaller, for the CPU alone:
#   make demo TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"
TORCH ?= torch==2.13.0

# A file of pinned versions for everything else; .ci/run gives requirements-dev.txt.
PINS ?=

RUN := $(VENV)/bin/python
STAMP := $(VENV)/.installed
SOURCES := dtlp_components tests

.PHONY: demo test lint check bundles clean

demo: $(STAMP)
	$(RUN) -m dtlp_components demo

test: $(STAMP)
	$(RUN) -m pytest

lint: $(STAMP)
	$(RUN) -m ruff check --line-length 120 $(SOURCES)
	$(RUN) -m ruff format --check --line-length 120 $(SOURCES)
	$(RUN) -m mypy

check: lint
	$(RUN) -m dtlp_components.make_bundle --check

bundles: $(STAMP)
	$(RUN) -m dtlp_components.make_bundle

# torch first and by itself, so that the second line finds it installed and never picks another build of it
$(STAMP): setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install $(TORCH)
	$(RUN) -m pip install $(if $(PINS),--constraint $(PINS)) --editable '.[dev]'
	touch $@

# weights, checkpoints and data stay
clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache *.egg-info build dist
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +

# `make demo` trains, evaluates and segments on drawn volumes; `make test` runs the tests, `make test-fast` those that
# take no more than a moment, `make check` the linters, `make docs` builds the site. Each first makes a virtual
# environment, which needs Python 3.10 or later (`make docs`: 3.11) and a connection to a package index.
# `make test-monailabel` makes one of its own, with a MONAI Label server (Python 3.10 or 3.11, 1.1 GB more), and tests
# the bundles in it.

PYTHON ?= python3
VENV ?= .venv
MONAILABEL_VENV ?= .venv-monailabel

# The version the tests ran with. Another one, with pip's options, for example for a certain CUDA:
#   make demo TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cu130"
# or, smaller, for the CPU alone:
#   make demo TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"
TORCH ?= torch==2.13.0

# A file of pinned versions for everything else; .ci/run gives requirements-dev.txt.
PINS ?=

RUN := $(VENV)/bin/python
STAMP := $(VENV)/.installed
DOCS_STAMP := $(VENV)/.installed-docs
MONAILABEL_STAMP := $(MONAILABEL_VENV)/.installed
SOURCES := dtlp_components tests docs

.PHONY: demo docs test test-clinic test-fast test-gpu test-monailabel coverage lint check bundles clean

demo: $(STAMP)
	$(RUN) -m dtlp_components demo

test: $(STAMP)
	$(RUN) -m pytest

# without the tests marked slow, which train, export or start processes; two processes, each with one thread
test-fast: $(STAMP)
	OMP_NUM_THREADS=1 $(RUN) -m pytest -m "not slow" --numprocesses 2 --dist worksteal

# every test, and which lines ran; fails below the share that pyproject.toml names
coverage: $(STAMP)
	$(RUN) -m pytest --cov --cov-report=term

# what is promised on a GPU, then what it takes: about ten minutes; GPU_LOG gets the numbers and the name of the card
GPU_LOG ?= gpu.log
BENCH = $(RUN) -m dtlp_components bench --repeats 3 --inference_size "[]"
test-gpu: $(STAMP)
	$(RUN) -m pytest -m gpu
	{ nvidia-smi --query-gpu=name,driver_version --format=csv,noheader; \
	$(BENCH) --config_file bundles/la_5/configs/train.json --compare '{"channels_last": false}'; \
	$(BENCH) --config_file bundles/la_5/configs/train.json --overrides '{"amp": true}' --compare '{"amp": false}'; \
	$(BENCH) --config_file bundles/mmwhs_ct2mr/configs/train.json \
		--overrides '{"amp": true, "weights::corr": 1.0}' --compare '{"weights::corr": 0.0}'; \
	for format in true false; do $(RUN) -m dtlp_components.bench.profiling \
		--config_file bundles/la_5/configs/train.json --overrides "{\"amp\": true, \"channels_last\": $$format}"; done; \
	} 2>&1 | tee $(GPU_LOG)

test-monailabel: $(MONAILABEL_STAMP)
	$(MONAILABEL_VENV)/bin/python -m pytest tests/monailabel tests/labeling/test_server.py

# an archive, a server and a viewer, each on a free port: Orthanc and Chromium are the machine's own (Debian: orthanc,
# orthanc-dicomweb, chromium); what is missing is skipped
test-clinic: $(MONAILABEL_STAMP)
	$(MONAILABEL_VENV)/bin/python -m pip install --constraint requirements-dev.txt playwright
	PATH="$$(cd "$(MONAILABEL_VENV)/bin" && pwd):$$PATH" $(MONAILABEL_VENV)/bin/python -m pytest tests/clinic

lint: $(STAMP)
	$(RUN) -m ruff check $(SOURCES)
	$(RUN) -m ruff format --check $(SOURCES)
	$(RUN) -m mypy

check: lint
	$(RUN) -m dtlp_components render --check

bundles: $(STAMP)
	$(RUN) -m dtlp_components render

# the site, in site/: warnings and dead links are errors; once installed, it needs no network
docs: $(DOCS_STAMP)
	OMP_NUM_THREADS=1 $(RUN) -m sphinx --fail-on-warning --keep-going --fresh-env --quiet docs site

# pip would explain an old Python by a list of versions that do not fit, and an environment of one would stay
OLD_PYTHON := import sys; v = sys.version_info; sys.exit(v < (3, 10) and \
	f"Python {v[0]}.{v[1]} found, 3.10 or later needed: make PYTHON=python3.11 ...")
renew = $(PYTHON) -c '$(OLD_PYTHON)' && { [ ! -f $(1)/pyvenv.cfg ] \
	|| $(1)/bin/python -c '$(OLD_PYTHON)' 2> /dev/null || rm -r $(1); } && $(PYTHON) -m venv $(1)

# torch first and by itself, so that the second line finds it installed and never picks another build of it
$(STAMP): setup.cfg pyproject.toml
	@$(call renew,$(VENV))
	$(RUN) -m pip install $(TORCH)
	$(RUN) -m pip install $(if $(PINS),--constraint $(PINS)) --editable '.[dev]'
	touch $@

$(DOCS_STAMP): requirements-docs.txt $(STAMP)
	$(RUN) -m pip install --requirement requirements-docs.txt
	touch $@

# the pins bind the project's own packages too, so that the server's, which come without a check, fit to them
$(MONAILABEL_STAMP): requirements-monailabel.txt requirements-dev.txt setup.cfg pyproject.toml
	@$(call renew,$(MONAILABEL_VENV))
	$(MONAILABEL_VENV)/bin/python -m pip install $(TORCH)
	$(MONAILABEL_VENV)/bin/python -m pip install --constraint requirements-dev.txt \
		--constraint requirements-monailabel.txt --editable . pytest
	$(MONAILABEL_VENV)/bin/python -m pip install --no-deps --requirement requirements-monailabel.txt
	touch $@

# weights, checkpoints and data stay
clean:
	rm -rf $(VENV) $(MONAILABEL_VENV) .mypy_cache .pytest_cache .ruff_cache *.egg-info build dist site docs/project docs/reference/api
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +

# Each target sets itself up in .venv; a second run starts at once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# build of PyTorch: cpu, or cu126 or cu130 for CUDA 12.6 or 13.0; remembered; without it what the package index has
BUILDS := cpu cu126 cu130
TORCH ?= $(shell cat $(VENV)/.torch 2>/dev/null)
STAMP := $(VENV)/.installed$(addprefix -,$(TORCH))
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
DEMO := artifacts/demo
JOBS ?= 2

ifneq ($(words $(TORCH)),$(words $(filter $(BUILDS),$(TORCH))))
$(error TORCH=$(TORCH) is no build of PyTorch that is tested; choose one of $(BUILDS), or leave it out)
endif

.PHONY: install demo test test-slow test-long test-all lint docs docs-links bench bench-data bench-gpu bench-physics bench-predict bench-robust validate clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "xecml needs Python 3.11 or newer; name one with: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
ifeq ($(TORCH),)
	$(PIP) -e '.[all,dev,docs]'
else
# uv knows where PyTorch's builds are
	$(PIP) uv
	$(BIN)/python -m uv pip install --quiet --python $(BIN)/python --torch-backend $(TORCH) \
	  --reinstall-package torch -c constraints.txt -e '.[all,dev,docs]'
	echo $(TORCH) > $(VENV)/.torch
endif
	rm -f $(VENV)/.installed*
	touch $@

# trains a network in less than ten minutes; with PRETRAINED=1 shows the weights of the package in about two
demo: $(STAMP)
ifeq ($(PRETRAINED),)
	$(BIN)/python -m xecml.demo --out $(DEMO) --jobs $(JOBS)
else
	$(BIN)/python -m xecml.demo_pretrained --out $(DEMO)_pretrained --jobs $(JOBS)
endif

TESTS = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

# every room, in minutes
test: $(STAMP)
	$(TESTS) -m "not slow"

# trainings, exports and pictures that take longer than ten seconds each
test-slow: $(STAMP)
	$(TESTS) -m "slow and not long"

# larger cases of the same: before a release
test-long: $(STAMP)
	$(TESTS) -m long

test-all: test test-slow test-long

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --python-version 3.14 --cache-dir .mypy_cache/3.14

# the documentation as a site, build/docs/index.html; warnings are errors, notebooks run again when the code has changed
docs: $(STAMP)
	$(BIN)/python -m sphinx -n -W --keep-going -b html docs build/docs

# the links that lead out of it, which needs a network
docs-links: $(STAMP)
	XECML_NOTEBOOKS=off $(BIN)/python -m sphinx -n -b linkcheck docs build/docs-links

bench: $(STAMP)
	for b in simulation networks loop repairs conventional prepare; do echo "== $$b"; $(BIN)/python benchmarks/$$b.py; done

# what a model keeps on detectors that differ: make bench-robust MODELS='fixed=A.pth varied=B.pth'
bench-robust: $(STAMP)
	$(BIN)/python benchmarks/robustness.py $(MODELS) --jobs $(JOBS)

bench-data: $(STAMP)
	$(BIN)/python benchmarks/data.py

# all that is unknown of a GPU, in less than eight minutes; without one a trial at a tiny size
bench-gpu: $(STAMP)
	$(BIN)/python benchmarks/gpu.py --out artifacts/bench-gpu

# from file to file beside the network alone, and the memory of a million events; an hour or two on two cores
bench-predict: $(STAMP)
	$(BIN)/python benchmarks/predict.py --jobs $(JOBS) $(BENCH)

# all methods on the same simulated photons, and the page of it; hours on two cores, less with BENCH='-n 4000'
bench-physics: $(STAMP)
	$(BIN)/python benchmarks/physics.py --out artifacts/bench-physics --page docs/performance.md --jobs $(JOBS) $(BENCH)

validate: $(STAMP)
	$(BIN)/python -m xecml.simulation.validation --out artifacts/validation --jobs $(JOBS)

clean:
	rm -rf $(DEMO) $(DEMO)_pretrained build dist .pytest_cache .mypy_cache .ruff_cache

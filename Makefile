# make report · make test: all that a fresh machine with Python 3.11+ and make needs. `make help` lists the rest.

PYTHON ?= python3
PRESET ?= quick
ONLY ?=
P ?=
QUICK ?=
WORKERS ?=
PYTEST_ARGS ?=
LAB_ARGS ?=

EXTRAS := notebooks,report,test
BIN := .venv/bin
STAMP := .venv/.installed
AUDIT = $(BIN)/python -m pip_audit --no-deps --disable-pip --progress-spinner off
NOTEBOOKS = $(wildcard notebooks/*.ipynb)

# idle threads wait awake for a moment, then sleep: sleeping at once makes a DIP iteration two to three times slower, and
# waiting for ever starves a second program on the same cores
export GOMP_SPINCOUNT := 20000
# glibc keeps freed blocks instead of handing them back to be zeroed and mapped anew: an eighth of a DIP iteration on two
# threads (a row of the bench)
export MALLOC_TRIM_THRESHOLD_ ?= 268435456
export MALLOC_MMAP_THRESHOLD_ ?= 33554432
# This venv's kernel, never one of the same name in the home folder.
export JUPYTER_PREFER_ENV_PATH := 1

# a test computes on one thread; a few of them use two processes of their own
SIDE_BY_SIDE := -n logical --maxprocesses 4 --dist worksteal

quote = '$(subst ','\'',$(1))'

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help report paper render test test-fast bench faults priors lab check audit clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

report: $(STAMP) ## run the notebooks, render report/index.html and the PDF [PRESET=quick ONLY="03_hybrid" P="image=coffee size=96" WORKERS=2]
	$(BIN)/python report/build.py --preset $(call quote,$(PRESET))$(foreach stem,$(ONLY), --only $(call quote,$(stem)))$(foreach pair,$(P), -p $(call quote,$(pair)))$(if $(filter-out all,$(WORKERS)), --workers $(call quote,$(WORKERS)))

# each sweep on all cores, since two of its sections take most of the time, and everything on one thread, so that what a
# notebook trains is what its sweep finds; WORKERS=n runs n sections side by side instead
paper: override PRESET = paper
paper: export WORKERS := all
paper: export DIPDDPM_THREADS := 1
paper: report ## the same on larger images, with more seeds; resumes where it was stopped

render: $(STAMP) ## report/index.html and the PDF anew from the executed notebooks, without computing
	$(BIN)/python report/build.py --render-only

test: $(STAMP) ## every test [PYTEST_ARGS="-k schedules"]
	$(BIN)/python -m pytest tests $(SIDE_BY_SIDE) $(PYTEST_ARGS)

test-fast: $(STAMP) ## every test but the slow ones
	$(BIN)/python -m pytest tests $(SIDE_BY_SIDE) -m "not slow" $(PYTEST_ARGS)

bench: $(STAMP) ## timings side by side, half an hour or so [QUICK=1: within three minutes]
	$(BIN)/python benchmarks/bench.py $(if $(QUICK),--quick --output benchmarks/quick.json)

faults: $(STAMP) ## kills, mutated inputs and ten minutes of fuzzing, counted: a quarter of an hour [QUICK=1: three minutes]
	@$(BIN)/python -c 'import atheris' 2>/dev/null \
	  || $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[fuzz]" 2>/dev/null || true
	$(BIN)/python benchmarks/faults.py $(if $(QUICK),--kills 30 --inputs 2000 --fuzz 60 --output benchmarks/quick-faults.json)

priors: $(STAMP) ## train the shipped priors further, hours on two cores; a fold that was stopped goes on there (needs apt-get)
	$(BIN)/python benchmarks/train_priors.py

# uploads travel through a websocket, whose default of 10 MiB a photograph may exceed
lab: $(STAMP) ## JupyterLab at notebooks/, on this machine only [LAB_ARGS="--no-browser"]
	$(BIN)/python -m jupyterlab --ServerApp.ip=127.0.0.1 --ServerApp.tornado_settings='{"websocket_max_message_size": 104857600}' --LabApp.default_url=/lab/tree/notebooks $(LAB_ARGS)

check: $(STAMP) audit ## lint, format, types, that notebooks carry no outputs, and known faults of the pinned versions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy dipddpm_lib $(addprefix report/,build.py hero.py panel.py) $(filter-out benchmarks/fuzz.py,$(wildcard benchmarks/*.py))
	$(if $(NOTEBOOKS),$(BIN)/nbstripout --verify --keep-id $(NOTEBOOKS))

# one package first: a mirror of the index, or no network, has no answer about it, and then about none
audit: $(STAMP)
	@$(BIN)/python -c 'import pip_audit' 2>/dev/null \
	  || $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[audit]" 2>/dev/null || true
	@grep '^pillow==' constraints.txt > .venv/probe.txt; rm -f .venv/probe.json; \
	$(AUDIT) --requirement .venv/probe.txt --format json --output .venv/probe.json 2>.venv/audit.log; \
	if grep -qs '"vulns"' .venv/probe.json; then $(AUDIT) --requirement constraints.txt; \
	else echo "audit: not done, no advisory service answers about $$(cat .venv/probe.txt) (.venv/audit.log)"; fi

clean: ## remove what was built: the venv, executed notebooks, caches; stored results stay
	rm -rf .venv report/executed report/build .pytest_cache .hypothesis .ruff_cache .mypy_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 15))' || { \
	  echo "Python 3.11 to 3.14 is needed; $(PYTHON) is: $$($(PYTHON) --version 2>&1). Name another: make PYTHON=python3.12 …" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$(EXTRAS)]"
	@touch $@

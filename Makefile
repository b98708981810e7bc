# `make reproduce` runs the experiment, `make test` proves the checkout. Both install what they need, once.
PYTHON ?= python3
PROFILE ?= cpu
CORES ?= $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
MEMORY ?= $(shell expr $$(getconf PAGE_SIZE) '*' $$(getconf _PHYS_PAGES) / 1048576 2>/dev/null)
GPUS ?= 1
WORKERS ?= 2
ARMS ?=
SEEDS ?=
STUDIES ?=
RUN_DIR ?=
CLUSTER ?=
BIN := .venv/bin
STAMP := .venv/.installed
CONFIG := profile=$(PROFILE) $(if $(ARMS),arms=$(ARMS)) $(if $(SEEDS),seeds=$(SEEDS)) $(if $(STUDIES),studies=$(STUDIES)) $(if $(RUN_DIR),'run_dir=$(RUN_DIR)')
# Here: as many jobs at once as CORES, MEMORY (MB) and GPUS allow. On a cluster the profile says.
# The run folder has a lock of its own, which dies with its holder; snakemake's would want unlocking after a kill.
LOCAL := --cores $(CORES) --nolock --rerun-incomplete --resources gpu=$(GPUS) $(if $(MEMORY),mem_mb=$(MEMORY))
WHERE := $(if $(CLUSTER),--profile profiles/$(CLUSTER),$(LOCAL))
PURELIB := 'import sysconfig; print(sysconfig.get_path("purelib"))'
export PYTHONUTF8 = 1
# Threads that wait spin briefly, then give their core away. Alone this is as fast as the default and faster than
# OMP_WAIT_POLICY=PASSIVE; beside another busy process two spinning threads would run up to ten times slower.
export GOMP_SPINCOUNT = 10000

.PHONY: help install reproduce sweep compare test test-fast test-notebooks test-processors test-kills test-slurm test-browser bench bench-cpu search explore test-colab verify-checkpoint lint format lock stamp reference clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 20

install: $(STAMP)  ## .venv with the pinned versions

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else f"Python {v[0]}.{v[1]} found; 3.11 to 3.13 wanted: make PYTHON=python3.12 install")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing the pinned packages into .venv: a few minutes, once"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[notebooks,dev]'
	@touch $@

reproduce: $(STAMP)  ## the whole experiment into outputs/<profile>: PROFILE=smoke|cpu|t4|gpu, SEEDS=, STUDIES=off, RUN_DIR=
	@$(BIN)/python -m snakemake --quiet host $(LOCAL) --config $(CONFIG)

sweep: $(STAMP)  ## arms x seeds, as many jobs at once as fit, failures listed last: ARMS=all SEEDS=5 CORES= MEMORY= GPUS= CLUSTER=slurm
	@$(BIN)/python -m snakemake --quiet host $(WHERE) --keep-going --config $(CONFIG)

compare: $(STAMP)  ## what differs between two runs, and which numbers moved: A=outputs/x B=outputs/y
	@$(BIN)/python -m rwkvgate.experiment.compare '$(A)' '$(B)'

test: $(STAMP)  ## everything that proves the checkout: lint, types, unit tests, notebooks
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --ignore tests/notebooks
	@$(MAKE) --no-print-directory test-notebooks

test-fast: $(STAMP)  ## the unit tests alone
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --ignore tests/notebooks

test-notebooks: $(STAMP)  ## the notebooks by nbval and by papermill, profile smoke
	@$(BIN)/python tests/notebooks/expect.py
	@OMP_NUM_THREADS=1 RWKVGATE_PROFILE=smoke $(BIN)/python -m pytest --nbval-lax --numprocesses $(WORKERS) --dist loadfile \
		--nbval-sanitize-with tests/notebooks/sanitize.cfg build/notebooks tests/notebooks

test-processors: $(STAMP)  ## the numerical tests under the kernels of other processors, with one thread and two
	@$(BIN)/python tests/processors.py

test-kills: $(STAMP)  ## a run killed at 100 random moments ends as one left alone, bit for bit
	@folder=$$(mktemp -d) && $(BIN)/python tests/experiment/resume/kills.py $$folder 100 1; code=$$?; rm -rf $$folder; exit $$code

test-slurm: $(STAMP)  ## a sweep on a real Slurm of one node, whose node and jobs are killed; the profiles for clusters
	@(command -v slurmctld && command -v munged && command -v rsync) > /dev/null || (apt-get update --quiet && \
		apt-get install --yes --quiet --no-install-recommends slurm-wlm munge rsync) > /dev/null 2>&1 || true
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[cluster]'
	@RWKVGATE_SLURM=1 $(BIN)/python -m pytest -rs tests/cluster

test-browser: $(STAMP)  ## the explorer in a headless Chromium, with ipywidgets 8 and with Colab's 7.7.1; build/screenshots
	@command -v chromium > /dev/null || apt-get install --yes --quiet chromium > /dev/null 2>&1 || true
	@$(BIN)/python -m pytest tests/explore/test_browser.py
	@test -x .venv-widgets7/bin/python || $(PYTHON) -m venv .venv-widgets7
	@.venv-widgets7/bin/python -m pip install --quiet --disable-pip-version-check --requirement tests/explore/widgets7.txt
	@$(BIN)/python -c $(PURELIB) > "$$(.venv-widgets7/bin/python -c $(PURELIB))/project.pth"
	@.venv-widgets7/bin/python -m pytest tests/explore/test_browser.py

bench: $(STAMP)  ## the project's numbers, ours beside the reference in one run
	@$(BIN)/python benchmarks/wkv.py
	@$(BIN)/python benchmarks/decode.py
	@$(BIN)/python benchmarks/gates.py
	@$(BIN)/python benchmarks/loss.py
	@$(BIN)/python benchmarks/tokenizer.py
	@$(BIN)/python benchmarks/trainer.py
	@$(BIN)/python benchmarks/verdicts.py
	@$(BIN)/python benchmarks/explorer.py
	@$(BIN)/python benchmarks/reproduce.py smoke
	@$(BIN)/python benchmarks/sweep.py smoke

bench-cpu: $(STAMP)  ## wall time and peak memory of the whole cpu chain, about 25 minutes
	@$(BIN)/python benchmarks/reproduce.py cpu

search: $(STAMP)  ## the search for a gate worth having: hours on two cores, resumable; PROFILE=smoke for a look
	@$(BIN)/python -m rwkvgate.experiment.search --profile $(PROFILE)

explore: $(STAMP)  ## the explorer of the newest run in a browser: type, look at the gate, clamp it
	@$(BIN)/python -m rwkvgate.workflow.app

test-colab: $(STAMP)  ## each notebook alone, as opened from its badge, with Colab's published versions
	@test -x .venv-colab/bin/python || $(PYTHON) -m venv .venv-colab
	@.venv-colab/bin/python -m pip install --quiet --disable-pip-version-check --requirement tests/workflow/colab/requirements.txt
	@$(BIN)/python tests/workflow/colab/chain.py

verify-checkpoint: $(STAMP)  ## the paper's checkpoint against reference logits: downloads 3.2 GB, takes 7 GB of memory
	@$(BIN)/python -m rwkvgate.rwkv6.verify

lint: $(STAMP)  ## ruff and mypy
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

format: $(STAMP)  ## ruff's fixes and formatting
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

lock: $(STAMP)  ## rewrite constraints.txt from what is installed in .venv
	@$(BIN)/python -m rwkvgate.workflow.release lock

stamp: $(STAMP)  ## write the repository's address from pyproject.toml into badges and install cells
	@$(BIN)/python -m rwkvgate.workflow.release stamp

reference: $(STAMP)  ## copy the tables and figures of outputs/cpu to outputs/reference, to be committed
	@$(BIN)/python -m rwkvgate.workflow.release reference

clean:  ## remove the smoke run
	rm -rf outputs/smoke

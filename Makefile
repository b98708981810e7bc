# `make reproduce` runs the experiment, `make test` checks the checkout. Both install what they need, once.
PYTHON ?= python3
PROFILE ?= cpu
WORKERS ?= 2
GPUS ?= 1
ifeq ($(origin CORES), undefined)
CORES := $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
endif
ifeq ($(origin MEMORY), undefined)
MEMORY := $(shell expr $$(getconf PAGE_SIZE) '*' $$(getconf _PHYS_PAGES) / 1048576 2>/dev/null)
endif
# What a user may give, also ARMS, SEEDS, STUDIES, RUN_DIR, CLUSTER, A and B, is data: make passes it on as it was typed,
# in the environment, and recipes read it there. Neither make nor the shell expands it.
GIVEN := PYTHON PROFILE WORKERS GPUS CORES MEMORY ARMS SEEDS STUDIES RUN_DIR CLUSTER A B
$(foreach name,$(GIVEN),$(eval override $(name) := $$(value $(name))))
export $(GIVEN)
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
STAMP := .venv/.installed
CARRIED := accelerate annotated-types packaging pandas psutil pydantic pydantic-core python-dateutil scipy six typing-inspection
CONFIG := "profile=$$PROFILE" $${ARMS:+"arms=$$ARMS"} $${SEEDS:+"seeds=$$SEEDS"} $${STUDIES:+"studies=$$STUDIES"} \
	$${RUN_DIR:+"run_dir=$$RUN_DIR"}
# On this machine: as many jobs at once as CORES, MEMORY (MB) and GPUS allow. On a cluster the profile decides.
# The run folder has a lock that ends with its holder; snakemake's own would need unlocking after a kill.
LOCAL := --cores="$$CORES" --nolock --rerun-incomplete --resources "gpu=$$GPUS" $${MEMORY:+"mem_mb=$$MEMORY"}
WHERE := $(if $(CLUSTER),--profile="profiles/$$CLUSTER",$(LOCAL))
PURELIB := 'import sysconfig; print(sysconfig.get_path("purelib"))'
export PYTHONUTF8 = 1
# Waiting threads spin briefly and then release their core. Alone this is as fast as the default and faster than
# OMP_WAIT_POLICY=PASSIVE; beside another busy process, two threads that keep spinning run up to ten times slower.
export GOMP_SPINCOUNT = 10000

.PHONY: help install reproduce sweep compare plan test test-fast test-notebooks test-transformers test-slow test-processors test-faults test-kills test-slurm test-browser gpu-wheels gpu-check rehearse bench bench-cpu bench-peers search study explore site test-site test-colab verify-checkpoint lint format lock dist stamp reference clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 20

install: $(STAMP)  ## make .venv with the pinned versions; PIP_EXTRA_INDEX_URL may name the index of CPU builds

$(STAMP): pyproject.toml constraints.txt requirements.lock
	@"$$PYTHON" -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else f"Python {v[0]}.{v[1]} is not supported; 3.11 to 3.13 are: make PYTHON=python3.12 install")'
	@test -x $(BIN)/python || "$$PYTHON" -m venv .venv
	@echo "installing the pinned packages into .venv: a few minutes, once"
	@$(PIP) --no-deps --require-hashes --requirement requirements.lock
	@$(PIP) --constraint constraints.txt torch
	@$(PIP) --no-build-isolation --constraint constraints.txt --editable '.[notebooks,study,dev]'
	@touch $@

reproduce: $(STAMP)  ## run the whole experiment into outputs/<profile>: PROFILE=smoke|cpu|t4|gpu SEEDS= STUDIES=off RUN_DIR=
	@$(BIN)/python -m snakemake --quiet host $(LOCAL) --config $(CONFIG)
	@$(BIN)/python -m rwkvgate.workflow.graph $(CONFIG)

sweep: $(STAMP)  ## run many arms and seeds, as many jobs at once as fit: ARMS=all SEEDS=5 CORES= MEMORY= GPUS= CLUSTER=slurm
	@$(BIN)/python -m snakemake --quiet host $(WHERE) --keep-going --config $(CONFIG)

compare: $(STAMP)  ## show how two runs differ, and which numbers: A=outputs/x B=outputs/y
	@$(BIN)/python -m rwkvgate.experiment.compare -- "$$A" "$$B"

plan: $(STAMP)  ## say how long the whole run of a profile takes, step by step, by arithmetic: PROFILE=smoke|cpu|t4|gpu
	@$(BIN)/python -m rwkvgate.experiment.plan --profile="$$PROFILE"

# One pytest, in the order of the files: the long chain of notebooks runs beside the unit tests, and no core waits.
test: $(STAMP)  ## check the checkout: lint, types, unit tests, notebooks
	@OMP_NUM_THREADS=1 RWKVGATE_PROFILE=smoke $(BIN)/python -m pytest --nbval-lax --numprocesses="$$WORKERS" --dist loadfile \
		--no-loadscope-reorder notebooks tests

test-fast: $(STAMP)  ## run the unit tests alone
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses="$$WORKERS" --dist loadfile --ignore tests/notebooks \
		--ignore tests/test_lint.py

test-notebooks: $(STAMP)  ## run the notebooks by nbval and by papermill, profile smoke
	@OMP_NUM_THREADS=1 RWKVGATE_PROFILE=smoke $(BIN)/python -m pytest --nbval-lax --numprocesses="$$WORKERS" --dist loadfile \
		notebooks tests/notebooks

test-transformers: $(STAMP)  ## run transformers' own tests of a model, fetched for its version, on the base and a patched one
	@folder=$$($(BIN)/python tests/rwkv6/transformers_tests.py) && TRANSFORMERS_TESTS="$$folder" $(BIN)/python -m pytest \
		--override-ini addopts='-q --import-mode=importlib' -W ignore::pytest.PytestUnknownMarkWarning -rsx \
		tests/rwkv6/test_transformers.py

test-slow: $(STAMP)  ## run the tests that `make test` leaves out: every gate compiled, trainings and chains killed, JupyterLab
	@OMP_NUM_THREADS=1 RWKVGATE_PROFILE=smoke $(BIN)/python -m pytest -m slow

test-processors: $(STAMP)  ## run the numerical tests with the kernels of other processors, on one thread and two
	@$(BIN)/python tests/processors.py

test-faults: $(STAMP)  ## damage every file of a finished run in eight ways; each must be noticed, or harmless
	@OMP_NUM_THREADS=1 $(BIN)/python tests/faults.py

test-kills: $(STAMP)  ## kill a run at 100 random moments; it must end as an undisturbed one, bit for bit
	@folder=$$(mktemp -d) && $(BIN)/python tests/experiment/resume/kills.py "$$folder" 100 1; code=$$?; rm -rf "$$folder"; exit $$code

test-slurm: $(STAMP)  ## run a sweep on a real Slurm of one node and kill its node and jobs; check the cluster profiles
	@(command -v slurmctld && command -v munged && command -v rsync) > /dev/null || (apt-get update --quiet && \
		apt-get install --yes --quiet --no-install-recommends slurm-wlm munge rsync) > /dev/null 2>&1 || true
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[cluster]'
	@RWKVGATE_SLURM=1 $(BIN)/python -m pytest -rs tests/workflow/cluster

test-browser: $(STAMP)  ## test the explorer and the rating widget in a headless Chromium, with ipywidgets 8 and Colab's 7.7.1; build/screenshots
	@command -v chromium > /dev/null || apt-get install --yes --quiet chromium > /dev/null 2>&1 || true
	@RWKVGATE_SCREENSHOTS=1 $(BIN)/python -m pytest -m "slow or not slow" tests/explore/test_front.py tests/explore/test_browser.py \
		tests/experiment/rating/test_panel_browser.py
	@RWKVGATE_BROWSER=1 $(BIN)/python -m pytest tests/explore/web
	@test -x .venv-widgets7/bin/python || "$$PYTHON" -m venv .venv-widgets7
	@.venv-widgets7/bin/python -m pip install --quiet --disable-pip-version-check --requirement tests/explore/widgets7.txt
	@$(BIN)/python -c $(PURELIB) > "$$(.venv-widgets7/bin/python -c $(PURELIB))/project.pth"
	@RWKVGATE_SCREENSHOTS=1 .venv-widgets7/bin/python -m pytest tests/explore/test_front.py tests/explore/test_browser.py

# The machine may have no network and nothing installed but torch and transformers, in PYTHON; the rest is carried there.
gpu-wheels: $(STAMP)  ## fetch what gpu-check needs beside torch and transformers into build/gpu-wheels, to carry
	@$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
		--constraint constraints.txt --dest build/gpu-wheels $(CARRIED)

gpu-check:  ## show on a GPU, without a network, what CPUs cannot: at most 8 minutes, into outputs/gpu; PYTHON= with torch
	@test ! -d build/gpu-wheels || "$$PYTHON" -m pip install --quiet --disable-pip-version-check --no-index --no-deps \
		--upgrade --target build/gpu-packages build/gpu-wheels/*.whl
	@PYTHONPATH=build/gpu-packages "$$PYTHON" benchmarks/gpu_check.py

rehearse: $(STAMP)  ## show what profile t4 meets on Colab, as far as a CPU can: about 10 minutes, 8 GB of disk
	@$(BIN)/python benchmarks/rehearse.py --json outputs/gpu/rehearsal.json

bench: $(STAMP)  ## measure the project's numbers, each beside its reference
	@$(BIN)/python benchmarks/wkv.py
	@$(BIN)/python benchmarks/decode.py
	@$(BIN)/python benchmarks/gates.py
	@$(BIN)/python benchmarks/loss.py
	@$(BIN)/python benchmarks/tokenizer.py
	@$(BIN)/python benchmarks/trainer.py
	@$(BIN)/python benchmarks/verdicts.py
	@$(BIN)/python benchmarks/explorer.py
	@$(BIN)/python benchmarks/page.py
	@$(BIN)/python benchmarks/reproduce.py smoke
	@$(BIN)/python benchmarks/sweep.py smoke

bench-cpu: $(STAMP)  ## measure time and peak memory of the whole cpu run, about 13 minutes
	@$(BIN)/python benchmarks/reproduce.py cpu

bench-peers: $(STAMP)  ## measure our network beside other people's: fetches them, and compiles llama.cpp, minutes once
	@test -x .venv-peers/bin/python || "$$PYTHON" -m venv .venv-peers
	@$(BIN)/python -c $(PURELIB) > "$$(.venv-peers/bin/python -c $(PURELIB))/project.pth"
	@.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --requirement benchmarks/peers.txt
	@PYTHONPATH=. .venv-peers/bin/python benchmarks/peers.py

search: $(STAMP)  ## search for a gate that beats its controls: hours on two cores, resumable; PROFILE=smoke for a look
	@$(BIN)/python -m rwkvgate.experiment.search --profile="$$PROFILE"

study: $(STAMP)  ## run the study that decides, on WORKERS cores: many hours, resumable at any time; writes docs/study.md and README's table
	@seq "$$WORKERS" | OMP_NUM_THREADS=1 xargs -P "$$WORKERS" -I{} nice $(BIN)/python -m rwkvgate.experiment.study
	@$(BIN)/python -m rwkvgate.workflow.release readme

explore: $(STAMP)  ## open the explorer of the newest run, of RUN_DIR, or of outputs/reference, in a browser
	@$(BIN)/python -m rwkvgate.workflow.app $${RUN_DIR:+-- "$$RUN_DIR"}

site: $(STAMP)  ## build the site into build/site, from docs/, the notebooks and outputs/reference, and check it
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	@$(BIN)/python -m rwkvgate.workflow.site build/site-sources
	@$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going --nitpicky --fresh-env --write-all \
		--doctree-dir build/doctrees build/site-sources build/site
	@RWKVGATE_SITE=build/site $(BIN)/python -m pytest tests/workflow/test_site.py

test-site: site  ## look at every page of the site in a headless Chromium, at three widths and in both themes; build/screenshots
	@command -v chromium > /dev/null || apt-get install --yes --quiet chromium > /dev/null 2>&1 || true
	@RWKVGATE_SITE=build/site $(BIN)/python -m pytest -m "slow or not slow" tests/workflow/test_site.py

test-colab: $(STAMP)  ## run each notebook alone, as from its badge, with the versions that Colab publishes
	@test -x .venv-colab/bin/python || "$$PYTHON" -m venv .venv-colab
	@.venv-colab/bin/python -m pip install --quiet --disable-pip-version-check --requirement tests/workflow/colab/requirements.txt
	@$(BIN)/python tests/workflow/colab/chain.py

verify-checkpoint: $(STAMP)  ## compare the paper's checkpoint with reference logits: downloads 3.2 GB, takes 7 GB of memory
	@$(BIN)/python -m rwkvgate.rwkv6.verify

lint: $(STAMP)  ## run ruff and mypy
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

format: $(STAMP)  ## apply ruff's fixes and formatting
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

lock: $(STAMP)  ## write constraints.txt from what is installed in .venv, and requirements.lock with hashes
	@$(PIP) --constraint constraints.txt --editable '.[cluster]'
	@test -x .venv-lock/bin/uv || "$$PYTHON" -m venv .venv-lock
	@.venv-lock/bin/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
	@$(BIN)/python -m rwkvgate.workflow.release lock

dist:  ## build wheel and source distribution into dist/, check them, and use the wheel alone, outside the checkout
	@rm -rf dist .venv-wheel
	@test -x .venv-build/bin/python || "$$PYTHON" -m venv .venv-build
	@.venv-build/bin/python -m pip install --quiet --disable-pip-version-check build==1.6.1 twine==7.0.0
	@.venv-build/bin/python -m build --outdir dist > /dev/null
	@.venv-build/bin/python -m twine check --strict dist/*
	@"$$PYTHON" -m venv .venv-wheel
	@.venv-wheel/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	@.venv-wheel/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt dist/*.whl
	@.venv-wheel/bin/python tests/wheel.py

stamp: $(STAMP)  ## write the address and version in pyproject.toml into badges and Colab's cells
	@$(BIN)/python -m rwkvgate.workflow.release stamp

reference: $(STAMP)  ## copy what readers want of outputs/cpu to outputs/reference, to be committed, and write its numbers into README and docs/results.md
	@$(BIN)/python -m rwkvgate.workflow.release reference

clean:  ## remove the smoke run
	rm -rf outputs/smoke

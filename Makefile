# Development commands. A fresh machine needs Python 3.10+ with headers and venv, a C++17 compiler and make.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
RESULTS := benchmarks/results
OLDEST_TRITON := 3.6.0
# Python compiles a module when it is first imported; pip would compile all of them, most of which nobody imports.
INSTALL := $(RUN) -m pip install --quiet --no-compile
WORKERS ?= auto
PARALLEL := -n $(WORKERS) --maxprocesses 8 --dist worksteal
PART ?= only
SOURCES := setup.py pyproject.toml $(wildcard csrc/*.cpp csrc/*/*.cpp csrc/*/*.h csrc/*/*.cu)

.PHONY: help venv wheel demo test prove prove-tests lint check bench gallery augmentation pages reference gate cuda-check clean gpu gpu-build gpu-test gpu-tuned \
	gpu-sanitize gpu-memcheck gpu-racecheck gpu-bench gpu-bench-fp32 gpu-bench-bf16 gpu-bench-steps
, := ,

# The first target, which `make` alone makes, stays venv.
.DEFAULT_GOAL := venv

# A target's words are what follows `##` on its line.
help:  ## this list
	@awk -F ':.*  ## ' '/^[a-z0-9-]+:.*  ## / { printf "%-16s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

venv: $(VENV)/.ready  ## the environment .venv with torch 2.13, all tools and the extension, built in place

$(VENV)/.ready: $(SOURCES) ganfast/__init__.py
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	@echo "ganfast: 1 of 3, download and unpack torch, some 200 MB"
	$(INSTALL) torch==2.13.0 ninja "setuptools>=77" wheel numpy
	@echo "ganfast: 2 of 3, what tests, demo and benchmarks need"
	GANFAST_BUILD=none $(INSTALL) --no-build-isolation -e ".[train,systems,bench,test]"
	@echo "ganfast: 3 of 3, the extension"
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(RUN) setup.py --quiet build_ext --inplace  # the environment's own ninja
	touch $@

# KINDS="x86-64-v3" makes a part of them. Each is compiled for named processors, not for this machine; docs/build.md says which is for whom.
KINDS ?= x86-64-v3 x86-64-v4 python
wheel: venv  ## wheels into dist/: Python alone; kernels for x86-64-v3 and v4, 4 to 5 minutes each on 2 cores
	$(RUN) tools/make_wheels.py --out dist $(KINDS)

demo: venv  ## ganfast against eager on DCGAN-64, then a GAN trained on digits: 2 to 4 minutes after the install
	$(RUN) -m ganfast.demo --out runs/demo

# A process a core, each with one thread; then one by one what measures time or wants the whole machine.
test: venv  ## every test that needs no GPU: 12 to 15 minutes on 2 cores, 25 on slow ones
	GANFAST_PROMISED=cpu $(RUN) -m pytest tests -m "not alone" $(PARALLEL)
	GANFAST_PROMISED=cpu $(RUN) -m pytest tests -m alone
	GANFAST_PROMISED=triton TRITON_INTERPRET=1 $(RUN) -m pytest tests $(PARALLEL)

# What `make test` leaves out, for its length; known answers, over five seeds each, and their picture; 20,000 random convolutions under
# heap checking; every system over three seeds. About half an hour each on 2 cores. Augmentation over five seeds: 20 minutes; ADA a quarter of
# an hour; quality against time 75 minutes.
prove: prove-tests  ## what `make test` leaves out, known answers, random convolutions, systems, quality: 4 hours on 2 cores
	$(RUN) -m benchmarks.prove --results $(RESULTS) --pictures docs
	$(RUN) -m benchmarks.prove_heap --results $(RESULTS)
	$(RUN) -m benchmarks.adaptive --results $(RESULTS)
	$(RUN) -m benchmarks.gallery --results $(RESULTS) --pictures docs/gallery --seeds 3
	$(RUN) -m benchmarks.augmentation --results $(RESULTS)
	$(RUN) -m benchmarks.quality --results $(RESULTS)
	$(RENEW)

# PART=3/8 is the third of eight parts.
prove-tests: venv  ## the tests that `make test` leaves out, all or PART=3/8 of them: about 30 minutes on 2 cores
	GANFAST_PROMISED=cpu $(RUN) -m pytest tests --prove $(PART) -m "not alone" $(PARALLEL)
	GANFAST_PROMISED=cpu $(RUN) -m pytest tests --prove $(PART) -m alone
	GANFAST_PROMISED=triton TRITON_INTERPRET=1 $(RUN) -m pytest tests --prove $(PART) $(PARALLEL)

# The networks people bring, through other torches' dynamo: the oldest that pyproject.toml allows and a new one. Some 5 GB each, and no
# extension: ganfast's ops run on torch's own kernels there.
TORCHES := 2.11.0 2.14.1
prove-torches: $(TORCHES:%=build/torch-%/.proved)  ## the drop-in on the oldest torch allowed and on a newer one: some 5 GB each

build/torch-%/.proved: FORCE
	test -x build/torch-$*/bin/python || $(PYTHON) -m venv build/torch-$*
	build/torch-$*/bin/python -m pip install --quiet --no-compile torch==$* numpy pytest
	GANFAST_BACKEND=torch PYTHONPATH=. build/torch-$*/bin/python -m pytest tests/families/test_families.py tests/dropin/test_entry.py

.PHONY: prove-torches FORCE
FORCE:

lint: venv  ## ruff
	$(RUN) -m ruff check .

check: lint test cuda-check  ## lint, test and cuda-check

cuda-check: venv build/triton-$(OLDEST_TRITON)/.ready  ## every CUDA and Triton kernel compiled for three architectures; wants nvcc, no GPU
	$(RUN) tools/cuda_check.py
	$(RUN) tools/triton_check.py
	PYTHONPATH=build/triton-$(OLDEST_TRITON) $(RUN) tools/triton_check.py --triton $(OLDEST_TRITON)

# Beside the installed Triton, the oldest that the kernels are promised for.
build/triton-$(OLDEST_TRITON)/.ready: | venv
	$(RUN) -m pip install --quiet --no-deps --upgrade --target $(@D) triton==$(OLDEST_TRITON)
	touch $@

bench: venv  ## every benchmark of this machine, into benchmarks/results and the pages' tables
	mkdir -p runs
	$(RUN) benchmarks/report.py --check --results $(RESULTS)
	rm -rf runs/bench.json runs/tuning
	GANFAST_CACHE=runs/tuning $(RUN) -m pytest benchmarks --benchmark-quiet --benchmark-json=runs/bench.json
	$(RUN) benchmarks/report.py runs/bench.json --results $(RESULTS)
	$(RENEW)

# SEEDS=3: runs of each system, of other seeds than their settings were tried with. ONLY="NAME NAME": these alone, the others as they were.
SEEDS ?= 1
ONLY ?=
gallery: venv  ## every system of ganfast.systems trained and drawn, two at a time; SEEDS=3 for three runs of each
	$(RUN) -m benchmarks.gallery --results $(RESULTS) --pictures docs/gallery --seeds $(SEEDS) $(if $(ONLY),--only $(ONLY)); \
		status=$$?; $(RENEW) && exit $$status

augmentation: venv  ## where a GAN's images help a classifier, each setting over five seeds: 20 minutes on 2 cores
	$(RUN) -m benchmarks.augmentation --results $(RESULTS) && $(RENEW)

# The measured numbers of README.md, of docs and of the gallery, from the results files that are committed, wherever RESULTS is.
RENEW = $(RUN) benchmarks/report.py --results benchmarks/results --pages .
pages: venv  ## the measured numbers of README, docs and the gallery, from benchmarks/results
	$(RENEW)

reference: venv  ## docs/reference.md, from the docstrings
	$(RUN) tools/reference.py

gate: venv  ## six quick benchmarks against the floors in benchmarks/gate.json
	rm -rf runs/tuning
	GANFAST_CACHE=runs/tuning $(RUN) benchmarks/gate.py

# On a machine with a GPU, with its own torch, triton, numpy, pytest and pytest-benchmark (ninja builds faster, matplotlib draws).
# Each part stands alone, builds what it needs for TORCH_CUDA_ARCH_LIST (default: all architectures), prints as it goes and takes
# under 8 minutes. OUT receives at most 7 files: three runs, and the results made of them: .json, .md, two .png.
# COMMIT names what is measured where there is no git history.  To look into one row:
# nsys profile python3 -m pytest benchmarks -k "test_layer and dcgan64-3-b64-bf16-fwd" --rivals eager
OUT ?= runs
COMMIT ?=
GPU_BUILT := build/.gpu-built-$(subst ;,_,$(subst $() ,_,$(TORCH_CUDA_ARCH_LIST)))
GPU_BENCH = $(PYTHON) benchmarks/report.py --check --results $(OUT) && rm -rf $(OUT)/run-$(1).json runs/tuning && export GANFAST_CACHE=runs/tuning && status=0 && \
	{ $(PYTHON) -m pytest benchmarks --benchmark-quiet --time-limit 400 $(if $(COMMIT),--measured-commit $(COMMIT)) \
	--benchmark-json=$(OUT)/run-$(1).json $(2) || status=$$?; } && \
	{ $(PYTHON) benchmarks/report.py $(OUT)/run-*.json --results $(OUT) || status=$$?; } && exit $$status
# A sanitizer may be missing, or refuse the machine (a container without the rights, a driver that is too new): a word, and on.
SANITIZER = compute-sanitizer --tool $(1) --error-exitcode 1 $(PYTHON)
SANITIZE = if said=$$($(SANITIZER) -c "import torch; torch.zeros(8, device='cuda').add_(1).cpu()" 2>&1); \
	then $(2) $(SANITIZER) -m pytest tests/gpu -m "gpu and not captures" -k "small and cuda"; \
	else echo "gpu-$(1): compute-sanitizer cannot run here, NOTHING WAS CHECKED: $$(echo "$$said" | tail -n 1)"; fi
# Each process compiles its own Triton kernels: eight at a time where pytest-xdist is installed.
GPU_PROCESSES = $(shell $(PYTHON) -c "import xdist" 2>/dev/null && echo "-n 8")
PYTEST_OPTIONS ?=

gpu: gpu-build gpu-test gpu-tuned gpu-sanitize gpu-bench  ## all of these, with PYTHON=python3: each meant to take under 8 minutes
gpu-bench: gpu-bench-fp32 gpu-bench-bf16 gpu-bench-steps  ## the three gpu-bench- targets
gpu-sanitize: gpu-memcheck gpu-racecheck  ## gpu-memcheck and gpu-racecheck
gpu-build: $(GPU_BUILT)  ## the extension with CUDA, for TORCH_CUDA_ARCH_LIST

$(GPU_BUILT): $(SOURCES)
	GANFAST_BUILD=cuda $(PYTHON) setup.py --quiet build_ext --inplace --force
	mkdir -p $(@D) && touch $@

gpu-test: gpu-build  ## the tests that need a GPU
	GANFAST_PROMISED=triton,cuda,gpu $(PYTHON) -m pytest tests/gpu tests/step -m "gpu and not alone" -v $(GPU_PROCESSES) $(PYTEST_OPTIONS)
	GANFAST_PROMISED=gpu $(PYTHON) -m pytest tests/gpu tests/step -m "gpu and alone" -v $(PYTEST_OPTIONS)

# What the tuner takes for three layers of a DCGAN and a grouped one of R3GAN, and that no candidate failed or was wrong.
gpu-tuned: gpu-build  ## four layers tuned: fails unless every candidate ran and was right
	$(PYTHON) tools/tuned.py

# Without torch's pool of memory, each tensor is an allocation whose bounds memcheck knows.
gpu-memcheck: gpu-build  ## small GPU tests under compute-sanitizer's memcheck
	$(call SANITIZE,memcheck,PYTORCH_NO_CUDA_MEMORY_CACHING=1)

gpu-racecheck: gpu-build  ## small GPU tests under compute-sanitizer's racecheck
	$(call SANITIZE,racecheck)

gpu-bench-fp32: gpu-build  ## layers in float32, into OUT
	$(call GPU_BENCH,fp32,-m layers -k "fp32 or second_order" --rivals eager$(,)compile)

gpu-bench-bf16: gpu-build  ## layers in bfloat16, into OUT
	$(call GPU_BENCH,bf16,-m layers -k bf16 --rivals eager$(,)compile)

gpu-bench-steps: gpu-build  ## training steps, into OUT
	$(call GPU_BENCH,steps,-m steps)

clean:  ## removes build, dist, runs and the extension; .venv stays
	rm -rf build dist *.egg-info ganfast/*.so runs

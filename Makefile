# Development commands. A fresh machine needs Python 3.10+ with headers and venv, a C++17 compiler and make.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
RESULTS := benchmarks/results
OLDEST_TRITON := 3.6.0
SOURCES := setup.py pyproject.toml $(wildcard csrc/*.cpp csrc/*/*.cpp csrc/*/*.h csrc/*/*.cu)

.PHONY: venv demo test lint check bench cuda-check gpu gpu-build gpu-test gpu-sanitize gpu-bench clean

venv: $(VENV)/.ready

$(VENV)/.ready: $(SOURCES)
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet torch==2.13.0 ninja "setuptools>=77" wheel numpy
	$(RUN) -m pip install --quiet --no-build-isolation -e ".[train,bench,test]"
	touch $@

demo: venv
	$(RUN) -m ganfast.demo --out runs/demo

test: venv
	GANFAST_PROMISED=cpu $(RUN) -m pytest tests
	GANFAST_PROMISED=triton TRITON_INTERPRET=1 $(RUN) -m pytest tests -m triton

lint: venv
	$(RUN) -m ruff check .

check: lint test cuda-check

cuda-check: venv build/triton-$(OLDEST_TRITON)/.ready
	$(RUN) tools/cuda_check.py
	$(RUN) tools/triton_check.py
	PYTHONPATH=build/triton-$(OLDEST_TRITON) $(RUN) tools/triton_check.py --triton $(OLDEST_TRITON)

# Beside the installed Triton, the oldest that the kernels are promised for.
build/triton-$(OLDEST_TRITON)/.ready: | venv
	$(RUN) -m pip install --quiet --no-deps --upgrade --target $(@D) triton==$(OLDEST_TRITON)
	touch $@

bench: venv
	mkdir -p runs
	$(RUN) -m pytest benchmarks --benchmark-json=runs/bench.json
	$(RUN) benchmarks/report.py runs/bench.json --results $(RESULTS) --readme README.md

# On a machine with a GPU, with its own torch, triton, ninja, pytest and pytest-benchmark; each part stands alone and
# takes under 8 minutes. OUT receives what should be kept.
OUT ?= runs
gpu: gpu-build gpu-test gpu-sanitize gpu-bench

gpu-build:
	GANFAST_BUILD=cuda $(PYTHON) setup.py --quiet build_ext --inplace --force

gpu-test: gpu-build
	GANFAST_PROMISED=cpu,triton,cuda $(PYTHON) -m pytest tests/gpu -m gpu

gpu-sanitize: gpu-build
	compute-sanitizer --tool memcheck --error-exitcode 1 $(PYTHON) -m pytest tests/gpu -m gpu -k "small and cuda"
	compute-sanitizer --tool racecheck --error-exitcode 1 $(PYTHON) -m pytest tests/gpu -m gpu -k "small and cuda"

gpu-bench: gpu-build
	mkdir -p $(OUT)
	$(PYTHON) -m pytest benchmarks --benchmark-json=$(OUT)/bench-gpu.json
	$(PYTHON) benchmarks/report.py $(OUT)/bench-gpu.json --results $(OUT)

clean:
	rm -rf build *.egg-info ganfast/*.so runs

# The front door. Every target makes the environment when it is missing, then calls `ldct`.
#
#   make train EXP=pcn_ablation [DATA=...] [SCALE=demo|paper] [VARIANT=...] [SET="a.b=c ..."]
#              [SEEDS=3] [OUT=...] [INIT=...] [FEED=grain] [PROFILE=1]
#              [ARGS="--added-sd 60"]
#   make test | test-core | test-long | test-aot | lint | smoke
#   make export RUN=... | denoise IN=... OUT=... | bench
#
# PYTHON=python3.12 chooses the interpreter, ACCEL=auto|cpu|cuda12|cuda13|tpu the accelerator.

SHELL := /bin/sh
.DEFAULT_GOAL := help
ACCEL ?= auto
VENV ?= .venv

# The newest interpreter that runs: jax for Python 3.12 and later is about twice as fast on a CPU.
# pyenv's are found where they lie, for those that aren't active answer only with an error.
PYTHON ?= $(shell pyenv=$$(pyenv root 2>/dev/null); for v in 3.13 3.12 3.11 3; do \
	for p in python$$v $$(ls -rv -d "$$pyenv"/versions/$$v.*/bin/python$$v 2>/dev/null); do \
	$$p -c 'import sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null \
	&& { echo $$p; exit; }; done; done)
# What auto means here: an NVIDIA driver, a TPU host, or the CPU.
override ACCEL := $(if $(filter auto,$(ACCEL)),$(shell \
	if [ -e /proc/driver/nvidia/version ] || [ -e /dev/nvidiactl ]; then echo cuda12; \
	elif [ -e /dev/accel0 ] || [ -e /dev/vfio/0 ] && [ -n "$$TPU_ACCELERATOR_TYPE$$TPU_WORKER_ID" ]; \
	then echo tpu; else echo cpu; fi),$(ACCEL))
ifeq ($(filter $(ACCEL),cpu cuda12 cuda13 tpu),)
$(error ACCEL=$(ACCEL) is none of auto, cpu, cuda12, cuda13, tpu)
endif
export ACCEL

BIN := $(VENV)/bin
READY := $(VENV)/.ready-$(ACCEL)
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: help setup train test test-core test-long test-aot lint smoke bench export denoise clean-venv

help:
	@sed -n '2,11s/^# \{0,1\}//p' Makefile

setup: $(READY)

$(READY): pyproject.toml requirements/$(ACCEL)-py*.txt
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11, 3.12 or 3.13 found; install one, or name it with PYTHON="; exit 1; }
	@echo "setting up $(VENV): $$($(PYTHON) --version), ACCEL=$(ACCEL) (a few minutes, once)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@v=$$($(BIN)/python -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	$(PIP) install --require-hashes -r requirements/$(ACCEL)-py$$v.txt
	@$(PIP) install --no-deps --no-build-isolation -e .
	@rm -f $(VENV)/.ready-*
	@touch $@

train: $(READY)
	@test -n "$(EXP)" || { echo "error: which experiment? make train EXP=pcn_ablation"; exit 2; }
	@$(BIN)/ldct train $(EXP) $(if $(DATA),--data "$(DATA)") $(if $(SCALE),--scale $(SCALE)) \
		$(if $(VARIANT),--variant "$(VARIANT)") $(if $(SET),--set "$(SET)") \
		$(if $(SEEDS),--seeds $(SEEDS)) $(if $(OUT),--out "$(OUT)") $(if $(INIT),--init "$(INIT)") $(if $(FEED),--feed $(FEED)) $(if $(PROFILE),--profile) $(ARGS)

# Two workers; -W error is in pyproject.toml.
test: $(READY)
	$(BIN)/python -m pytest -n 2 -m "not long" $(TESTS)

test-core: $(READY)
	$(BIN)/python -m pytest -n 2 -m "core and not long" $(TESTS)

test-long: $(READY)
	$(BIN)/python -m pytest -m long $(TESTS)

# The papers' programs through the compilers for CUDA and TPUs, without such a device: one to two hours.
test-aot: $(READY)
	@sh requirements/aot.sh $(VENV) .venv-aot
	XLA_FLAGS= .venv-aot/bin/python -m pytest $(or $(TESTS),tests/aot)
	.venv-aot/bin/python -m tests.aot.table

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Every experiment end to end in a few steps. Most of it is compiling: on a CPU two at a time,
# without the passes that make programs fast, and each finds what the others have compiled.
COMPILED := JAX_COMPILATION_CACHE_DIR=runs/smoke/compiled JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0 \
	JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES=-1
QUICK := $(if $(filter cpu,$(ACCEL)),--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true)
smoke: $(READY)
	@$(BIN)/python -c 'from ldct_jax.study.scripts import names; print(*names(), sep="\n")' | \
		$(COMPILED) XLA_FLAGS="$(QUICK) $$XLA_FLAGS" xargs -P $(if $(QUICK),2,1) -I EXP \
		$(BIN)/ldct train EXP --scale smoke --out runs/smoke/EXP

# PyTorch isn't part of the default set-up; TORCH_PYTHON= names an interpreter that has it, as
# where a GPU machine brings its own build.
bench: $(READY)
	@test -n "$(TORCH_PYTHON)" || $(BIN)/python -c 'import torch' 2>/dev/null \
		|| $(PIP) install torch==2.13.0
	@$(BIN)/python -m experiments.speed $(if $(TORCH_PYTHON),--torch-python "$(TORCH_PYTHON)") $(ARGS)

export: $(READY)
	@test -n "$(RUN)" || { echo "error: which run? make export RUN=runs/pcn_ablation/full-pcn OUT=exported"; exit 2; }
	@$(BIN)/ldct export "$(RUN)" "$(or $(OUT),exported)"

denoise: $(READY)
	@test -n "$(IN)" -a -n "$(OUT)" || { echo "error: make denoise IN=scans OUT=denoised MODEL=runs/EXP/VARIANT"; exit 2; }
	@$(BIN)/ldct denoise "$(IN)" "$(OUT)" $(if $(MODEL),--model "$(MODEL)")

clean-venv:
	rm -rf $(VENV)

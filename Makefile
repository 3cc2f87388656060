# Every command does the set-up that it needs, make demo and make test too; make install and make setup do nothing
# else. TORCH_INDEX names a package index to take torch from, such as one with CPU or CUDA builds; by default pip's own
# configuration decides.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH_INDEX ?=
BENCH := .venv-bench
INSTALL := -m pip install --quiet --disable-pip-version-check -c constraints.txt $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
PIP := $(BIN)/python $(INSTALL)

.PHONY: help install setup demo test test-long test-slow check docs bench-setup clean

help:
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing undiffuse into $(VENV) (torch is large; a few minutes the first time)"
	$(PIP) -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) -e '.[dev]'
	@touch $@

install: $(VENV)/.installed  ## the program alone, into .venv

setup: $(VENV)/.installed-dev  ## everything for working on undiffuse

demo: $(VENV)/.installed  ## samples of the bundled models, then train on digits, measure, write runs/demo/report.html
	$(BIN)/undiffuse demo

test: $(VENV)/.installed-dev  ## the test suite (under ten minutes on two cores)
	$(BIN)/python -m pytest -n 2 --dist worksteal -q

test-long: $(VENV)/.installed-dev  ## the long trainings, and runs that are killed and resumed
	$(BIN)/python -m pytest -m slow -q

test-slow: test-long

check: $(VENV)/.installed-dev  ## style, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.installed-dev  ## run every snippet and check the reference pages
	$(BIN)/python -m pytest -q tests/docs

# in an environment of their own, for they need packages that undiffuse does not; the last two by themselves, for the
# torchvision that one of them names does not import beside every build of torch, and nothing of it is used
bench-setup: pyproject.toml constraints.txt  ## the peers that benchmarks/ compare with, into .venv-bench
	$(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/python $(INSTALL) -e . diffusers accelerate einops
	$(BENCH)/bin/python $(INSTALL) --no-deps denoising-diffusion-pytorch ema-pytorch

clean:  ## remove what was installed and made here
	rm -rf $(VENV) $(BENCH) runs samples results dist .pytest_cache .mypy_cache .ruff_cache

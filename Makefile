# make run    the main job: train on simulated cells, compare with UMAP and t-SNE, write results/NNNN-*/report.html
# make test   lint and all tests
# Both build the environment in .venv first; VENV=path reuses another one.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
READY := $(VENV)/.installed-$(shell cat pyproject.toml Makefile | cksum | cut -d' ' -f1)-$(shell pwd | cksum | cut -d' ' -f1)

# Threads that wait for each other sleep instead of spinning: beside another busy program a training step
# is several times faster so, and no slower on a quiet machine.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: run test lint install

run: $(READY)
	$(BIN)/python InfoMAX_VAE_framework.py --preset views

# Two processes of one thread each: most tests start scripts, which import torch for seconds.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

install: $(READY)

# One stamp per state of pyproject.toml and per checkout, so that a shared environment always imports this one.
$(READY):
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	rm -f $(VENV)/.installed-*
	touch $@

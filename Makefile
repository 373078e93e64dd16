# Every task of the repository. `make help` lists them; the two that matter first: `make demo` and `make test`.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
DEVICE ?= auto
ARGS ?=
FAST ?=
export PROMPT ?=
export FILE ?=
MLFLOW_PORT ?= 5000
BIN := .venv/bin
RUN := $(BIN)/python -m shared.sprints

.PHONY: help setup demo test coverage cyoa-team-test lint format docs bench reproduce mlflow lock new-sprint clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo; echo "Steps of the sprints (ARGS=\"--help\" explains one; DEVICE=auto|cpu|cuda|mps|mlx; PROMPT=\"...\" for generate, FILE=... for predict):"
	@if test -x $(BIN)/python; then $(BIN)/python -m shared.sprints list; else $(PYTHON) -m shared.sprints list 2>/dev/null || echo "  (make setup shows them)"; fi

setup: .venv/.ready ## create .venv with the locked requirements (again only when they change)

.venv/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: Python 3.11 or newer is needed: make setup PYTHON=python3.11"; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv || { echo "error: this Python has no venv (on Debian: apt-get install python3-venv)"; exit 1; }
	@echo "installing the locked requirements into .venv (1 to 5 minutes, once)"
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation -e .
	@touch $@

demo: setup ## the main path of every sprint, offline, in minutes, then a results page; FAST=1: toy size
	@$(BIN)/python -m shared.demo --device $(DEVICE) $(if $(filter-out 0,$(FAST)),--smoke) $(ARGS)

test: setup ## all tests, a process of one thread per core
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist worksteal $(ARGS)

coverage: setup ## the tests once more, and the share of shared/ and sprints/ that they run (85 % at least)
	rm -f .coverage*
	OMP_NUM_THREADS=1 $(BIN)/coverage run -m pytest --numprocesses auto --dist worksteal $(ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

cyoa-team-test: setup ## sprint 05 against an MLflow server on PostgreSQL (Debian: apt-get install postgresql)
	CYOA_TEAM_TEST=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/test_cyoa_team.py $(ARGS)

lint: setup ## ruff and pyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: setup ## format the code, fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: setup ## render the reports into README, PROGRESS, docs/ and the gallery
	$(BIN)/python -m shared.docs

bench: setup ## every sprint's bench step (half an hour; use an idle machine)
	$(RUN) run all bench --device $(DEVICE) $(ARGS)

reproduce: setup ## run every recorded experiment again, compare the headlines (hours; ARGS="--at-most 15 --only logreg")
	$(BIN)/python -m shared.reproduce $(ARGS)

mlflow: setup ## open the experiment tracker (MLFLOW_PORT=5000)
	@case "$$MLFLOW_TRACKING_URI" in http*) echo "the runs are on the server at $$MLFLOW_TRACKING_URI";; \
	*) $(BIN)/mlflow ui --port $(MLFLOW_PORT) --backend-store-uri "$${MLFLOW_TRACKING_URI:-sqlite:///mlflow.db}";; esac

lock: setup ## resolve requirements.lock anew from pyproject.toml, for every platform
	$(BIN)/python -m pip install --disable-pip-version-check --quiet uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --all-extras --no-annotate --no-header \
	  $(foreach package,$(TORCH_BRINGS),--no-emit-package $(package)) pyproject.toml -o requirements.lock
# torch pins its own CUDA packages, and needs none of them where its CPU build is installed
TORCH_BRINGS := triton cuda-bindings cuda-pathfinder cuda-toolkit $(addprefix nvidia-,cublas cuda-cupti cuda-nvrtc cuda-runtime \
  cudnn-cu13 cufft cufile curand cusolver cusparse cusparselt-cu13 nccl-cu13 nvjitlink nvshmem-cu13 nvtx)

new-sprint: setup ## start a sprint: make new-sprint NAME=my_sprint
	@test -n "$(NAME)" || { echo "error: give it a name: make new-sprint NAME=my_sprint"; exit 1; }
	@$(RUN) new "$(NAME)"
	@$(BIN)/python -m shared.docs

clean: ## remove what runs leave behind: runs/, the local MLflow store, caches (not .venv, not results)
	rm -rf runs mlruns mlflow.db build *.egg-info .ruff_cache .pytest_cache .hypothesis .coverage*
	find shared sprints tests docs -name __pycache__ -prune -exec rm -rf {} +

# make <sprint>-<step>, for every step that a sprint.toml may have (shared/sprints.py)
STEPS := $(shell sed -n 's/^STEPS = (\(.*\))/\1/p' shared/sprints.py | tr -d '",')
generate_input = $(if $(filter file,$(origin PROMPT)),,--prompt="$$PROMPT")
predict_input = $(if $(filter file,$(origin FILE)),,--file="$$FILE")
define step_rule
%-$(1): setup
	$$(RUN) run $$* $(1) --device $$(DEVICE) $$($(1)_input) $$(ARGS)
endef
$(foreach step,$(STEPS),$(eval $(call step_rule,$(step))))

.DEFAULT:
	@echo "error: there is no target $@; make help lists them all" >&2; exit 2

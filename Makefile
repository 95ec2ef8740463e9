# make demo    sample data -> betons -> a short training -> the table of its epochs
# make test    the tests
# Both first install what they need: system packages, uv, the environment in .venv. Outside this folder,
# only uv's cache changes and, if something is missing, what apt installs.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

# An activated environment of another project must not leak into this one.
unexport VIRTUAL_ENV PYTHONPATH PYTHONHOME
export UV_PROJECT_ENVIRONMENT := .venv

PYTHON := .venv/bin/python
UV = $(shell uv --version >/dev/null 2>&1 && echo uv || echo .tools/bin/uv)
ENV := .venv/made

DEMO_DATA := data/demo
DEMO_TAR := $(DEMO_DATA)/sample.tar
DEMO_RUN := runs/demo
# What the benchmarks convert and load. Generated pictures show that they run; figures worth comparing need photographs:
# make bench PHOTOGRAPHS=some-sorted.tar
PHOTOGRAPHS := $(DEMO_TAR)
BENCH := bench

.PHONY: help demo report test soak bench gpu wheels docs lint type format env lock clean

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## */make \1\t/' | expand -t 14

demo: $(ENV) $(DEMO_TAR)  ## generate a sample dataset, convert it, train on it, print the table
	$(PYTHON) write_datasets.py --data.source=$(DEMO_TAR) --data.out=$(DEMO_DATA) --data.caps=64,96,full
	rm -rf $(DEMO_RUN)
	$(PYTHON) train_imagenet.py --config-file rn50_configs/cpu_demo.yaml --data.dir=$(DEMO_DATA) --run.dir=$(DEMO_RUN)

report: $(ENV)  ## write report.html and curves.png of the demo into its run folder
	@[ -f $(DEMO_RUN)/epochs.csv ] || { echo "make: no run in $(DEMO_RUN) yet; make demo makes one" >&2; exit 1; }
	$(PYTHON) -m training.report $(DEMO_RUN)

# A picture depends only on its own key, and the tar is renamed into place when complete, so a tar that exists is good.
$(DEMO_TAR): $(wildcard data_tools/sample/*.py) | $(ENV)
	$(PYTHON) -m data_tools.sample $@

test: $(ENV)  ## run the tests, except the slow ones
	$(PYTHON) -m pytest -m "not slow" -n logical --maxprocesses 4 --dist loadfile --durations=15

soak: $(ENV)  ## run the slow tests
	$(PYTHON) -m pytest -m slow -s

# As the programs set it for themselves.
bench: export OMP_WAIT_POLICY := passive
bench: $(ENV) $(PHOTOGRAPHS)  ## run the benchmarks, each into a file in bench/
	mkdir -p $(BENCH)
	$(PYTHON) benchmarks/load.py --source=$(PHOTOGRAPHS) | tee $(BENCH)/load.txt
	$(PYTHON) benchmarks/write.py --source=$(PHOTOGRAPHS) | tee $(BENCH)/write.txt
	$(PYTHON) benchmarks/train_step.py | tee $(BENCH)/train_step.txt

gpu: $(ENV)  ## run the GPU tests and measurements, in 9 minutes; results in bench/gpu
	$(PYTHON) -m scripts.gpu_acceptance --out $(BENCH)/gpu

wheels: $(ENV)  ## build what a machine without network needs, into OUT (docs/INSTALL.md)
	@[ -n "$(OUT)" ] || { echo "make: give a folder: make wheels OUT=wheels" >&2; exit 1; }
	PATH="$(CURDIR)/.tools/bin:$$PATH" PYTHONS="$(PYTHONS)" LARGE="$(LARGE)" scripts/build_wheels.sh "$(OUT)"

docs: $(ENV)  ## update the recipes, options and estimates that the pages show
	$(PYTHON) scripts/render_recipe_docs.py docs/RECIPES.md rn50_configs/*.yaml
	$(PYTHON) scripts/render_option_docs.py docs/OPTIONS.md
	$(PYTHON) scripts/render_scale_docs.py benchmarks/results/machines.md rn50_configs

lint: $(ENV)  ## check style and format
	$(PYTHON) -m ruff check
	$(PYTHON) -m ruff format --check

type: $(ENV)  ## check types
	$(PYTHON) -m mypy

format: $(ENV)  ## format the code
	$(PYTHON) -m ruff check --fix
	$(PYTHON) -m ruff format

env: $(ENV)  ## create or update the environment in .venv; EXTRAS="wandb export" adds optional packages

# What was asked for once stays: .venv/made holds it.
EXTRAS = $(shell cat $(ENV) 2>/dev/null)
NATIVE := $(wildcard data_tools/native/_native*.so)
# Also made if the compiled native code is gone, or other packages are asked for.
ifneq ($(if $(NATIVE),$(origin EXTRAS)),file)
.PHONY: $(ENV)
endif

# Renewed when a version, the build or the native code changes. uv would take the project from its cache, without the
# compiled file that `make clean` has removed from this folder. Without bytecode, torch takes three times as long to import,
# and under PYTHONDONTWRITEBYTECODE, which containers set, it takes that long every time.
$(ENV): pyproject.toml uv.lock setup.py $(wildcard data_tools/native/*.cpp data_tools/native/*.h)
	@$(SYSTEM_PACKAGES)
	@if [ $(UV) = .tools/bin/uv ] && [ ! -x .tools/bin/uv ]; then \
	    echo "make: no uv here; putting one into .tools"; \
	    python3 -m venv .tools && .tools/bin/python -m pip install --quiet --disable-pip-version-check uv; \
	fi
	$(UV) sync --locked --compile-bytecode --reinstall-package imagenet18-ffcv $(EXTRAS:%=--extra %)
	$(PYTHON) -c 'import ffcv, data_tools.native.library as native; native.library()'
	@echo $(EXTRAS) > $@

# OpenCV is conda-forge's in environment.yml, and the project itself comes last.
lock:  ## update uv.lock after a change to pyproject.toml, and environment.yml with it
	$(UV) lock
	{ sed '/from uv.lock, by/q' environment.yml; \
	  $(UV) export -q --locked --no-hashes --no-annotate --no-header --no-emit-project \
	      --prune opencv-python --prune opencv-python-headless | sed 's/.*/      - "&"/'; \
	  echo '      - -e .'; } > environment.yml.partial
	mv environment.yml.partial environment.yml

clean:  ## remove the environment, caches and the demo; your own betons and runs stay
	rm -rf .venv .tools build dist *.egg-info data_tools/native/_native*.so $(DEMO_DATA) $(DEMO_RUN)
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# What FFCV and the native code are built from. Asked for by what it can do rather than by package name, so that conda's
# or a self-built OpenCV counts, too.
define SYSTEM_PACKAGES
missing=(); \
need() { local package=$$1; shift; "$$@" >/dev/null 2>&1 || missing+=("$$package"); }; \
python_header() { python3 -c 'import pathlib, sysconfig as s; pathlib.Path(s.get_path("include"), "Python.h").stat()'; }; \
need g++ command -v g++; \
need pkg-config command -v pkg-config; \
need libopencv-dev pkg-config --exists opencv4; \
need libturbojpeg0-dev pkg-config --exists libturbojpeg; \
need libjpeg-dev pkg-config --exists libjpeg; \
need python3-dev python_header; \
[ $(UV) = uv ] || need python3-venv python3 -c 'import ensurepip'; \
if [ $${#missing[@]} -gt 0 ]; then \
    if [ -z "$$(command -v apt-get)" ]; then \
        echo "make: please install what Debian calls: $${missing[*]}" >&2; exit 1; \
    fi; \
    root=(); [ "$$(id -u)" = 0 ] || root=(sudo); \
    echo "make: installing $${missing[*]}"; \
    { "$${root[@]}" apt-get update -q && \
      "$${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "$${missing[@]}"; \
    } || { echo "make: could not install the packages: $${missing[*]}" >&2; exit 1; }; \
fi
endef

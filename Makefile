# Headrace. `make` prints the targets.
PYTHON ?= python3
UV ?= uv
ARGS ?=
.DEFAULT_GOAL := help
# What a person may have set for their own pip would put packages elsewhere than into .venv.
export PIP_USER := no
unexport PIP_TARGET PIP_PREFIX PIP_ROOT PYTHONHOME PYTHONPATH
.PHONY: help demo compose cluster load drills bench test check requirements

help:  ## print this
	@awk -F ':.*##' '/^[a-z]+:.*##/ { printf "make %-14s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: .venv/.demo  ## run all of it here and one job of every kind (ARGS=--once stops after that; ARGS='--port 8123')
	@.venv/bin/python -m demo $(ARGS)

compose:  ## the same in containers (ARGS='up --scale worker-cpu=3', ARGS=down, or what else docker compose takes)
	@$(PYTHON) deploy/compose.py $(ARGS)

cluster: .venv/.deploy  ## bring the local cluster up in containers and provision it (ARGS=status, ARGS=down); or: vagrant up
	@.venv/bin/python deploy/cluster.py $(ARGS)

load: .venv/.load  ## load a running Headrace and audit it (HEADRACE_TOKEN; ARGS='--shape smoke --host ADDRESS')
	@.venv/bin/python -m loadtests $(ARGS)

drills: .venv/.demo .venv/.deploy .venv/.load  ## break the local cluster on purpose, under load, and audit it (ARGS=--list, ARGS='worker-killed')
	@.venv/bin/python -m drills $(ARGS)

bench: .venv/.demo  ## side by side with the deployment most people copy: ratios (ARGS=--quick, --full, --kills, --sockets, --profile, '--against django-ox')
	@.venv/bin/python -m benchmarks $(ARGS)

test: .venv/.dev .venv/.deploy .venv/.load  ## run every check and test (ARGS are pytest's); as root on Debian, installs what they need
	@tests/prepare
	@.venv/bin/pytest -n 4 --dist loadgroup --durations 25 $(ARGS)

check: .venv/.dev .venv/.deploy .venv/.load  ## style, types and every test that starts no server
	@.venv/bin/pytest -n 2 --dist loadgroup -q -m unit $(ARGS)

requirements:  ## compile requirements/*.in to *.txt, for every Python that we support
	@command -v $(UV) > /dev/null || { echo 'make requirements needs uv: install it (pipx install uv), or say where it is with UV=.' >&2; exit 1; }
	@cd requirements && for name in app demo dev deploy load peers; do UV_CUSTOM_COMPILE_COMMAND='make requirements' $(UV) pip compile --quiet \
		--universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links $(ARGS) $$name.in --output-file $$name.txt; done

# A stamp says that the environment holds what a requirements file asks for, and this checkout, editable. The checks come before pip, which would
# give a page instead of a sentence.
.venv/.%: requirements/%.txt
	@command -v $(PYTHON) > /dev/null || { echo 'Headrace needs Python 3.11 or newer, and there is no $(PYTHON): apt-get install python3 python3-venv.' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Headrace needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) -c 'import platform; print(platform.python_version())'): name a newer one, as in make PYTHON=python3.13 $(MAKECMDGOALS)." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2> /dev/null || { echo 'Headrace needs the venv module of $(PYTHON): apt-get install python3-venv.' >&2; exit 1; }
	@test -x .venv/bin/pip || { echo 'Making .venv with what requirements/$*.txt asks for; it takes a minute, once.'; $(PYTHON) -m venv .venv; }
	@.venv/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/$*.txt
	@.venv/bin/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

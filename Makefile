# make help lists what there is. A fresh machine needs Python 3.11 or newer; everything else is installed into .venv.
SHELL := /bin/bash
PYTHON ?= python3
PY := .venv/bin/python
READY := .venv/ready
ARGS ?=
# A minor version of Kubernetes for real, test-real and cluster; empty: that of tests/real/go.mod.
export KUBERNETES ?=

.PHONY: help demo test real cluster test-real check format kubectl clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-9s %s\n", $$1, $$2}'

$(READY): requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; set PYTHON=/path/to/python3"; exit 1; }
	@echo "setting up .venv ..."
	@test -x $(PY) || $(PYTHON) -m venv .venv
	@$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: $(READY) ## the main job on an embedded cluster; ARGS=--once ends when all examples have settled
	@$(PY) -m scheduler demo $(ARGS)

test: $(READY) ## all tests; what the machine lacks is skipped with a line that says so
	@TUTTI_KUBECTL=$$(tests/tools.sh) $(PY) -m pytest $(ARGS)

test-real: $(READY) ## the tests of the whole service on a real control plane (see make real); KUBERNETES=1.35: an older one
	@found=$${TUTTI_TEST_KUBECONFIG:-$$(tests/tools.sh control-plane)} || exit; if [ -n "$$found" ]; then \
		[ "$$(id -u)" -ne 0 ] || { tests/tools.sh kubelet && tests/tools.sh containers; } >/dev/null || exit; \
		TUTTI_KUBECTL=$$(tests/tools.sh) $(PY) -m pytest tests/service --cluster real $(ARGS); fi

real: ## build etcd and Kubernetes from source, once: seven minutes on two quiet cores (needs Go)
	@tests/tools.sh control-plane

cluster: $(READY) ## a real control plane with simulated nodes, to play with, until Ctrl-C; prints its kubeconfig
	@$(PY) -m tests.real $(ARGS)

check: $(READY) ## format, lint, types, floor plan, generated files
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	.venv/bin/lint-imports
	$(PY) -m scheduler crds --check deploy/crds
	$(PY) -m dra_driver.proto.generate --check

format: $(READY) ## put the code into the house's format
	$(PY) -m ruff check --fix --exit-zero --quiet .
	$(PY) -m ruff format .
	$(PY) -m scheduler crds --write deploy/crds
	$(PY) -m dra_driver.proto.generate --write

kubectl: $(READY) ## build kubectl from source, for machines without one (needs Go)
	@tests/tools.sh

clean: ## remove what was built
	rm -rf .venv dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

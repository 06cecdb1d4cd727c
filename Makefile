# `make help` lists the commands. Everything they need they install; the state of the local cluster is in .cluster/.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON := .venv/bin/python
READY := .venv/.ready
DEVCLUSTER := $(PYTHON) -m devcluster
KUBECONFIG_FILE := $(if $(CLUSTER_KUBECONFIG),$(CLUSTER_KUBECONFIG),.cluster/kubeconfig)
# More arguments for helm: where the images of a cluster of one's own are, say.
HELM_ARGS ?=
HELM := KUBECONFIG=$(KUBECONFIG_FILE) $(if $(wildcard .cluster/bin/helm),.cluster/bin/helm,helm)
export PATH := $(CURDIR)/.cluster/bin:$(PATH)

SDK_SOURCES := $(shell find worker_image/questline operator/questline_operator -name '*.py') pyproject.toml
MEDIA_SOURCES := $(shell find examples/media examples/python -type f -not -path "*/__pycache__/*" 2>/dev/null)

.PHONY: help
help: ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

.PHONY: setup
setup: $(READY) ## the Python environment, exactly as locked

$(READY): requirements-dev.lock pyproject.toml
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Questline needs Python 3.11 or newer as python3"; exit 1; }
	@test -x $(PYTHON) || python3 -m venv .venv || { rm -rf .venv; apt-get update -qq && apt-get install -y -qq python3-venv && python3 -m venv .venv; }
	@test -x .venv/bin/uv || .venv/bin/pip install -q uv
	.venv/bin/uv pip sync -q --python $(PYTHON) requirements-dev.lock
	.venv/bin/uv pip install -q --python $(PYTHON) --no-deps --no-build-isolation -e .
	@touch $@

.PHONY: lock
lock: $(READY) ## lock the dependencies anew
	.venv/bin/uv pip compile -q --universal --generate-hashes --group dev --extra operator --extra client --extra cli pyproject.toml -o requirements-dev.lock
	.venv/bin/uv pip compile -q --universal --generate-hashes --extra operator -c requirements-dev.lock pyproject.toml -o requirements-operator.lock

##@ Checks

.PHONY: lint
lint: $(READY) ## ruff, mypy strict, the layer contracts
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports --no-logo
	@! git grep -nE '^(<<<<<<<|>>>>>>>) ' || { echo "a merge is not finished: see the lines above"; exit 1; }
	@diff -r crds charts/questline/crds || { echo "charts/questline/crds is not crds/: run make crds"; exit 1; }

.PHONY: crds
crds: ## put the CRDs into the chart, after a change of crds/
	cp crds/*.yaml charts/questline/crds/

.PHONY: test-unit
test-unit: $(READY) ## the tests that need no cluster
	$(PYTHON) -m pytest tests/unit tests/simulation -m 'not long' -n auto

.PHONY: test
test: lint test-unit install ## every test, on a real cluster that it builds and starts
	$(PYTHON) -m pytest tests/cluster tests/e2e -m 'not long and not exclusive' -n 3 --dist loadfile
	$(PYTHON) -m pytest tests/cluster tests/e2e -m 'not long and exclusive'

.PHONY: test-long
test-long: lint test-unit install ## what takes longer than `make test`, and every fault run
	$(PYTHON) -m pytest tests/cluster/faults tests/e2e/test_failover.py -m 'not long'
	$(PYTHON) -m pytest tests -m long --timeout 7200

.PHONY: faults
faults: install ## the fault runs on the real cluster, all of them; their verdicts go to .cluster/records
	$(PYTHON) -m pytest tests/cluster/faults tests/e2e/test_failover.py --timeout 7200

.PHONY: simulate
simulate: $(READY) ## random lives of the whole cluster in virtual time: STEPS=1000000 SEED=1
	@mkdir -p .cluster/records
	$(PYTHON) -m tests.simulation.campaign --steps $(or $(STEPS),1000000) $(if $(SEED),--seed $(SEED)) --json .cluster/records/simulation.json

.PHONY: mutants
mutants: $(READY) ## deliberate bugs, each of which the simulation must find
	@mkdir -p .cluster/records
	$(PYTHON) -m tests.mutants --json .cluster/records/mutants.json

##@ The local cluster

.PHONY: cluster
cluster: $(READY) ## start the local cluster (none where CLUSTER_KUBECONFIG is given)
	@test -n "$(CLUSTER_KUBECONFIG)" || $(DEVCLUSTER) up

.PHONY: cluster-down
cluster-down: $(READY) ## end the local cluster and leave nothing behind
	$(DEVCLUSTER) down

.PHONY: wheels
wheels: dist/.wheel dist/.operator-wheels ## the wheels that the images are built from
	examples/media/wheels.sh

.PHONY: images
images: dist/.operator-image dist/.worker-image dist/.media-image ## build the images, where their sources changed

.PHONY: install
install: cluster $(if $(CLUSTER_KUBECONFIG),,images) ## put the operator and the demo's Worker on the cluster
	@test -n "$(CLUSTER_KUBECONFIG)" || $(DEVCLUSTER) load questline.dev/operator:dev questline.dev/worker:dev questline.dev/example-media:dev
	$(HELM) upgrade --install questline charts/questline --namespace questline-system --create-namespace --wait --timeout 3m \
	  $(if $(CLUSTER_KUBECONFIG),,--set-string podAnnotations.build="$$(cat dist/.operator-image)") $(HELM_ARGS)

.PHONY: uninstall
uninstall: $(READY) ## take the operator off the cluster; the CRDs and all Jobs stay
	$(HELM) uninstall questline --namespace questline-system --ignore-not-found

.PHONY: demo
demo: install ## the main job on real input, shown live
	KUBECONFIG=$(KUBECONFIG_FILE) $(PYTHON) -m examples.demo

##@ Images

BUILD := $(DEVCLUSTER) image

dist/.wheel: $(SDK_SOURCES) $(READY) README.md LICENSE
	@rm -rf dist/wheels-worker && mkdir -p dist/wheels-worker
	$(PYTHON) -m hatchling build -t wheel -d dist/wheels-worker
	@touch $@

dist/.operator-wheels: requirements-operator.lock $(READY)
	@rm -rf dist/wheels-operator && mkdir -p dist/wheels-operator
	.venv/bin/pip download -q --no-deps --require-hashes -r requirements-operator.lock -d dist/wheels-operator \
	  --only-binary :all: --implementation cp --python-version 3.11 --abi cp311 --abi abi3 --abi none \
	  --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux_2_5_x86_64 --platform any
	@touch $@

dist/.operator-image: dist/.wheel dist/.operator-wheels operator/Dockerfile | cluster
	$(BUILD) -t questline.dev/operator:dev -f operator/Dockerfile .
	@date +%s%N > $@

dist/.worker-image: dist/.wheel worker_image/Dockerfile | cluster
	$(BUILD) -t questline.dev/worker:dev -f worker_image/Dockerfile .
	@date +%s%N > $@

dist/.media-image: dist/.worker-image $(MEDIA_SOURCES) | cluster
	examples/media/wheels.sh
	$(BUILD) -t questline.dev/example-media:dev -f examples/media/Dockerfile .
	@date +%s%N > $@

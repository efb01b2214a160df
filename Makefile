# The only tools needed: GNU make, Python >= 3.11 with pip. Everything else goes into $(VENV).

PYTHON ?= python3
VENV   ?= .venv
# Which build of vLLM: auto (vllm with a fitting NVIDIA GPU, else cpu), vllm or cpu.
ENGINE ?= auto
# make demo ONCE=1 stops after the answers; PORT=9000 takes 9000, 9001, 9002; NODES=1 starts one.
ONCE   ?=
PORT   ?=
NODES  ?=
# make bench-gateway QUICK=1 takes under 3 minutes; TARGETS=nginx,shoal measures those alone; DOCS=1 puts the results
# into docs/performance.md.
QUICK  ?=
TARGETS ?=
DOCS   ?=
# make bench-routing QUICK=1 takes under 10 minutes; TARGETS=affinity,smg measures those alone; TRACE=file replays
# another trace (Mooncake's format); DOCS=1 as above. make bench-transport TARGETS=udp,kafka measures those alone.
TRACE  ?=
# make chaos QUICK=1 takes about 10 minutes; FAULTS='engine,node p' tries those alone; PEERS=1 other routers too, PEERS=0
# not (by default in a full run only); SECONDS=600 is how long make soak lasts.
FAULTS ?=
PEERS  ?=
SECONDS ?= 600
# make bench-memory SIZE=500 is for an input of 500 MB, and one of 50.
SIZE   ?=

SETUP = $(PYTHON) scripts/setup_env.py $(FASTEST) --venv $(VENV) --extras
RUN   = $(VENV)/bin/python

# Tests start hundreds of processes: without bytecode on disk each of them compiles what it imports (a third of a node's
# start), and pytest rewrites every test again in every one of its workers.
unexport PYTHONDONTWRITEBYTECODE

# Most tests wait most of their time, so several at once take a third of it; those that measure time run alone.
# Scenarios, which take longest, are given out first, in the order of their names: the longest are not kept for the end.
# Only files with such tests are looked through for the second part: to collect all of them takes seconds.
WITHOUT_VLLM = tests/scenarios tests/conformance tests/unit
ALONE = $(shell grep -rlF mark.alone --include='test_*.py' $(WITHOUT_VLLM))
TESTS = \
	$(RUN) -m pytest $(WITHOUT_VLLM) -m 'not alone and not rare$(1)' --numprocesses 3 --dist loadscope --no-loadscope-reorder || failed=1; \
	$(RUN) -m pytest $(ALONE) -m 'alone and not rare$(1)' || failed=1;

.DEFAULT_GOAL := help
.PHONY: help demo setup test test-quick test-rare test-docs bench-gateway bench-tls bench-routing bench-scale bench-transport bench-memory bench-pooling bench-headline chaos soak batch-chaos docs lint format clean

help: ## show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## three nodes with a real model on this machine, until Ctrl-C (ONCE=1: only the answers)
	@$(SETUP) demo,$(ENGINE)
	@$(RUN) scripts/get_model.py
	@$(RUN) scripts/demo.py $(if $(filter-out 0,$(ONCE)),--once) $(if $(PORT),--port $(PORT)) $(if $(NODES),--nodes $(NODES))

setup: ## the environment for developing, with vLLM and the demo's model
	@$(SETUP) dev,demo,ray,$(ENGINE)
	@$(RUN) scripts/get_model.py

test: export SHOAL_TEST_THOROUGH = 1
test: setup lint ## set up and run all tests, those with real vLLM too
	@$(RUN) scripts/get_model.py --embedding
	@failed=; $(call TESTS,) \
	SHOAL_TEST_REAL=required $(RUN) -m pytest tests/real -m 'not rare' || failed=1; \
	test -z "$$failed"

test-quick: ## lint, types, unit tests and a scenario or two of each kind, without vLLM (under 5 minutes)
	@$(SETUP) dev
	@$(MAKE) --no-print-directory lint
	@failed=; $(call TESTS, and not long) \
	test -z "$$failed"

test-rare: export SHOAL_TEST_THOROUGH = 1
test-rare: setup ## the tests that `make test` has no time for: minutes for what hardly changes (about an hour)
	@$(RUN) scripts/get_model.py --embedding
	@SHOAL_TEST_REAL=required $(RUN) -m pytest tests -m rare

# What a gateway costs is measured with the fastest Python here, or the one that is named, in an environment of its own.
bench-gateway bench-tls: VENV = build/venv-gateway
bench-gateway bench-tls: FASTEST = $(if $(filter command environment,$(firstword $(origin PYTHON))),,--fastest)

bench-gateway: ## the gateway's cost next to nginx, haproxy and other routers (QUICK=1: under 3 minutes)
	@$(SETUP) ''
	@PYTHONPATH=scripts $(RUN) -m benchmarks.gateway $(if $(filter-out 0,$(QUICK)),--quick) \
		$(if $(TARGETS),--targets '$(TARGETS)') $(if $(filter-out 0,$(DOCS)),--docs)

bench-tls: ## what mutual TLS to the engines costs the gateway, next to nginx (QUICK=1: shorter, DOCS=1)
	@$(SETUP) ''
	@PYTHONPATH=scripts $(RUN) -m benchmarks.gateway.tls $(if $(filter-out 0,$(QUICK)),--quick) \
		$(if $(filter-out 0,$(DOCS)),--docs)

bench-routing: ## routing policies next to other routers' on real and generated load (QUICK=1: under 10 minutes)
	@$(SETUP) ''
	@PYTHONPATH=scripts $(RUN) -m benchmarks.routing $(if $(filter-out 0,$(QUICK)),--quick) \
		$(if $(TARGETS),--targets '$(TARGETS)') $(if $(TRACE),--trace '$(TRACE)') $(if $(filter-out 0,$(DOCS)),--docs)

bench-scale: ## what membership and routing tables cost from 4 to 128 nodes (QUICK=1: shorter, DOCS=1)
	@$(SETUP) ''
	@PYTHONPATH=scripts $(RUN) -m benchmarks.scale $(if $(filter-out 0,$(QUICK)),--quick) \
		$(if $(filter-out 0,$(DOCS)),--docs)

bench-transport: ## tcp, udp, rabbitmq and kafka between nodes on a clean and a lossy link (QUICK=1: under 5 minutes, DOCS=1)
	@$(SETUP) rabbitmq,kafka
	@PYTHONPATH=scripts $(RUN) -m benchmarks.transport $(if $(filter-out 0,$(QUICK)),--quick) \
		$(if $(TARGETS),--protocols '$(TARGETS)') $(if $(filter-out 0,$(DOCS)),--docs)

bench-memory: ## memory of nodes and client while batches of 1 and 10 GB are done, which takes long (SIZE=500: MB, DOCS=1)
	@$(SETUP) ''
	@PYTHONPATH=scripts $(RUN) -m benchmarks.memory $(if $(SIZE),--size $(SIZE)) $(if $(filter-out 0,$(DOCS)),--docs)

bench-pooling: ## embeddings by a model of BERT-Large's shape, directly and through a cluster (QUICK=1: shorter, DOCS=1)
	@$(SETUP) demo,$(ENGINE)
	@PYTHONPATH=scripts $(RUN) -m benchmarks.pooling $(if $(filter-out 0,$(QUICK)),--quick) $(if $(filter-out 0,$(DOCS)),--docs)

bench-headline: ## a batch in a loop, by one engine, and by 1, 2 and 3 nodes: how many times as fast (QUICK=1, DOCS=1)
	@$(SETUP) demo,$(ENGINE)
	@$(RUN) scripts/get_model.py
	@PYTHONPATH=scripts $(RUN) -m benchmarks.headline $(if $(filter-out 0,$(QUICK)),--quick) \
		$(if $(NODES),--nodes $(NODES)) $(if $(filter-out 0,$(DOCS)),--docs)

chaos: ## break clusters under load and count what clients notice (QUICK=1: 3 trials of each fault, DOCS=1)
	@$(SETUP) ''
	@PYTHONPATH=scripts $(RUN) -m benchmarks.chaos $(if $(filter-out 0,$(QUICK)),--quick) \
		$(if $(FAULTS),--faults '$(FAULTS)') $(if $(PEERS),$(if $(filter 0,$(PEERS)),--no-peers,--peers)) $(if $(filter-out 0,$(DOCS)),--docs)

soak: ## random faults at 50 streams for SECONDS=600: wrong bytes, memory
	@$(SETUP) ''
	@PYTHONPATH=scripts $(RUN) -m benchmarks.chaos --soak $(SECONDS) $(if $(filter-out 0,$(DOCS)),--docs)

batch-chaos: ## a batch of 2,000 lines while a node is killed every 20 s, once with its disk (about 6 minutes)
	@$(SETUP) dev
	@$(RUN) -m pytest tests/scenarios/test_batches.py -m rare -s

test-docs: ## run every command that the documentation shows, page by page, on simulated nodes (minutes)
	@$(SETUP) dev
	@$(RUN) -m pytest tests/unit/docs tests/scenarios/test_documented_commands.py

docs: ## the documentation as a site in build/site; fails on a broken link or a page left out
	@$(SETUP) docs
	@NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict

lint: ## style and types, in an environment that `make setup` or a test made
	@$(RUN) -m ruff check
	@$(RUN) -m ruff format --check
	@$(RUN) -m mypy
	@MYPYPATH=scripts $(RUN) -m mypy scripts/*.py

format: ## bring the code into the project's style
	@$(SETUP) dev
	@$(RUN) -m ruff check --fix
	@$(RUN) -m ruff format

clean: ## remove the environment and what tools left; the model stays in the user's cache
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

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
# make bench-routing QUICK=1 takes under 5 minutes; TARGETS=affinity,smg measures those alone; TRACE=file replays
# another trace (Mooncake's format); DOCS=1 as above.
TRACE  ?=
# make chaos QUICK=1 takes about 10 minutes; FAULTS='engine,node p' tries those alone; PEERS=1 other routers too, PEERS=0
# not (by default in a full run only); SECONDS=600 is how long make soak lasts.
FAULTS ?=
PEERS  ?=
SECONDS ?= 600

SETUP = $(PYTHON) scripts/setup_env.py --venv $(VENV) --extras
RUN   = $(VENV)/bin/python

# Most tests wait most of their time, so several at once take a third of it; those that measure time run alone.
WITHOUT_VLLM = tests/unit tests/scenarios tests/conformance
QUICK_TESTS = \
	$(RUN) -m pytest $(WITHOUT_VLLM) -m 'not alone' --numprocesses 3 --dist loadscope || failed=1; \
	$(RUN) -m pytest $(WITHOUT_VLLM) -m alone || failed=1;

.DEFAULT_GOAL := help
.PHONY: help demo setup test test-quick bench-gateway bench-tls bench-routing chaos soak lint format clean

help: ## show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## three nodes with a real model on this machine, until Ctrl-C (ONCE=1: only the answers)
	@$(SETUP) demo,$(ENGINE)
	@$(RUN) scripts/get_model.py
	@$(RUN) scripts/demo.py $(if $(filter-out 0,$(ONCE)),--once) $(if $(PORT),--port $(PORT)) $(if $(NODES),--nodes $(NODES))

setup: ## the environment for developing, with vLLM and the demo's model
	@$(SETUP) dev,demo,$(ENGINE)
	@$(RUN) scripts/get_model.py

test: setup lint ## set up and run all tests, those with real vLLM too
	@failed=; $(QUICK_TESTS) \
	SHOAL_TEST_REAL=required $(RUN) -m pytest tests/real || failed=1; \
	test -z "$$failed"

test-quick: ## lint, types and all tests without vLLM (under 5 minutes)
	@$(SETUP) dev
	@$(MAKE) --no-print-directory lint
	@failed=; $(QUICK_TESTS) \
	test -z "$$failed"

bench-gateway: ## the gateway's cost next to nginx, haproxy and other routers (QUICK=1: under 3 minutes)
	@$(SETUP) ''
	@PYTHONPATH=scripts $(RUN) -m benchmarks.gateway $(if $(filter-out 0,$(QUICK)),--quick) \
		$(if $(TARGETS),--targets '$(TARGETS)') $(if $(filter-out 0,$(DOCS)),--docs)

bench-tls: ## what mutual TLS to the engines costs the gateway, next to nginx (QUICK=1: shorter, DOCS=1)
	@$(SETUP) ''
	@PYTHONPATH=scripts $(RUN) -m benchmarks.gateway.tls $(if $(filter-out 0,$(QUICK)),--quick) \
		$(if $(filter-out 0,$(DOCS)),--docs)

bench-routing: ## routing policies next to other routers' on real and generated load (QUICK=1: under 5 minutes)
	@$(SETUP) ''
	@PYTHONPATH=scripts $(RUN) -m benchmarks.routing $(if $(filter-out 0,$(QUICK)),--quick) \
		$(if $(TARGETS),--targets '$(TARGETS)') $(if $(TRACE),--trace '$(TRACE)') $(if $(filter-out 0,$(DOCS)),--docs)

chaos: ## break clusters under load and count what clients notice (QUICK=1: 3 trials of each fault, DOCS=1)
	@$(SETUP) ''
	@PYTHONPATH=scripts $(RUN) -m benchmarks.chaos $(if $(filter-out 0,$(QUICK)),--quick) \
		$(if $(FAULTS),--faults '$(FAULTS)') $(if $(PEERS),$(if $(filter 0,$(PEERS)),--no-peers,--peers)) $(if $(filter-out 0,$(DOCS)),--docs)

soak: ## random faults at 50 streams for SECONDS=600: wrong bytes, memory
	@$(SETUP) ''
	@PYTHONPATH=scripts $(RUN) -m benchmarks.chaos --soak $(SECONDS) $(if $(filter-out 0,$(DOCS)),--docs)

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

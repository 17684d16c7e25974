# Each verb sets up what it needs first.
.PHONY: setup check test nightly conformance demo bench docs simulations programs \
	format spelling types imports

VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/pytest
# Tests start hundreds of processes, which need not compile what another one has compiled.
unexport PYTHONDONTWRITEBYTECODE

setup: $(VENV)/ready

$(VENV)/ready: requirements/hashed/cpu.txt requirements/cpu-torch.txt pyproject.toml scripts/setup
	PYTHON="$(PYTHON)" scripts/setup

# Format, lint, spelling, types and imports, two at a time, and the quick unit tests.
check: setup
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target types imports spelling format
	$(PYTEST) -n auto --dist worksteal -m "not slow and not nightly" tests/unit tests/architecture

format:
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

spelling:
	$(BIN)/codespell

types:
	$(BIN)/mypy

imports:
	$(BIN)/lint-imports

# `check` and all other tests but the nightly ones, the real teacher through the whole line included.
test: programs check
	$(PYTEST) -n 2 --dist loadfile --durations=20 -m "slow and not nightly" \
		tests/e2e tests/fuzz tests/integration tests/unit
	@$(BIN)/python -m tests.fixtures.lanes report

# What is too long for each change: the soak for an hour, a million inputs for parsers, a server
# and stages that are ended at random moments, full disks, more families through every stage.
nightly: programs
	$(PYTEST) --durations=20 -m nightly tests

# What others wrote to try servers and clients with: llama.cpp, OpenAI, LangChain, LiteLLM, llm.
conformance: setup
	$(PYTEST) tests/conformance

# Distill a student for one job (examples/bank-triage), then serve student and teacher until Ctrl-C.
demo: setup
	scripts/demo

# Every benchmark that needs no data from elsewhere, one after another. Some take the runs of `make
# demo` and of `potstill run runs/general --preset general`.
bench: setup
	@for script in $(filter-out benchmarks/verdict/pandalm.py,$(wildcard benchmarks/*/[a-z]*.py)); do \
		$(BIN)/python $$script || exit 1; done

# The documentation as a site in build/docs/html, with every link checked.
docs: setup
	$(BIN)/python -m scripts.docs

# The tables of docs/explanation/verdict*.md: how often verdicts are wrong, and good students pass.
simulations: setup
	PYTHONPATH=. OMP_NUM_THREADS=1 $(BIN)/python benchmarks/verdict/simulations.py \
		--pages docs/explanation/*.md

# Programs that tests need, such as a browser, installed with apt-get where that is possible.
programs: setup
	@$(BIN)/python -m tests.fixtures.lanes install

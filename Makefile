# Six verbs. Each one sets up what it needs first.
.PHONY: setup check test conformance demo bench

VENV := .venv
BIN := $(VENV)/bin

setup: $(VENV)/ready

$(VENV)/ready: requirements/cpu.txt requirements/cpu-torch.txt pyproject.toml scripts/setup
	PYTHON="$(PYTHON)" scripts/setup

# Lint, types, imports and the quick unit tests: the fast lane.
check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -n auto --dist worksteal -m "not slow" tests/unit tests/architecture

# Everything, the real teacher through the whole line included.
test: check
	$(BIN)/pytest -n auto --dist worksteal -m slow tests/unit
	$(BIN)/pytest tests/integration tests/e2e

# What others wrote to try servers and clients with: llama.cpp, OpenAI, LangChain, LiteLLM, llm.
conformance: setup
	$(BIN)/pytest tests/conformance

# Distil the embedded teacher, then serve student and teacher until Ctrl-C.
demo: setup
	$(BIN)/potstill run runs/demo --preset demo
	$(BIN)/potstill serve runs/demo

bench: setup
	@for script in benchmarks/*/[a-z]*.py; do $(BIN)/python $$script || exit 1; done

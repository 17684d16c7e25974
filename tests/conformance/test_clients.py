"""Clients of other projects, each with its own API, against a served SmolLM2."""

import json
import shutil
from pathlib import Path

from tests.conformance.conftest import run

HERE = Path(__file__).parent
NODE_CLIENT = "openai@6.49.0"
LLM_MODEL = """\
- model_id: served
  model_name: student
  api_base: {url}
  supports_schema: true
"""


def test_the_official_node_client(server, node_packages):
    directory = node_packages(NODE_CLIENT)
    shutil.copy(HERE / "openai_client.mjs", directory)
    run("node", "openai_client.mjs", server.url, cwd=directory)


def test_anthropics_client(server, python):
    run(python, HERE / "anthropic_client.py", server.root_url)


def test_litellm(server, python):
    # It would look for prices on the web otherwise.
    run(python, HERE / "litellm_client.py", server.url, LITELLM_LOCAL_MODEL_COST_MAP="True")


def test_llm_on_the_command_line(server, python, tmp_path):
    (tmp_path / "extra-openai-models.yaml").write_text(LLM_MODEL.format(url=server.url))

    def ask(*arguments: str) -> str:
        options = ["-m", "served", "--key", "none", "-o", "temperature", "0"]
        options += ["-o", "max_tokens", "40"]
        return run(python, "-m", "llm", *arguments, *options, LLM_USER_PATH=str(tmp_path))

    whole = ask("What is 2+2?", "--no-stream")
    assert "4" in whole
    assert ask("What is 2+2?") == whole
    schema = {"type": "object", "properties": {"yes": {"type": "boolean"}}, "required": ["yes"]}
    answer = json.loads(ask("Is Paris in France?", "--schema", json.dumps(schema)))
    assert isinstance(answer["yes"], bool)


def test_langchains_standard_tests(run_suite, server, tmp_path):
    shutil.copy(HERE / "langchain_standard.py", tmp_path / "test_langchain.py")
    scope = "asyncio_default_test_loop_scope=session"
    outcomes = run_suite(tmp_path, "--tb=short", "-o", scope, BASE_URL=server.url)
    assert not outcomes.failed
    assert len(outcomes.passed) >= 36

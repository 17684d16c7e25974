"""Clients of other projects, each with its own API, against a served SmolLM2."""

import json
import shutil
from pathlib import Path

import pytest

from tests.conformance.conftest import run

HERE = Path(__file__).parent
NODE_CLIENT = "openai@6.49.0"
VERCEL = ("ai@7.0.173", "@ai-sdk/openai-compatible@3.0.92", "zod@4.6.7")
LM_EVAL_TASK = """\
task: sums
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: generate_until
doc_to_text: question
doc_to_target: answer
generation_kwargs: {{until: ["\\n\\n"], max_gen_toks: 40, do_sample: false}}
metric_list: [{{metric: exact_match}}]
"""
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


def test_the_vercel_ai_sdk(server, node_packages):
    directory = node_packages(*VERCEL)
    shutil.copy(HERE / "vercel_client.mjs", directory)
    run("node", "vercel_client.mjs", server.url, cwd=directory)


@pytest.mark.parametrize("client", ["agents", "pydantic_ai"])
def test_agents(server, python, client):
    run(python, HERE / f"{client}_client.py", server.url)


@pytest.mark.parametrize("client", ["instructor", "llama_index"])
def test_clients_of_an_older_openai(server, older_python, client):
    # LlamaIndex would fetch a tokenizer's data from the web otherwise.
    run(older_python, HERE / f"{client}_client.py", server.url)


def test_lm_eval(server, older_python, tmp_path):
    rows = [{"question": f"What is {n}+{n}?", "answer": str(2 * n)} for n in (1, 2)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "sums.yaml").write_text(LM_EVAL_TASK.format(rows=tmp_path / "rows.jsonl"))
    address = f"model=student,base_url={server.url}/chat/completions,num_concurrent=2"
    run(
        *(older_python, "-m", "lm_eval", "run", "--tasks", "sums", "--include_path", tmp_path),
        *("--model", "local-chat-completions", "--model_args", address, "--apply_chat_template"),
        *("--output_path", tmp_path / "results", "--log_samples"),
        HF_HUB_OFFLINE="1",
        HF_HOME=str(tmp_path / "cache"),
    )
    (samples,) = (tmp_path / "results").rglob("samples_sums_*.jsonl")
    answers = [json.loads(line)["resps"][0][0] for line in samples.read_text().splitlines()]
    assert "4" in answers[1]
    assert all(answers)


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

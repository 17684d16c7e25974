"""The tests of llama.cpp's own server, from llama-cpp-python's source distribution, on our URL."""

import shutil
from pathlib import Path
from urllib.parse import urlsplit

import pytest

FILES = {"chat_completion": 256, "completion": 256, "tokenize": 256, "compat_oai_responses": 256,
         "tool_call": 512}  # fmt: skip
"""Their files, with the context of one request, in tokens: in the last file they ask for more."""

OF_THEIR_MODEL = {
    # What stories260K writes.
    "test_chat_completion", "test_chat_completion_stream",
    "test_chat_completion_with_openai_library", "test_responses_with_openai_library",
    "test_completion", "test_completion_stream", "test_completion_with_openai_library",
    "test_completion_stream_with_openai_library",
    # How many tokens its tokenizer makes, and that it begins with <s>.
    "test_chat_completion_cached_tokens", "test_completion_prompt_cache",
    "test_nocache_long_input_prompt", "test_tokenize_with_bos", "test_return_progress[64-4-False]",
    "test_completion_response_fields[I believe the meaning of life is-32-response_fields1]",
}  # fmt: skip
OF_THEIR_COMMAND_LINE = {
    # Another chat template, and all answers verbose.
    "test_chat_template", "test_chat_template_assistant_prefill", "test_apply_chat_template",
    "test_chat_template_continue_final_message_vllm_compat",
}  # fmt: skip
NUM_OTHERS = {"chat_completion": 32, "completion": 29, "tokenize": 2, "compat_oai_responses": 2,
              "tool_call": 6}  # fmt: skip


def prepared(suite: Path, directory: Path) -> Path:
    """Copy the suite; leave out that it downloads models, which only its own server needs."""
    shutil.copytree(suite, directory)
    conftest = directory / "conftest.py"
    conftest.write_text(conftest.read_text().replace("ServerPreset.load_all()", "pass"))
    (directory / "wget.py").touch()
    return directory


@pytest.mark.parametrize("name", FILES)
def test_what_is_not_of_their_model_passes(run_suite, sources, tiny_server, tmp_path, name):
    tests = sources("llama-cpp-python") / "vendor" / "llama.cpp" / "tools" / "server" / "tests"
    outcomes = run_suite(
        prepared(tests, tmp_path / "tests"),
        f"unit/test_{name}.py",
        "-m",
        "not slow",
        DEBUG_EXTERNAL="1",
        PORT=str(urlsplit(tiny_server(FILES[name]).url).port),
    )
    excepted = OF_THEIR_MODEL | OF_THEIR_COMMAND_LINE
    failed = {
        test: problem
        for test, problem in outcomes.failed.items()
        if not {test, test.partition("[")[0]} & excepted
    }
    assert not failed
    assert len(outcomes.passed) >= NUM_OTHERS[name]

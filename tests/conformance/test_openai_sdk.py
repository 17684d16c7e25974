"""The official Python client's own resource tests, from its source distribution, on our URL."""

import pytest

FILES = {
    "chat/test_completions.py": ("create", 16),
    "test_completions.py": ("create", 16),
    "test_embeddings.py": ("create", 5),
    "test_models.py": ("not delete", 14),
}
"""Files, which of their tests, and how many pass. Nothing is stored that could be got or deleted;
responses they ask for without an input."""

ANSWERED_AS_ASKED = {
    "test_embeddings.py": {
        "test_method_create[strict]",
        "test_raw_response_create[strict]",
        "test_streaming_response_create[strict]",
    }
}
"""By default the client requests base64 and decodes it; validating strictly, it takes
lists only. These pass on servers that ignore `encoding_format`, where the Node client gets noise,
since it decodes whatever comes."""


@pytest.mark.parametrize("name", FILES)
def test_the_clients_own_tests_pass(run_suite, sources, tiny_server, name):
    chosen, num_passing = FILES[name]
    outcomes = run_suite(
        sources("openai"),
        *("-c", "/dev/null", "--rootdir=."),
        f"tests/api_resources/{name}",
        *("-k", f"({chosen}) and not Async"),
        TEST_API_BASE_URL=tiny_server(256).url,
    )
    assert outcomes.failed.keys() == ANSWERED_AS_ASKED.get(name, set()), outcomes.failed
    assert len(outcomes.passed) == num_passing

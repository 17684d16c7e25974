"""OpenAI's parameters and their support here: the one table, which docs/serving.md shows.

A test compares the names with the official client's, and the claims with the server's behavior.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import NamedTuple

from serve.wire.shared import MAX_BIASES


class Support(StrEnum):
    """How a parameter is handled."""

    SUPPORTED = "supported"
    IGNORED = "ignored"
    """The parameter has no effect."""
    REFUSED = "refused"
    """Answered with 400: without it, the answer would not be what was asked for."""


class Parameter(NamedTuple):
    """A parameter of an endpoint."""

    name: str
    support: Support
    note: str = ""


def _table(supported: str, notes: dict[str, str], ignored: str, refused: str) -> list[Parameter]:
    parameters = [
        Parameter(name, support, notes.get(name, ""))
        for support, names in (
            (Support.SUPPORTED, supported),
            (Support.IGNORED, ignored),
            (Support.REFUSED, refused),
        )
        for name in names.split()
    ]
    return sorted(parameters)


_USER = "identifies users of an experiment; kept by `serve.record_path`"
_SHARED_NOTES = {
    "logit_bias": "keys may also be text, and the value a list of pairs, as in llama.cpp's server; "
    f"at most {MAX_BIASES} keys",
    "seed": "choice i of several has seed + i; any integer",
    "stop": "up to 16 strings",
    "stream_options": "`include_usage`",
    "temperature": "1 by default, or as `serve.sampling` says",
    "metadata": "kept by `serve.record_path`",
    "store": "nothing is stored",
    "service_tier": "there is only one",
    "prompt_cache_key": "shared prefixes are found without it",
    "moderation": "nothing is moderated",
}

CHAT = _table(
    supported="""frequency_penalty logit_bias logprobs max_completion_tokens max_tokens messages
    modalities model n parallel_tool_calls presence_penalty response_format seed stop stream
    stream_options temperature tool_choice tools top_logprobs top_p""",
    ignored="""audio metadata moderation prediction prompt_cache_key prompt_cache_options
    prompt_cache_retention reasoning_effort safety_identifier service_tier store user verbosity
    web_search_options""",
    refused="function_call functions",
    notes=_SHARED_NOTES
    | {
        "messages": "text; images, audio and files are refused, URLs never fetched",
        "modalities": '`["text"]`; others are refused',
        "audio": "no speech is generated",
        "functions": 'unless `function_call` is "none"; use `tools`',
        "function_call": 'unless it is "none"; use `tool_choice`',
        "prediction": "it only saves time",
        "response_format": "`text`, `json_object`, `json_schema`, bound by a grammar",
        "tools": "functions; bound by a grammar where a call is required",
        "tool_choice": "`allowed_tools` and custom tools are refused",
        "parallel_tool_calls": "false leaves only the first call",
        "reasoning_effort": "use `chat_template_kwargs`",
        "safety_identifier": _USER,
        "user": _USER,
        "web_search_options": "no search is made",
    },
)
COMPLETIONS = _table(
    supported="""best_of echo frequency_penalty logit_bias logprobs max_tokens model n
    presence_penalty prompt seed stop stream stream_options temperature top_p""",
    ignored="suffix user",
    refused="",
    notes=_SHARED_NOTES
    | {
        "best_of": "the highest mean log-probability; not in a stream",
        "logprobs": "up to 20; with `echo` the prompt's too",
        "prompt": "text, token ids, or a list of either",
        "suffix": "what precedes it is completed",
    },
)
EMBEDDINGS = _table(
    supported="dimensions encoding_format input model",
    ignored="user",
    refused="",
    notes={
        "dimensions": "the first values, made unit length again",
        "input": "text, token ids, or a list of either",
    },
)
RESPONSES = _table(
    supported="""input instructions max_output_tokens model parallel_tool_calls stream temperature
    text tool_choice tools top_p""",
    ignored="""access_programs background_options context_management image include max_tool_calls
    metadata moderation prompt_cache_key prompt_cache_options prompt_cache_retention reasoning
    safety_identifier service_tier store stream_options top_logprobs truncation user""",
    refused="background conversation previous_response_id prompt",
    notes=_SHARED_NOTES
    | {
        "input": "text, messages of text, function calls and their outputs",
        "safety_identifier": _USER,
        "user": _USER,
        "metadata": "returned",
        "stream_options": "usage is always reported",
        "text": "`format`, as `response_format`",
        "tools": "functions; others are refused",
        "truncation": "a prompt that is too long is refused",
    },
)

TABLES = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": COMPLETIONS,
    "/v1/embeddings": EMBEDDINGS,
    "/v1/responses": RESPONSES,
}


def as_markdown() -> str:
    """Return the tables as docs/serving.md shows them."""
    return "\n".join(_lines())


def _lines() -> Iterator[str]:
    for path, table in TABLES.items():
        yield f"### {path}"
        yield ""
        yield "| parameter | | note |"
        yield "|---|---|---|"
        for parameter in table:
            yield f"| `{parameter.name}` | {parameter.support} | {parameter.note} |"
        yield ""

"""Runs and data sets of LangSmith: `inputs` and `outputs`.

Source: `Run` and `Example` in langsmith.schemas 0.x; bulk exports have the same keys, with JSON
text in their columns.
"""

from __future__ import annotations

from collections.abc import Iterable

from generate.sources.formats.langchain import generations, plain_message, plain_messages
from generate.sources.formats.openai_chat import chat_answers
from generate.sources.formats.reader import Reader, Row, Trace, error_text, mapping, model_name
from generate.sources.messages import parsed, to_message, to_messages
from generate.sources.rows import RowError
from potstill.schema import Message

LLM = "llm"
"""Kind of runs that are requests to a model; chains, tools and others are skipped."""


def _read(row: Row) -> Iterable[Trace]:
    if row.get("run_type", LLM) != LLM:
        return
    inputs = mapping(parsed(row.get("inputs")))
    given = inputs.get("messages") or inputs.get("prompts") or inputs.get("input")
    if isinstance(given, str):
        given = [given]
    if not isinstance(given, list):
        raise RowError(f"inputs with keys {', '.join(inputs) or 'none'}")
    messages = [
        {"role": "user", "content": one} if isinstance(one, str) else one
        for one in _as_list(plain_messages(given))
    ]
    called = mapping(mapping(parsed(row.get("extra"))).get("invocation_params"))
    yield Trace(
        to_messages(messages),
        _answers(mapping(parsed(row.get("outputs")))),
        inputs.get("tools") or called.get("tools"),
        model_name(inputs.get("model")) or model_name(called.get("model")),
        error_text(row.get("error")),
    )


def _answers(outputs: Row) -> tuple[Message, ...]:
    if "choices" in outputs:
        return chat_answers(outputs)
    if "generations" in outputs:
        return tuple(map(to_message, generations(outputs)))
    found = outputs.get("message") or outputs.get("output") or outputs.get("messages")
    if found is None and "role" in outputs:
        found = outputs
    if isinstance(found, str):
        found = {"role": "assistant", "content": found}
    if isinstance(found, list):
        found = found[-1] if found else None
    return () if found is None else (to_message(plain_message(found)),)


def _as_list(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


READER = Reader(
    "LangSmith",
    lambda row: "inputs" in row and ("run_type" in row or "outputs" in row),
    _read,
    frozenset({"run_type", "inputs", "outputs", "extra", "error"}),
)

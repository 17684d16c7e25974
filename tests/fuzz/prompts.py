"""What becomes a prompt, and what an answer is read as: bodies' JSON, messages, calls, thinking."""

from __future__ import annotations

import json
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.fuzz.harness import SEEDS, Take, Target
from tests.fuzz.mutation import JsonMutator, WordMutator

TURN = "<|im_start|>"
"""What opens a turn in the template of the tiny model."""
WORD = r"</?\w+>|<\|\w+\|>|\[/?[A-Z_]+\]|\w+|[\"{}\[\]:,\\]"
WORDS = (
    "<tool_call>", "</tool_call>", "[TOOL_CALLS]", "<|python_tag|>", "<think>", "</think>", "{",
    "}", "[", "]", '"', ":", ",", ";", "\\", "\n", '{"name": "f", "arguments": {}}', '"name"',
    '"arguments"', '"parameters"', '{"arguments": {"a": "\\ud800"}, "name": "f"}', "NaN", "1e999",
    '{"name": "', '", "arguments": {', "[" * 400, "1" * 5000, "<tool_", "é",
)  # fmt: skip


def _prepare_json_body() -> Take:
    from serve.api.json_body import MAX_DEPTH, check_json
    from serve.errors import InvalidRequestError

    def take(data: bytes) -> None:
        try:
            check_json(data)
        except InvalidRequestError:
            return
        try:
            value = json.loads(data)
        except ValueError:
            return
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
        level, depth = [value], 0
        while level:
            level = [inner for one in level for inner in _inside(one)]
            depth += bool(level)
        assert depth <= MAX_DEPTH

    return take


def _inside(value: Any) -> list[Any]:
    """Return the objects and lists in an object or a list."""
    values = value.values() if isinstance(value, dict) else value
    return [one for one in values if isinstance(one, dict | list)] if _is_nested(value) else []


def _is_nested(value: Any) -> bool:
    return isinstance(value, dict | list)


def _prepare_template() -> Take:
    from pydantic import ValidationError

    from potstill.errors import PotstillError
    from serve.api.http_errors import status_of
    from serve.api.json_body import check_json
    from serve.backends.local.preparation import dialogue_of
    from serve.chat.prompt import ChatPrompt
    from serve.engine.model import GgufModel
    from serve.wire.chat import ChatRequest
    from tests.fixtures.tiny_gguf import write_tiny_gguf

    path = Path(tempfile.mkdtemp()) / "tiny.gguf"
    write_tiny_gguf(path)
    model = GgufModel(path)
    prompt = ChatPrompt(model)
    begin_id = model.control_tokens[TURN]

    def take(data: bytes) -> None:
        try:
            check_json(data)
            request = ChatRequest.model_validate_json(data)
            request.check()
            dialogue = dialogue_of(request)
            token_ids = prompt.token_ids(dialogue)
        except ValidationError:
            return
        except PotstillError as error:
            if status_of(error) >= 500:
                raise
            return
        # Only the template opens turns: one a message, or all results that follow each other, the
        # system's, and the answer's.
        roles = [one.role for one in request.messages]
        num_merged = sum(pair == ("tool", "tool") for pair in pairwise(roles))
        num_turns = len(roles) - num_merged + (not dialogue.continue_final)
        assert token_ids.count(begin_id) in (num_turns, num_turns + 1)

    return take


def _prepare_answer() -> Take:
    from potstill.thinking import FORMATS, ThinkParser
    from potstill.tools.formats import HERMES, LLAMA, MISTRAL
    from potstill.tools.parsing import ToolCallParser, split_answer

    tool_formats = (HERMES, LLAMA, MISTRAL)

    def thought(number: int, pieces: list[str]) -> list[str]:
        parser = ThinkParser(FORMATS[number % len(FORMATS)], opened=number % 2 == 0)
        written = [one for piece in pieces for one in parser.push(piece)] + parser.finish()
        return [
            "".join(one.text for one in written if one.is_thinking == wanted)
            for wanted in (True, False)
        ]

    def take(data: bytes) -> None:
        # The first byte names the formats and how the answer is cut.
        number, text = data[:1][0] if data else 0, data[1:].decode(errors="replace")
        size = 1 + number % 7
        pieces = [text[start : start + size] for start in range(0, len(text), size)]
        tool_format = tool_formats[number % len(tool_formats)]
        whole = split_answer(tool_format, text)
        assert split_answer(tool_format, *pieces) == whole
        json.dumps(whole, ensure_ascii=False).encode()
        parser = ToolCallParser(tool_format)
        parser.push(text)
        parser.finish(is_cut=True)
        assert thought(number, [text]) == thought(number, pieces)

    return take


TARGETS = [
    Target(
        "json_body",
        _prepare_json_body,
        nightly_runs=300_000,
        mutate=JsonMutator([SEEDS / "json_body"]),
    ),
    Target(
        "template",
        _prepare_template,
        nightly_runs=20_000,
        short_runs=200,
        mutate=JsonMutator([SEEDS / "template"]),
    ),
    Target(
        "answer",
        _prepare_answer,
        nightly_runs=50_000,
        mutate=WordMutator(WORD, WORDS),
        max_bytes=1024,
    ),
]

"""How many tokens prompts have, for the context that models are served with.

In: questions or requests, a checkpoint's or a file's tokenizer. Out: numbers of tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

from jinja2 import TemplateError

from compare.answers.questions import Question
from compare.answers.requests import Ask, Request
from compare.answers.serving import FileSide, Sides
from compare.measurement.run_files import RunFiles
from potstill.chat import render_prompt
from potstill.errors import ArtifactError

TEMPLATE_TOKENS = 16
"""Allowance for what a chat template writes around a message."""
TOOLS_TEMPLATE_TOKENS = 256
"""Allowance for what a chat template writes around tools."""


def prompt_lengths(questions: Sequence[Question], student_dir: Path | None) -> dict[str, int]:
    """Return the number of tokens of prompts by their id, the larger of both models.

    Args:
        student_dir: The checkpoint of a student with other tokens than the teacher's; None when
            they have the same. Prompts that its chat template rejects are left out.

    Raises:
        ArtifactError: It rejects all.
    """
    lengths = {one.prompt_id: _teachers_length(one) for one in questions}
    if student_dir is None:
        return lengths
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(student_dir)
    taken = {}
    for one in questions:
        with suppress(TemplateError):
            num_tokens = len(render_prompt(tokenizer, one.messages))
            taken[one.prompt_id] = max(lengths[one.prompt_id], num_tokens)
    if not taken:
        raise ArtifactError(
            "the student's chat template rejects every held-out prompt",
            where=student_dir,
            expected="at least one prompt that both chat templates render",
            found=f"{len(questions)} rejected",
        )
    return taken


def longest_request(requests: Iterable[Request], gguf_path: Path) -> int:
    """Return the number of tokens of the longest request, as a GGUF file reads it.

    Raises:
        ArtifactError: llama.cpp cannot load the file.
    """
    from potstill.llama.model import LlamaModel

    with LlamaModel(gguf_path, vocabulary_only=True) as model:

        @cache
        def num_tokens(text: str) -> int:
            return len(model.tokenize(text, parse_special=False))

        def length(request: Request) -> int:
            messages = sum(
                num_tokens(one.content) + num_tokens(one.tool_calls or "") + TEMPLATE_TOKENS
                for one in request.messages
            )
            tools = num_tokens(request.tools) + TOOLS_TEMPLATE_TOKENS if request.tools else 0
            return messages + tools + TEMPLATE_TOKENS

        return max(map(length, requests))


def longest_asked(
    run: RunFiles | None,
    sides: Sides,
    asks: Mapping[str, Ask],
    questions: Mapping[str, Sequence[Question]],
) -> int:
    """Return the tokens of the longest request to a file, by role; 0 without files."""
    requests: dict[Path, list[Request]] = {}
    for role, side in sides.items():
        if isinstance(side, FileSide):
            path = side.path or (run and run.path_of(side.name))
            if path:
                requests.setdefault(path, []).extend(map(asks[role], questions[role]))
    lengths = (longest_request(several, path) for path, several in requests.items())
    return max(lengths, default=0)


def _teachers_length(question: Question) -> int:
    if question.prompt_token_ids is not None:
        return len(question.prompt_token_ids)
    # A prompt has at most as many tokens as bytes, except for the template's between messages.
    num_bytes = sum(len(message.content.encode()) for message in question.messages)
    return num_bytes + TEMPLATE_TOKENS * (len(question.messages) + 1)

"""Thinking: the text in which a reasoning model prepares its answer, apart from the answer itself.

In: a chat template, and what a model wrote after it. Out: thinking and answer, whole or as they
arrive, and templates whose switch for thinking is set.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from potstill.templates import compile_template, render_template, undeclared_variables

SWITCHES = ("enable_thinking", "thinking")
"""Variables by which templates let a model think or not."""
TAIL_TOKENS = 16
"""Enough of a prompt to see whether it ends inside the thinking."""


@dataclass(frozen=True)
class ThinkFormat:
    """The tags of a family of models."""

    opening: str
    closing: str
    answer_opening: str = ""
    """Text before an answer without thinking, where there is one."""

    @property
    def tags(self) -> tuple[str, ...]:
        """All tags."""
        return tuple(filter(None, (self.opening, self.closing, self.answer_opening)))

    def is_opened_by(self, prompt: str) -> bool:
        """Return whether a prompt, or its end, stops inside the thinking."""
        return prompt.rstrip().endswith(self.opening.strip())

    def is_opened_by_tokens(
        self, token_ids: Sequence[int], decode: Callable[[list[int]], str]
    ) -> bool:
        """Return whether a prompt stops inside the thinking; only its end is decoded."""
        return self.is_opened_by(decode(list(token_ids[-TAIL_TOKENS:])))

    @staticmethod
    def of_template(template: str) -> ThinkFormat | None:
        """Return the format whose tags a chat template writes; None if it writes none."""
        escaped = template.replace("\\n", "\n")
        shown = (one for one in FORMATS if one.opening in escaped or one.closing in escaped)
        return next(shown, None)

    @staticmethod
    def of_vocabulary(texts: Collection[str]) -> ThinkFormat | None:
        """Return the format whose end of thinking is a token; None if there is none."""
        return next((one for one in FORMATS if one.closing in texts), None)


FORMATS = (
    ThinkFormat("<think>", "</think>"),
    ThinkFormat("[THINK]", "[/THINK]"),
    ThinkFormat("<seed:think>", "</seed:think>"),
    ThinkFormat("<|START_THINKING|>", "<|END_THINKING|>"),
    ThinkFormat("<|channel>thought\n", "<channel|>"),
    ThinkFormat(
        "<|channel|>analysis<|message|>",
        "<|end|><|start|>assistant<|channel|>final<|message|>",
        "<|channel|>final<|message|>",
    ),
    ThinkFormat("<|inner_prefix|>", "<|inner_suffix|>"),
)
"""Qwen, DeepSeek, GLM and many others; Mistral; Seed-OSS; Command; Gemma 4; gpt-oss; Apertus.

Source: models/templates of llama.cpp 0c1e570.
"""


@dataclass(frozen=True)
class Written:
    """A piece of what a model wrote."""

    text: str
    is_thinking: bool


class ThinkParser:
    """Splits what a model writes into thinking and answer. One parser per answer.

    Tags are in neither part, also where they stand alone.

    Args:
        opened: Whether the prompt ends inside the thinking.
    """

    def __init__(self, think_format: ThinkFormat, *, opened: bool) -> None:
        self._format = think_format
        self._buffer = ""
        self._state = self._thinking if opened else self._start
        self._trims = opened
        """Whether white space before the next text is left out."""

    def push(self, text: str) -> list[Written]:
        """Add text; return the pieces that are certain now."""
        self._buffer += text
        pieces: list[Written] = []
        while self._state(pieces):
            pass
        return pieces

    def finish(self) -> list[Written]:
        """Return what was held back, at the end of the answer."""
        rest, self._buffer = self._buffer, ""
        is_thinking = self._state == self._thinking
        if is_thinking or self._trims:
            rest = rest.strip() if self._trims else rest.rstrip()
        return [Written(rest, is_thinking)] if rest else []

    # States: each consumes part of the buffer and returns whether to go on with the rest.

    def _start(self, _pieces: list[Written]) -> bool:
        """Decide whether thinking comes first."""
        rest = self._buffer.lstrip()
        if not rest or any(tag.startswith(rest) and tag != rest for tag in self._format.tags):
            return False
        if not rest.startswith(self._format.tags):
            self._state = self._answer
            return True
        self._buffer = rest
        return self._cross(0)

    def _thinking(self, pieces: list[Written]) -> bool:
        return self._until(pieces, (self._format.closing,), is_thinking=True)

    def _answer(self, pieces: list[Written]) -> bool:
        return self._until(pieces, self._format.tags, is_thinking=False)

    def _until(self, pieces: list[Written], tags: tuple[str, ...], *, is_thinking: bool) -> bool:
        """Pass text on up to the first of some tags."""
        if self._trims:
            self._buffer = self._buffer.lstrip()
        found = [at for tag in tags if (at := self._buffer.find(tag)) >= 0]
        end = min(found, default=len(self._buffer) - _num_uncertain(self._buffer, tags))
        if is_thinking:  # White space before the end of thinking belongs to the template.
            end = len(self._buffer[:end].rstrip())
        if text := self._buffer[:end]:
            pieces.append(Written(text, is_thinking))
            self._trims = False
        self._buffer = self._buffer[end:]
        return bool(found) and self._cross(len(self._buffer) - len(self._buffer.lstrip()))

    def _cross(self, start: int) -> bool:
        """Step over the tag at a place of the buffer."""
        rest = self._buffer[start:]
        tag = max((one for one in self._format.tags if rest.startswith(one)), key=len)
        was_answer = self._state == self._answer
        self._buffer = rest.removeprefix(tag)
        self._state = self._thinking if tag == self._format.opening else self._answer
        self._trims = not (was_answer and self._state == self._answer)
        return True


def _num_uncertain(text: str, tags: tuple[str, ...]) -> int:
    """Return the length of the longest end of a text that may become a tag."""
    longest = max(map(len, tags)) - 1
    for length in range(min(longest, len(text)), 0, -1):
        if any(tag.startswith(text[-length:]) for tag in tags):
            return length
    return 0


def split_thinking(
    think_format: ThinkFormat, text: str, *, opened: bool = False
) -> tuple[str | None, str]:
    """Return the thinking of a whole answer, and the answer without it.

    Args:
        opened: Whether the prompt ended inside the thinking; also taken so where the text ends
            thinking that it did not begin.

    Returns:
        None without thinking; an answer that ends inside it is empty.
    """
    before, found, _ = text.partition(think_format.closing)
    opened |= bool(found) and not any(tag in before for tag in think_format.tags)
    parser = ThinkParser(think_format, opened=opened)
    thinking, answer = joined([*parser.push(text), *parser.finish()])
    return thinking or None, answer


def joined(pieces: Sequence[Written]) -> tuple[str, str]:
    """Return the thinking of pieces, and the rest of their text."""
    thinking, rest = (
        "".join(piece.text for piece in pieces if piece.is_thinking == wanted)
        for wanted in (True, False)
    )
    return thinking, rest


def split_any(text: str) -> tuple[str | None, str]:
    """Return thinking in any of the formats, and the answer without it.

    For what servers that do not separate both return; only tags count, whatever the model.
    """
    for think_format in FORMATS:
        if text.lstrip().startswith(think_format.opening) or think_format.closing in text:
            return split_thinking(think_format, text)
    return None, text


def answer_of(text: str) -> str:
    """Return an answer without thinking in any of the formats."""
    return split_any(text)[1]


def without_thinking(template: str) -> str:
    """Return a chat template whose prompts leave no room for thinking.

    Its switch is off; where the prompt then still ends inside the thinking, it is ended at once.

    Raises:
        jinja2.TemplateError: The template cannot be rendered.
    """
    think_format = ThinkFormat.of_template(template)
    if think_format is None:
        return template
    plain = switched(template, on=False)
    text = render_template(compile_template(plain), [{"role": "user", "content": "Hi"}], {})
    if think_format.is_opened_by(text):
        ending = f"\n{think_format.closing}\n\n"
    elif text.rstrip().endswith(think_format.closing):
        return plain
    else:
        ending = think_format.answer_opening
    if not ending:
        return plain
    return f"{plain}{{%- if add_generation_prompt %}}{{{{- {json.dumps(ending)} }}}}{{%- endif %}}"


def student_template(template: str, student: str, teacher_thinks: bool | None) -> str:
    """Return the chat template of a student of a teacher with this one.

    Args:
        student: As `generate.thinking.student`.
        teacher_thinks: As `generate.thinking.teacher`.

    Raises:
        jinja2.TemplateError: The template cannot be rendered.
    """
    if student == "answer":
        return without_thinking(template)
    if student == "both" or teacher_thinks is None:
        return template
    return switched(template, on=teacher_thinks)


def has_switch(template: str) -> bool:
    """Return whether a chat template lets a model think or not."""
    return any(name in undeclared_variables(template) for name in SWITCHES)


def switched(template: str, *, on: bool) -> str:
    """Return a chat template with its switch set, whatever a caller sets; one without as it is.

    Raises:
        jinja2.TemplateError: It is not a template.
    """
    names = [name for name in SWITCHES if name in undeclared_variables(template)]
    value = "true" if on else "false"
    return "".join(f"{{%- set {name} = {value} %}}" for name in names) + template

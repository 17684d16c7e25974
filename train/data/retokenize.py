"""Conversations in the tokens of a student that has a tokenizer of its own.

In: the messages of stored conversations, the student's tokenizer and its chat template. Out: record
batches as the cache holds them, without the teacher's distributions, which are over other tokens.
Every answer of the teacher is a turn: from the end of the generation prompt to the end-of-turn
token, so that the student learns to stop.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
from jinja2 import TemplateError

from potstill.chat import control_texts, render_text, with_template
from potstill.distributions import token_id_type
from potstill.errors import TrainingError
from potstill.schema import Message, Split
from potstill.tables import conversation_paths, read_conversation_batches
from potstill.thinking import without_thinking

logger = logging.getLogger(__name__)

TEXT_COLUMNS = ["conversation_id", "prompt", "completion", "tools", "turns"]
UNDECODED = "\N{REPLACEMENT CHARACTER}"
"""The end of an answer that was cut off inside a character."""

Spans = list[tuple[int, int]]
"""Start and length of each answer, in tokens."""


@dataclass(frozen=True)
class RenderedConversation:
    """A conversation's text and, for each answer, the text up to its start and up to its end."""

    whole: str
    answers: tuple[tuple[str, str], ...]

    @property
    def texts(self) -> list[str]:
        """All texts in one list."""
        return [self.whole, *(text for answer in self.answers for text in answer)]


class LeftOutError(Exception):
    """One conversation cannot be used; the message is the reason."""


class Retokenizer:
    """Tokenizes conversations with a student's own tokenizer and chat template.

    Thinking is left out where the template does not take it.

    Args:
        both: Whether answers without thinking stand after prompts that leave no room for any.
    """

    def __init__(self, tokenizer: Any, checkpoint_dir: Path, *, both: bool = False) -> None:  # noqa: ANN401
        self._tokenizer = self._bare = tokenizer
        if both:
            self._bare = with_template(tokenizer, without_thinking(tokenizer.chat_template))
        self._takes_thinking = "reasoning_content" in tokenizer.chat_template
        self._checkpoint_dir = checkpoint_dir
        controls = sorted(control_texts(tokenizer), key=len, reverse=True)
        self._controls = re.compile("|".join(map(re.escape, controls)) or "(?!)")
        self._schema = pa.schema(
            [
                ("conversation_id", pa.string()),
                ("token_ids", pa.list_(token_id_type(len(tokenizer)))),
                ("turn_starts", pa.list_(pa.int32())),
                ("turn_lengths", pa.list_(pa.int32())),
            ]
        )

    def batches(self, conversations_dir: Path, split: Split) -> Iterator[pa.RecordBatch]:
        """Yield a split's conversations in the student's tokens; log at the end what is left out.

        Raises:
            ArtifactError: A file is damaged.
            TrainingError: The chat template rewrites earlier turns or does not end answers, or no
                conversation is left.
        """
        stored = (
            batch.to_pylist()
            for path in conversation_paths(conversations_dir, split)
            for batch in read_conversation_batches(path, TEXT_COLUMNS)
        )
        return self.batches_of(stored, split)

    def batches_of(
        self, stored: Iterable[Sequence[dict[str, Any]]], split: Split
    ) -> Iterator[pa.RecordBatch]:
        """Yield conversations, given as rows of TEXT_COLUMNS, as `batches` does.

        Raises:
            TrainingError: As `batches`.
        """
        left_out: Counter[str] = Counter()
        num_stored = 0
        for rows in stored:
            num_stored += len(rows)
            yield self._batch(rows, left_out)
        reasons = ", ".join(f"{count} because {why}" for why, count in left_out.most_common())
        if num_stored and left_out.total() == num_stored:
            raise TrainingError(
                f"no conversation of the {split} split can be put into the student's tokens",
                where=self._checkpoint_dir,
                found=reasons,
                hint="use a student whose chat template takes these conversations",
            )
        if left_out:
            logger.warning(
                "%s split: %d of %d conversations are left out, %s",
                split,
                left_out.total(),
                num_stored,
                reasons,
            )

    def _batch(self, rows: Sequence[dict[str, Any]], left_out: Counter[str]) -> pa.RecordBatch:
        rendered: list[tuple[str, RenderedConversation]] = []
        for row in rows:
            try:
                rendered.append((row["conversation_id"], self._render(row)))
            except LeftOutError as reason:
                left_out[str(reason)] += 1
        texts = [text for _, conversation in rendered for text in conversation.texts]
        encoded = iter(
            self._tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else ()
        )
        found: list[tuple[str, list[int], Spans]] = []
        for name, conversation in rendered:
            whole, *parts = islice(encoded, len(conversation.texts))
            try:
                found.append((name, whole, _spans(whole, parts)))
            except LeftOutError as reason:
                left_out[str(reason)] += 1
        columns = (
            [name for name, _, _ in found],
            [token_ids for _, token_ids, _ in found],
            [[start for start, _ in spans] for _, _, spans in found],
            [[length for _, length in spans] for _, _, spans in found],
        )
        arrays = [
            pa.array(column, field.type)
            for column, field in zip(columns, self._schema, strict=True)
        ]
        return pa.RecordBatch.from_arrays(arrays, schema=self._schema)

    def _render(self, row: dict[str, Any]) -> RenderedConversation:
        given, completion = (
            [Message(**message) for message in row[name]] for name in ("prompt", "completion")
        )
        messages = [self._shown(one) for one in (*given, *completion)]
        if any(map(self._controls.search, map(_all_text, messages))):
            raise LeftOutError("a message holds the text of one of the student's special tokens")
        # Only the last answer can be cut off, because a conversation ends with such an answer.
        cut_off = len(messages) - 1 if row["turns"][-1]["finish_reason"] == "length" else None
        if cut_off is not None:
            if row["completion"][-1].get("reasoning_content") and not messages[-1].content:
                raise LeftOutError("its answer ends inside the thinking")
            content = messages[cut_off].content.rstrip(UNDECODED)
            messages[cut_off] = messages[cut_off].model_copy(update={"content": content})
        thinks = any(one.reasoning_content for one in messages)
        render = partial(render_text, self._tokenizer if thinks else self._bare, tools=row["tools"])
        try:
            whole = render(messages, add_generation_prompt=False)
            answers = tuple(
                self._answer(row, render, messages[: index + 1], whole, ends=index != cut_off)
                for index in range(len(given), len(messages))
                if messages[index].role == "assistant"
            )
        except TemplateError as error:
            raise LeftOutError(f"the student's chat template refuses it ({error})") from error
        return RenderedConversation(whole, answers)

    def _answer(
        self,
        row: dict[str, Any],
        render: Callable[..., str],
        messages: Sequence[Message],
        whole: str,
        *,
        ends: bool,
    ) -> tuple[str, str]:
        """Return the text up to where the last message begins and up to where it ends.

        Args:
            ends: Whether the teacher ended it, so that the end-of-turn token belongs to it.
        """
        before = render(messages[:-1])
        after = render(messages, add_generation_prompt=False)
        if not (whole.startswith(after) and after.startswith(before)):
            raise TrainingError(
                "the student's chat template rewrites earlier messages when one is added",
                where=self._checkpoint_dir,
                expected="a template that only appends, so that the student is trained on the "
                "prompts that it will get",
                found=f"conversation {row['conversation_id']} rendered differently up to "
                f"message {len(messages)}",
                hint="give the student a chat_template.jinja that only appends, or generate "
                "conversations of one turn",
            )
        *_, end = (None, *self._controls.finditer(after, len(before)))
        if end is None or after[end.end() :].strip():
            raise TrainingError(
                "the student's chat template ends answers with no special token",
                where=self._checkpoint_dir,
                expected="an end-of-turn token after an answer, so that the student learns to stop",
                found=repr(after[len(before) :][-40:]),
                hint="let its chat_template.jinja write the eos token after each answer",
            )
        return before, after[: end.end() if ends else end.start()]

    def _shown(self, message: Message) -> Message:
        """Return a message as the template takes it."""
        if self._takes_thinking:
            return message
        return message.model_copy(update={"reasoning_content": None})


def _all_text(message: Message) -> str:
    return message.content + (message.tool_calls or "") + (message.reasoning_content or "")


def _spans(whole: list[int], parts: Sequence[list[int]]) -> Spans:
    """Return the answers' positions from the ids of the texts up to their starts and ends.

    Raises:
        LeftOutError: A text tokenized alone is not a prefix of the whole: the student would get
            other tokens as prompts than in training.
    """
    if any(whole[: len(part)] != part for part in parts):
        raise LeftOutError("a token reaches over the border of an answer")
    lengths = [len(part) for part in parts]
    pairs = zip(lengths[::2], lengths[1::2], strict=True)
    spans = [(start, end - start) for start, end in pairs if 0 < start < end]
    if not spans:
        raise LeftOutError("its answers are empty")
    return spans

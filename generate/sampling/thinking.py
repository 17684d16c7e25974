"""The teacher's thinking while it is sampled: where it ends, and how it is cut short.

In: token ids of answers and the tokenizer they are in. Out: where the answer itself begins.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from potstill.chat import ChatTokenizer, render_text, tokenize
from potstill.schema import Message
from potstill.thinking import ThinkFormat

QUESTION, THOUGHT, ANSWER = (
    f"\N{LEFT WHITE SQUARE BRACKET}{name}\N{RIGHT WHITE SQUARE BRACKET}"
    for name in ("question", "thought", "answer")
)


@dataclass(frozen=True)
class Thinking:
    """The thinking of a teacher whose template shows tags for it."""

    tokenizer: ChatTokenizer
    think_format: ThinkFormat

    @classmethod
    def of(cls, tokenizer: ChatTokenizer) -> Thinking | None:
        """Return the thinking that a tokenizer's chat template shows; None without any."""
        think_format = ThinkFormat.of_template(tokenizer.chat_template or "")
        return None if think_format is None else cls(tokenizer, think_format)

    def is_opened_by(self, prompt_token_ids: Sequence[int]) -> bool:
        """Return whether a prompt ends inside the thinking."""
        return self.think_format.is_opened_by_tokens(prompt_token_ids, self.tokenizer.decode)

    def end(self, token_ids: Sequence[int], *, opened: bool) -> int | None:
        """Return how many tokens of an answer are thinking, its end included; None: all of them."""
        think_format, text = self.think_format, self.tokenizer.decode(list(token_ids))
        if not opened:
            opened = text.lstrip().startswith(think_format.opening)
        if think_format.closing in text:
            return self._tokens_until(think_format.closing, token_ids)
        if opened:
            return None
        if think_format.answer_opening and text.startswith(think_format.answer_opening):
            return self._tokens_until(think_format.answer_opening, token_ids)
        return 0

    def answer_start(self, token_ids: Sequence[int], *, opened: bool) -> int | None:
        """Return the position where the answer itself begins, white space after thinking skipped.

        None if there is no answer, or a token spans both.
        """
        end = self.end(token_ids, opened=opened)
        if end == 0 or end is None:
            return end
        before = self.tokenizer.decode(list(token_ids[:end]))
        tags = (self.think_format.closing, self.think_format.answer_opening)
        if not any(tag and before.rstrip().endswith(tag) for tag in tags):
            return None
        while end < len(token_ids) and not self.tokenizer.decode([token_ids[end]]).strip():
            end += 1
        return end if end < len(token_ids) else None

    @cached_property
    def closing_token_ids(self) -> list[int]:
        """What the template writes between thinking and answer."""
        asked = Message(role="user", content=QUESTION)
        answered = Message(role="assistant", content=ANSWER, reasoning_content=THOUGHT)
        text = render_text(self.tokenizer, [asked, answered], add_generation_prompt=False)
        between = text.partition(THOUGHT)[2].partition(ANSWER)[0]
        closing = self.think_format.closing
        return tokenize(self.tokenizer, between if closing in between else f"\n{closing}\n\n")

    def _tokens_until(self, tag: str, token_ids: Sequence[int]) -> int:
        """Return the least number of tokens whose text has a tag, which all of them have."""

        def has_tag(count: int) -> bool:
            return tag in self.tokenizer.decode(list(token_ids[:count]))

        return bisect_left(range(len(token_ids)), True, key=has_tag)

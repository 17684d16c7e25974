"""The answer is supported by a quotation from its context, or abstains where nothing is known."""

from __future__ import annotations

import re
from collections import Counter

from potstill.json_text import parse_json
from potstill.schema import Message
from potstill.task.answers import Answer, Item, Score, folded, value_at
from potstill.task.metrics.config import GroundedConfig

ARTICLES = {"a", "an", "the"}


class Grounded:
    """Multiplies two scores: the quotation is in the context, and the answer agrees.

    Agreement is F1 over words, as in SQuAD. Where the known answer abstains, abstaining is 1 and
    answering 0; where it does not, abstaining is 0.

    Source: Rajpurkar et al. 2016, section 5, and the evaluation script of SQuAD 2.0 for the words.
    """

    needs_known = True

    def __init__(self, config: GroundedConfig) -> None:
        self.name = config.name or config.kind
        self._config = config

    def score(self, answer: Answer, item: Item) -> Score:
        """Return the product, from 0 to 1; an answer that is not JSON scores 0."""
        try:
            known, _ = self._read(item.known.text if item.known else "")
        except ValueError as error:
            return Score(value=0.0, problem=f"the known answer is not JSON: {error}")
        try:
            found, quote = self._read(answer.text)
        except ValueError as error:
            return Score(value=0.0, problem=f"not JSON: {error}")
        if known is None or found is None:
            right = known is None and found is None
            problem = None if right else "answered" if known is None else "abstained"
            return Score(value=float(right), found=found, expected=known, problem=problem)
        if not quote or not occurs(quote, item.messages):
            problem = "the quotation is not in the context"
            return Score(value=0.0, found=found, expected=known, problem=problem)
        return Score(value=word_f1(found, known), found=found, expected=known)

    def key(self, answer: Answer) -> str | None:
        """Return the words of the answer, or that it abstains; None for one that is not JSON."""
        try:
            found, _ = self._read(answer.text)
        except ValueError:
            return None
        return "abstains" if found is None else f"says {folded(found)}"

    def _read(self, text: str) -> tuple[str | None, str | None]:
        content = parse_json(text)
        answer = value_at(content, self._config.answer_field)
        quote = value_at(content, self._config.quote_field)
        return (
            None if answer in (None, "") else str(answer),
            quote if isinstance(quote, str) else None,
        )


def occurs(quote: str, messages: tuple[Message, ...]) -> bool:
    """Return whether a quotation is in the messages, except for case and white space."""
    wanted = folded(quote)
    return any(wanted in folded(one.content) for one in messages)


def word_f1(answer: str, known: str) -> float:
    """Return F1 over words without case, punctuation and articles."""
    one, other = _words(answer), _words(known)
    total = one.total() + other.total()
    return 2 * (one & other).total() / total if total else 1.0


def _words(text: str) -> Counter[str]:
    return Counter(word for word in re.findall(r"\w+", text.casefold()) if word not in ARTICLES)

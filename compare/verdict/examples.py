"""Prompts with both answers and all judgments of them, for a reader of the report.

In: pairs, answers, opinions. Out: `Example`s.
"""

from __future__ import annotations

from collections.abc import Sequence

from compare.answers.answers import Answer
from compare.judges.panel import Opinion
from compare.judges.protocol import Judgment, Pair
from potstill.schema import Message, Value

NUM_EXAMPLES = 200
"""Most pairs in the report; all pairs are in pairs.parquet and judgments.parquet."""


class ShownAnswer(Value):
    """One model's answer."""

    text: str
    num_tokens: int
    seconds: float | None
    """From the request to the complete answer, with other requests in flight."""
    finish_reason: str


class Example(Value):
    """One prompt with both answers, and each judge's judgment of them."""

    prompt_id: str
    sample: int
    slices: dict[str, str]
    messages: tuple[Message, ...]
    student: ShownAnswer
    teacher: ShownAnswer
    judgments: dict[str, Judgment]
    """By the judge's name, without judges that were not asked."""


def examples(
    pairs: Sequence[Pair], answers: Sequence[Answer], opinions: Sequence[Opinion]
) -> tuple[Example, ...]:
    """Return the first pairs with each judge's judgment of the same two answers.

    Where a metric of a task decides, pairs that it scores differently for both sides come first.
    """
    given = {(one.role, one.prompt_id, one.sample): one for one in answers}
    said = {
        opinion.judged.name: {pair.key: judgment for pair, judgment in opinion.judged_pairs}
        for opinion in opinions
    }
    return tuple(
        Example(
            prompt_id=pair.question.prompt_id,
            sample=pair.sample,
            slices=pair.question.slices,
            messages=pair.question.messages,
            student=_shown(given["student", pair.question.prompt_id, pair.sample]),
            teacher=_shown(given["teacher", pair.question.prompt_id, pair.sample]),
            judgments={
                name: judgments[pair.key]
                for name, judgments in said.items()
                if pair.key in judgments
            },
        )
        for pair in _ordered(pairs, opinions)[:NUM_EXAMPLES]
    )


def _ordered(pairs: Sequence[Pair], opinions: Sequence[Opinion]) -> list[Pair]:
    first = opinions[0] if opinions else None
    if first is None or first.judged.kind != "metric":
        return list(pairs)
    differ = {
        pair.key for pair, one in first.judged_pairs if one.student_value != one.teacher_value
    }
    return sorted(pairs, key=lambda pair: pair.key not in differ)


def _shown(answer: Answer) -> ShownAnswer:
    return ShownAnswer(
        text=answer.shown,
        num_tokens=answer.completion_tokens,
        seconds=answer.seconds,
        finish_reason=answer.finish_reason,
    )

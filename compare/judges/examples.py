"""Prompts with both answers and all that was said of them, to be read.

In: pairs, answers, opinions. Out: `Example`s. Pure: asks nobody.
"""

from __future__ import annotations

from collections.abc import Sequence

from compare.answers.answers import Answer
from compare.judges.health import pair_key
from compare.judges.panel import Opinion
from compare.judges.protocol import Judgment, Pair
from compare.report.verdict import Example, ShownAnswer

NUM_EXAMPLES = 200
"""Pairs in the report, the first so many; all are in pairs.parquet and judgments.parquet."""


def examples(
    pairs: Sequence[Pair], answers: Sequence[Answer], opinions: Sequence[Opinion]
) -> tuple[Example, ...]:
    """Return the first pairs with what each judge said of the same two answers."""
    given = {(one.role, one.prompt_id, one.sample): one for one in answers}
    said = {opinion.judged.name: _by_pair(opinion) for opinion in opinions}
    return tuple(
        Example(
            prompt_id=pair.question.prompt_id,
            sample=pair.sample,
            slices=pair.question.slices,
            messages=pair.question.messages,
            student=_shown(given["student", pair.question.prompt_id, pair.sample]),
            teacher=_shown(given["teacher", pair.question.prompt_id, pair.sample]),
            judgments={
                name: judgments[pair_key(pair)]
                for name, judgments in said.items()
                if pair_key(pair) in judgments
            },
        )
        for pair in pairs[:NUM_EXAMPLES]
    )


def _by_pair(opinion: Opinion) -> dict[tuple[str, ...], Judgment]:
    said = opinion.judged.judgments or ()
    judged = zip(opinion.pairs, said, strict=bool(said))
    return {pair_key(pair): judgment for pair, judgment in judged}


def _shown(answer: Answer) -> ShownAnswer:
    return ShownAnswer(
        text=answer.answer,
        num_tokens=answer.completion_tokens,
        seconds=answer.seconds,
        finish_reason=answer.finish_reason,
    )

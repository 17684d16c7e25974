"""A judge of correct answers: each answer passes the prompt's check or not.

In: pairs whose prompt has a check. Out: judgments with 1 or 0 for each answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from compare.answers.questions import Check
from compare.judge_config import CheckJudgeConfig
from compare.judges.controls import ONE_ERROR, SHUFFLED, TRUNCATED
from compare.judges.protocol import Judge, Judgment, Pair
from compare.judges.reference import measured
from potstill.task.answers import folded


class CheckJudge(Judge):
    """Checks each answer alone.

    A regular expression may match the first words, in any order, and beside an error, so three
    controls are left out.
    """

    kind = "check"
    measures = True
    needs_assay = True
    blind_to = frozenset({ONE_ERROR, SHUFFLED, TRUNCATED})

    def __init__(self, config: CheckJudgeConfig) -> None:
        self.name = config.name

    def judge(self, pairs: Sequence[Pair], label: str) -> list[Judgment]:  # noqa: ARG002
        """Check both answers of each pair."""
        return [self._judge(pair) for pair in pairs]

    def _judge(self, pair: Pair) -> Judgment:
        check = pair.question.check
        if check is None:
            return Judgment(score=None, failure="the prompt has no check")
        return measured(float(passes(check, pair.student)), float(passes(check, pair.teacher)))


def passes(check: Check, answer: str) -> bool:
    """Return whether an answer is correct.

    "exact" compares whole texts except for case and white space; "regex" searches for the pattern
    anywhere, case-sensitively.
    """
    if check.exact is not None:
        return folded(answer) == folded(check.exact)
    return re.search(str(check.regex), answer) is not None

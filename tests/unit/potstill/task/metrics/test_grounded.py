import json

import pytest

from potstill.task.metrics.config import GroundedConfig
from potstill.task.metrics.grounded import Grounded

CONTEXT = "Fees: a transfer costs  two euros.\nQuestion: what does a transfer cost?"
KNOWN = {"answer": "two euros", "quote": "a transfer costs two euros"}
ABSTAINS = {"answer": None, "quote": None}


@pytest.mark.parametrize(
    ("said", "known", "value", "problem"),
    [
        (KNOWN, KNOWN, 1.0, None),
        (KNOWN | {"answer": "The two Euros."}, KNOWN, 1.0, None),
        (KNOWN | {"answer": "two euros a month"}, KNOWN, 2 * 2 / 5, None),
        (KNOWN | {"quote": "a transfer is free"}, KNOWN, 0.0, "not in the context"),
        (KNOWN | {"quote": None}, KNOWN, 0.0, "not in the context"),
        (ABSTAINS, KNOWN, 0.0, "abstained"),
        (ABSTAINS, ABSTAINS, 1.0, None),
        ({}, ABSTAINS, 1.0, None),
        (KNOWN, ABSTAINS, 0.0, "answered"),
    ],
)
def test_answers_need_support(scored, said, known, value, problem):
    score = scored(Grounded(GroundedConfig()), json.dumps(said), json.dumps(known), CONTEXT)
    assert score.value == pytest.approx(value)
    assert (problem or "") in (score.problem or "")


def test_text_is_no_answer(scored):
    assert scored(Grounded(GroundedConfig()), "two euros", json.dumps(KNOWN), CONTEXT).value == 0.0

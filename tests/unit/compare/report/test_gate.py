"""The gate in sentences and in the page's table."""

import pytest

from compare.report.gate import cells, in_words
from compare.report.page import render_page
from compare.report.summary import answer, verdict_sentences
from compare.verdict.results import GateRow
from potstill.verdict.outcome import Outcome

from ..conftest import verdict


def row(**changes):
    values = {
        "name": "stopping",
        "measured": "answers that end by themselves",
        "required": True,
        "outcome": Outcome.PASS,
        "value": 0.99,
        "lower": 0.9683,
        "upper": 0.9982,
        "threshold": 0.95,
        "num_items": 200,
    }
    return GateRow(**values | changes)


CHANGE = row(
    name="schema",
    measured="valid answers, student less teacher",
    value=-0.01,
    lower=-0.05,
    upper=0.0,
    threshold=-0.03,
    outcome=Outcome.INCONCLUSIVE,
    num_items=1600,
)
PRICE = row(
    name="cost",
    measured="dollars for a million output tokens",
    value=0.7,
    lower=None,
    upper=None,
    threshold=0.5,
    required=False,
    outcome=Outcome.FAIL,
    num_items=0,
)
ABSENT = row(
    value=None, lower=None, upper=None, outcome=Outcome.INCONCLUSIVE, num_items=0, note="not asked"
)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (
            row(),
            "stopping PASS (answers that end by themselves 0.990 [0.968, 0.998], needs above 0.95, "
            "200 items)",
        ),
        (
            CHANGE,
            "schema INCONCLUSIVE (valid answers, student less teacher \N{MINUS SIGN}0.010 "
            "[\N{MINUS SIGN}0.050, +0.000], needs above \N{MINUS SIGN}0.03, 1,600 items)",
        ),
        (
            PRICE,
            "cost (not required) FAIL (dollars for a million output tokens 0.7, needs at most 0.5)",
        ),
        (ABSENT, "stopping INCONCLUSIVE (not asked)"),
    ],
)
def test_a_requirement_in_words(found, words):
    assert in_words(found) == words


def test_sentences_and_page_have_all_requirements_and_name_those_missed(make_report):
    gate = (row(), CHANGE, PRICE, ABSENT)
    report = make_report(gate=gate, outcome=Outcome.INCONCLUSIVE)
    said = verdict_sentences(report.verdict)[-1]
    assert said.startswith("Gate, all of which PASS needs: stopping PASS (")
    page = render_page(report)
    for one in gate:
        assert in_words(one) in said
        assert f">{cells(one)[2]}<" in page
    assert answer(report.verdict) == (
        "Undecided: it is not shown that the student meets schema, stopping (parts of the gate)."
    )
    assert "<h2>The gate</h2>" not in render_page(make_report())


def test_a_requirement_that_is_missed_is_the_answer():
    found = verdict(gate=(row(outcome=Outcome.FAIL), CHANGE), outcome=Outcome.FAIL)
    assert answer(found) == "No: the student does not meet stopping (part of the gate)."

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potstill.task.metrics.config import FieldsConfig
from potstill.task.metrics.fields import Fields, leaves

KNOWN = {"name": "Ann Lee", "age": 40, "drugs": [{"name": "A"}, {"name": "B"}], "note": None}


@pytest.mark.parametrize(
    ("change", "f1", "exact", "none_invented"),
    [
        ({}, 1.0, 1.0, 1.0),
        ({"name": "  ann  LEE"}, 1.0, 1.0, 1.0),
        ({"age": 40.0}, 1.0, 1.0, 1.0),
        ({"drugs": [{"name": "B"}, {"name": "A"}]}, 1.0, 1.0, 1.0),
        ({"note": "made up"}, 8 / 9, 0.0, 0.0),
        ({"age": None}, 6 / 7, 0.0, 1.0),
        ({"age": 41}, 6 / 8, 0.0, 1.0),
        ({"drugs": []}, 4 / 6, 0.0, 1.0),
        ({"drugs": [{"name": name} for name in "ABC"]}, 8 / 9, 0.0, 0.0),
    ],
)
def test_fields_are_compared(scored, change, f1, exact, none_invented):
    said, known = json.dumps(KNOWN | change), json.dumps(KNOWN)
    assert scored(Fields(FieldsConfig()), said, known).value == pytest.approx(f1)
    assert scored(Fields(FieldsConfig(average="exact")), said, known).value == exact
    metric = Fields(FieldsConfig(average="none_invented"))
    assert scored(metric, said, known).value == none_invented


def test_the_problem_names_fields(scored):
    score = scored(
        Fields(FieldsConfig()), json.dumps(KNOWN | {"age": 41, "x": 1}), json.dumps(KNOWN)
    )
    assert score.problem == "missing or wrong: age; not in the known answer: age, x"
    metric = Fields(FieldsConfig(average="none_invented"))
    score = scored(metric, json.dumps(KNOWN | {"age": 41, "x": 1}), json.dumps(KNOWN))
    assert score.problem == "invented: x"


def test_only_chosen_fields_count(scored):
    metric = Fields(FieldsConfig(fields=("drugs",)))
    assert scored(metric, json.dumps(KNOWN | {"age": 1}), json.dumps(KNOWN)).value == 1.0
    assert scored(
        metric, json.dumps(KNOWN | {"drugs": [{"name": "A"}]}), json.dumps(KNOWN)
    ).value == (pytest.approx(2 / 3))


def test_case_counts_where_it_is_asked_for(scored):
    metric = Fields(FieldsConfig(ignore_case=False))
    assert scored(metric, '{"a": "x"}', '{"a": "X"}').value == 0.0


def test_an_answer_that_is_not_json_scores_nothing(scored):
    score = scored(Fields(FieldsConfig()), "name: Ann", json.dumps(KNOWN))
    assert score.value == 0.0
    assert score.problem.startswith("not JSON")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-5, 5) | st.text("ab"),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text("xy"), inner, max_size=3)
        ),
        max_leaves=8,
    )
)
def test_a_record_agrees_with_itself(content):
    text = json.dumps(content)
    from potstill.schema import Message
    from potstill.task.answers import Answer, Item

    item = Item(messages=(Message(role="user", content="?"),), known=Answer(text=text))
    for average in ("f1", "exact", "none_invented"):
        assert Fields(FieldsConfig(average=average)).score(Answer(text=text), item).value == 1.0
    assert all(value is not None for _, value in leaves(content))

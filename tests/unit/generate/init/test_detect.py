import json

import pytest

from generate.init.detect import DECLINING, detect
from potstill.task.answers import Answer, ToolCall


def texts(*answers):
    return [
        Answer(text=answer if isinstance(answer, str) else json.dumps(answer)) for answer in answers
    ]


def call(name, **arguments):
    return Answer(tool_calls=(ToolCall(name=name, arguments=json.dumps(arguments)),))


TEAMS = ["cards", "cash", "cards", "cards", "cash", "cards"]


@pytest.mark.parametrize(
    ("known", "template", "metrics"),
    [
        ([], "chat", ()),
        (texts(*TEAMS), "classify", ({"kind": "label", "labels": ["cards", "cash"]},)),
        (texts("yes, of course", "I am sorry", "no", "hm"), "chat", ()),
        (texts("12", "3.5", "-7 kg", "1,200"), "chat", ({"kind": "numeric"},)),
        (texts("SELECT 1", "with t as (select 2) select * from t"), "sql", ({"kind": "sql"},)),
        (
            texts(*({"team": team, "reply": f"Hello {n}"} for n, team in enumerate(TEAMS))),
            "classify",
            ({"kind": "label", "field": "team", "labels": ["cards", "cash"]}, {"kind": "schema"}),
        ),
        (
            texts(*({"a": n, "b": str(n), "c": "x", "d": None} for n in range(6))),
            "extract",
            ({"kind": "fields"}, {"kind": "schema"}),
        ),
        (
            texts({"answer": "7", "quote": "at 7"}, {"answer": None, "quote": None}),
            "answers",
            ({"kind": "grounded"}, {"kind": "schema"}),
        ),
        ([call("freeze", last4="1"), Answer(text="Which?")], "tools", ({"kind": "tool_calls"},)),
    ],
)
def test_answers_decide_template_and_metrics(known, template, metrics):
    detected = detect(known)
    assert (detected.template, detected.metrics) == (template, metrics)


def test_a_label_in_json_is_an_enumeration_of_the_schema():
    schema = detect(texts(*({"team": team} for team in TEAMS))).answer_schema
    assert schema["properties"] == {"team": {"enum": ["cards", "cash"]}}
    assert schema["required"] == ["team"]


@pytest.mark.parametrize(
    ("reply", "declining"),
    [
        ("Hello, we will look into it.", {"team": "none", "reply": DECLINING}),
        ("Hello", None),
        (None, None),
    ],
)
def test_a_sentence_beside_a_label_can_decline(reply, declining):
    detected = detect(texts(*({"team": team, "reply": reply} for team in TEAMS)))
    assert detected.declining == (json.dumps(declining) if declining else None)
    labels = ["cards", "cash", *(["none"] if declining else [])]
    assert detected.answer_schema["properties"]["team"] == {"enum": labels}
    assert detected.metrics[0]["labels"] == ["cards", "cash"]
    assert detect(texts(*({"team": team} for team in TEAMS))).declining is None


def test_tools_are_drawn_from_calls():
    known = [call("set", room="hall", percent=3), call("set", room="bath"), call("stop")]
    detected = detect(known)
    by_name = {one["function"]["name"]: one["function"]["parameters"] for one in detected.tools}
    assert sorted(by_name) == ["set", "stop"]
    assert by_name["set"]["properties"] == {
        "room": {"type": "string"},
        "percent": {"type": "integer"},
    }
    assert by_name["set"]["required"] == ["room"]
    assert detected.found == "answers are calls of 2 tools"
    assert "1 call none" in detect([*known, Answer(text="Sorry?")]).found

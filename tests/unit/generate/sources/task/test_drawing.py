import json
import random
from collections import Counter

import pytest
from jsonschema import validate

from generate.sources.config import SourceConfig
from generate.sources.task.drawing import Drawing
from generate.sources.task.requests import Manner, request_messages
from generate.sources.task.wanted import Turn
from potstill.errors import ConfigError
from potstill.task.answers import Answer
from potstill.task.task import Task


def drawing(task, **config) -> Drawing:
    return Drawing(task, SourceConfig(kind="task", **config))


def drawn(task, category, count=60, **config):
    one = drawing(task, **config)
    return [one.draw(category, random.Random(seed)) for seed in range(count)]


def arguments(wanted) -> dict:
    (call,) = wanted.known.tool_calls
    return json.loads(call.arguments)


def test_labels_and_tools_have_even_shares_unless_the_examples_count(labels, calls):
    assert drawing(labels).weights == {"cards": 1.0, "cash": 1.0}
    weights = drawing(calls, direction="answer", shares={"goodbye": 0.5}).weights
    assert weights == {"transfer": 1.0, "cancel_card": 1.0, "goodbye": 0.5}
    counted = drawing(calls, direction="answer", balance="examples", shares={"goodbye": 0})
    assert counted.weights == {"transfer": 2.0, "cancel_card": 1.0}


def test_a_label_is_the_known_answer_of_its_input(labels):
    for wanted in drawn(labels, "cards"):
        assert (wanted.category, wanted.known) == ("cards", Answer(text='{"team": "cards"}'))
    unknown = drawn(labels, "cards", known_labels=False)
    assert {(wanted.category, wanted.known) for wanted in unknown} == {("cards", None)}
    assert drawn(labels, "cash", 1, direction="answer", known_labels=False)[0].known


def test_one_entry_of_a_labels_description_is_named(labels):
    wants = {wanted.turns[0].wants for wanted in drawn(labels, "cards")}
    entries = ("ordering a card", "delivery", "a card that is broken")
    assert wants == {f"cards, about: {entry}" for entry in entries}
    cash = {wanted.turns[0].wants for wanted in drawn(labels, "cash")}
    assert cash == {"cash (whatever has to do with cash)"}
    own = drawn(labels, "cash", descriptions={"cash": "fees, limits, machines"})
    assert {wanted.turns[0].wants for wanted in own} == {
        f"cash, about: {entry}" for entry in ("fees", "limits", "machines")
    }


def test_calls_are_drawn_with_new_values_and_the_input_says_them(calls):
    found = drawn(calls, "cancel_card", direction="answer")
    assert len({wanted.known for wanted in found}) > 25
    for wanted in found:
        assert wanted.turns[0].wants == "Cancel a card"
        assert dict(wanted.said) == arguments(wanted)
        assert wanted.is_exact
        assert wanted.unsaid == {"debit", "other"} - {arguments(wanted).get("kind")}
    assert {1, 2} == {len(wanted.turns) for wanted in found}, "examples of transfers have two"
    kinds = {arguments(wanted).get("kind") for wanted in found}
    assert kinds == {None, "debit"}, "nobody says other"


def test_listed_values_of_an_argument_that_is_left_out_must_not_be_said(calls):
    listed = {"cancel_card.last_four": ("1111", "2222"), "amount": ("9", "8")}
    for wanted in drawn(calls, "cancel_card", direction="answer", values=listed):
        said = "last_four" in arguments(wanted)
        assert {"1111", "2222"} & wanted.unsaid == (set() if said else {"1111", "2222"})
        assert "9" not in wanted.unsaid, "no argument of this tool"


def test_dialogues_have_new_values_in_all_calls_and_the_arguments_of_an_examples_turns_or_others(
    calls,
):
    found = [one for one in drawn(calls, "transfer", direction="answer") if len(one.turns) == 2]
    assert 10 < len(found) < 50
    for wanted in found:
        first, last = wanted.turns
        assert (first.wants, last.wants, last.after) == ("Move money between accounts", "", ())
        assert {**first.says, **last.says} == arguments(wanted)
        (message,) = first.after
        assert json.loads(Answer.from_message(message).tool_calls[0].arguments) == first.says
    forms = {(tuple(first.says), tuple(last.says)) for first, last in (one.turns for one in found)}
    assert len(forms) > 1
    assert (("amount",), ("to",)) in forms
    assert len({arguments(wanted).get("amount") for wanted in found}) > 5


def test_two_arguments_are_only_equal_where_an_example_has_them_so(calls):
    found = [arguments(wanted) for wanted in drawn(calls, "transfer", 200, direction="answer")]
    both = [one for one in found if {"to", "from"} <= set(one)]
    assert both
    assert all(one["to"] != one["from"] for one in both)


def test_a_tool_without_arguments_says_nothing(calls):
    (wanted,) = drawn(calls, "goodbye", 1, direction="answer")
    assert (wanted.turns[0].wants, wanted.said) == ("The user leaves", [])


def test_no_call_is_a_category_where_an_example_has_none(calls):
    item = calls.examples[0].model_copy(update={"known": Answer(text="I cannot do that.")})
    task = calls.model_copy(update={"examples": (*calls.examples, item)})
    assert drawing(task, direction="answer").weights["(no call)"] == 1.0
    assert drawn(task, "(no call)", 1, direction="answer")[0].known == Answer()
    after_a_call = calls.examples[1].model_copy(update={"known": Answer(text="Done.")})
    task = calls.model_copy(update={"examples": (*calls.examples, after_a_call)})
    assert "(no call)" not in drawing(task, direction="answer").weights


def test_an_example_is_read_as_if_it_had_been_drawn(calls, labels):
    read = drawing(calls, direction="answer").read(calls.examples[1])
    assert [dict(turn.says) for turn in read.turns] == [{"amount": 40}, {"to": "savings"}]
    assert drawing(labels).read(labels.examples[0]).turns[0].wants == "cards"


SCHEMA = {
    "type": "object",
    "properties": {
        "drug": {
            "type": "object",
            "properties": {"name": {"type": "string"}},
            "required": ["name"],
        },
        "codes": {"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 2, "maxItems": 2},
    },
    "required": ["drug", "codes"],
}


def test_records_fit_the_schema_and_the_input_states_every_field():
    task = Task(answer_schema=json.dumps(SCHEMA))
    for wanted in drawn(task, "", 20, direction="answer", values={"drug.name": ("Xeline",)}):
        record = json.loads(wanted.known.text)
        validate(record, SCHEMA)
        assert dict(wanted.said) == {
            "drug.name": "Xeline", "codes 1": record["codes"][0], "codes 2": record["codes"][1],
        }  # fmt: skip
        assert wanted.labels == {"a", "b"}


def test_answers_that_are_texts_are_those_of_the_examples(calls):
    texts = ("SELECT 1", "SELECT 2")
    items = [one.model_copy(update={"known": Answer(text=text)})
             for one, text in zip(calls.examples[2:], texts, strict=True)]  # fmt: skip
    found = drawn(Task(examples=items), "", direction="answer")
    assert Counter(wanted.known.text for wanted in found).keys() == set(texts)
    assert {wanted.turns[0].answer for wanted in found} == set(texts)


def own_call(draw: random.Random) -> dict:
    return {"name": "cancel_card", "arguments": {"last_four": str(draw.randint(1000, 9999))}}


def own_record(_draw: random.Random) -> dict:
    return {"age": 40}


def own_query(_draw: random.Random) -> tuple[str, str, dict]:
    return "SELECT 1", "the number one", {"number": "one"}


def own_failure(_draw: random.Random) -> str:
    raise RuntimeError("no luck")


@pytest.fixture
def own(monkeypatch):
    """Make the functions of this module importable."""
    monkeypatch.syspath_prepend(__file__.rpartition("/")[0])
    return lambda name: f"test_drawing:{name}"


def test_a_function_draws_whole_answers(calls, own):
    (wanted,) = drawn(calls, "", 1, direction="answer", draw=own("own_call"))
    assert wanted.turns[0].says == arguments(wanted)
    (wanted,) = drawn(Task(), "", 1, direction="answer", draw=own("own_record"))
    assert (wanted.known.text, wanted.said) == ('{"age": 40}', [("age", 40)])
    (wanted,) = drawn(Task(), "", 1, direction="answer", draw=own("own_query"))
    assert wanted.known == Answer(text="SELECT 1")
    assert wanted.turns == (Turn("the number one", {"number": "one"}, "SELECT 1"),)
    with pytest.raises(ConfigError, match="function that draws answers failed") as caught:
        drawn(calls, "", 1, direction="answer", draw=own("own_failure"))
    assert caught.value.found == "RuntimeError: no luck"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"shares": {"kards": 1}}, "label or tool that the task does not have"),
        ({"descriptions": {"kards": "x"}}, "label or tool that the task does not have"),
        ({"draw": "no.module:name"}, "cannot be imported"),
    ],
)
def test_names_that_do_not_exist_are_refused(labels, config, message):
    with pytest.raises(ConfigError, match=message):
        drawing(labels, direction="answer", **config)


@pytest.mark.parametrize("direction", ["input", "answer"])
def test_a_task_with_nothing_to_draw_from_is_refused(direction):
    with pytest.raises(ConfigError, match=r"there (is nothing|are none)"):
        drawing(Task(), direction=direction)


def test_the_fields_of_a_record_are_put_into_words():
    phrases = {
        "fever": {"true": "has a fever", "false": "denies fever"},
        "allergy": {"none": "no known allergies", "*": "allergic to {}"},
        "review": "next visit in {} days",
        "rash": {"true": "has a rash"},
    }
    one = drawing(Task(answer_schema='{"type": "object"}'), direction="answer", phrases=phrases)
    wanted = [
        one._of(Answer(text=json.dumps(record)))
        for record in (
            {"fever": False, "allergy": "none", "review": 14, "seen_by": "Ann Lee"},
            {"fever": True, "allergy": "latex", "rash": False},
        )
    ]
    assert wanted[0].turns[0].facts == (
        "denies fever", "no known allergies", "next visit in 14 days", "seen by: Ann Lee",
    )  # fmt: skip
    assert wanted[1].turns[0].facts == ("has a fever", "allergic to latex", "rash: false")
    asked = request_messages("", [], wanted[0], Manner())[-1].content
    assert asked == "Say: " + "; ".join(wanted[0].turns[0].facts) + "."
    plain = drawing(Task(answer_schema="{}"), direction="answer")
    assert plain._of(wanted[0].known).turns[0].facts == ()

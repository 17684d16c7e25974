"""What all conversations of a run have in common."""

import json

import pytest

from generate.config import GenerateConfig
from generate.sampling.settings import ConversationSettings
from generate.teachers.protocol import SampleRequest
from potstill.errors import TeacherError
from potstill.schema import REFERENCES, Message, SamplingParams
from potstill.task.answers import Answer, Item
from potstill.task.metrics.config import LabelConfig
from potstill.task.task import Task

OTHER_MODEL = {"base_url": "http://127.0.0.1:1/v1", "model": "user", "tokenizer": "user"}


@pytest.fixture
def make_settings(toy_tokenizer):
    """Return a function that makes it; keywords are turns' settings."""

    def make(**turns) -> ConversationSettings:
        config = GenerateConfig.model_validate({"sampling": {"seed": 5}, "turns": turns})
        return ConversationSettings(config, toy_tokenizer, 10_000)

    return make


def test_the_number_of_turns_is_drawn_per_prompt_evenly_and_alike_every_time(
    make_settings, make_prompt
):
    settings = make_settings(kind="simulate", min_turns=2, max_turns=4)
    drawn = [settings.num_turns(make_prompt(f"p{number}", "Why?")) for number in range(300)]
    assert set(drawn) == {2, 3, 4}
    assert all(drawn.count(turns) > 70 for turns in (2, 3, 4))
    again = make_settings(kind="simulate", min_turns=2, max_turns=4)
    assert drawn[:9] == [again.num_turns(make_prompt(f"p{number}", "Why?")) for number in range(9)]


def test_a_prompt_keeps_its_own_system_prompt(make_settings, make_prompt):
    own = (Message(role="system", content="Mine."), Message(role="user", content="Why?"))
    prompt = make_prompt("p", "Why?").model_copy(update={"messages": own})
    assert make_settings(system_prompts=["Be kind."]).for_teacher(prompt).messages == own


REQUEST = SampleRequest("r", (1,), SamplingParams(temperature=0.0, top_p=1.0, max_tokens=8, seed=0))
TEAMS = {"type": "object", "properties": {"team": {"enum": ["cards", "cash"]}, "reply": {}}}


@pytest.mark.parametrize(
    ("bind_known", "known", "is_reference", "teams"),
    [
        (True, "cash", False, ["cash"]),  # A label alone is read as the JSON that has it.
        (True, None, False, ["cards", "cash"]),
        (True, "cash", True, ["cards", "cash"]),
        (False, "cash", False, ["cards", "cash"]),
    ],
)
def test_what_is_known_binds_the_teacher_if_it_is_to(
    toy_tokenizer, make_prompt, bind_known, known, is_reference, teams
):
    sampling = {"structured": True, "bind_known": bind_known}
    config = GenerateConfig.model_validate({"sampling": sampling})
    task = Task(answer_schema=json.dumps(TEAMS), metrics=(LabelConfig(field="team"),))
    settings = ConversationSettings(config, toy_tokenizer, 10_000, task)
    changes = {"known": known and Answer(text=known).model_dump_json()}
    changes |= {"source": REFERENCES} if is_reference else {}
    prompt = make_prompt("p", "Why?").model_copy(update=changes)
    bound = settings.bound(REQUEST, prompt)
    assert json.loads(bound.schema)["properties"]["team"]["enum"] == teams
    assert not bound.labels


@pytest.mark.parametrize("structured", [True, False])
def test_labels_bind_the_teacher_where_an_answer_is_one(toy_tokenizer, make_prompt, structured):
    config = GenerateConfig.model_validate({"sampling": {"structured": structured}})
    labels = ("cards", "cash")
    task = Task(metrics=(LabelConfig(labels=labels),))
    settings = ConversationSettings(config, toy_tokenizer, 10_000, task)
    bound = settings.bound(REQUEST, make_prompt("p", "Why?"))
    assert (bound.labels, bound.schema) == (labels if structured else (), None)
    assert bound.is_bound is structured


@pytest.mark.parametrize(
    ("bind_known", "known", "is_reference", "has_examples"),
    [(True, "cash", False, False), (True, None, False, True), (True, "cash", True, True),
     (False, "cash", False, True)],
)  # fmt: skip
def test_examples_are_left_out_where_the_answer_is_bound_to_as_much_as_they_show(
    toy_tokenizer, make_prompt, bind_known, known, is_reference, has_examples
):
    """The examples are labels, and the teacher has only the reply to write."""
    config = GenerateConfig.model_validate(
        {"sampling": {"structured": True, "bind_known": bind_known}}
    )
    shown = Item(messages=(Message(role="user", content="Hi"),), known=Answer(text="cards"))
    task = Task(
        instructions="Sort. {examples}",
        answer_schema=json.dumps(TEAMS),
        metrics=(LabelConfig(field="team"),),
        examples=(shown,),
        num_shots=1,
    )
    settings = ConversationSettings(config, toy_tokenizer, 10_000, task)
    changes = {"known": known and Answer(text=known).model_dump_json()}
    changes |= {"source": REFERENCES} if is_reference else {}
    prompt = make_prompt("p", "Why?").model_copy(update=changes)
    assert ("cards" in settings.for_teacher(prompt).messages[0].content) is has_examples


def counts_turns(conversation, **_):
    """Write the number of messages in front of them."""
    turns = ["<{role}>{content}|".format(**one) for one in conversation]
    return f"{len(turns)}" + "".join(turns) + "<assistant>"


def ends_answers_only(conversation, **_):
    """Write `[question]answer|`, as `[INST] question [/INST] answer</s>` does."""
    forms = {"user": "[{content}]", "assistant": "{content}|"}
    return "".join(forms[one["role"]].format(**one) for one in conversation)


@pytest.mark.parametrize(
    ("turns", "template", "refused"),
    [
        ({"kind": "single"}, counts_turns, None),
        ({"kind": "score"}, counts_turns, None),
        ({"kind": "simulate", "max_turns": 1}, counts_turns, None),
        ({"kind": "simulate"}, counts_turns, "rewrites earlier turns"),
        ({"kind": "replay"}, counts_turns, "rewrites earlier turns"),
        ({"kind": "simulate", "user": OTHER_MODEL}, counts_turns, "rewrites earlier turns"),
        ({"kind": "simulate"}, ends_answers_only, "cannot play the user"),
        ({"kind": "simulate", "user": OTHER_MODEL}, ends_answers_only, None),
        ({"kind": "replay"}, ends_answers_only, None),
        ({"kind": "simulate"}, None, None),
    ],
)
def test_what_the_template_cannot_do_is_refused_before_anything_is_sampled(
    make_settings, toy_tokenizer, turns, template, refused
):
    if template is not None:
        toy_tokenizer.apply_chat_template = template
    settings = make_settings(**turns)
    if refused is None:
        settings.require_turns({0})
        return
    with pytest.raises(TeacherError, match=refused):
        settings.require_turns({0})

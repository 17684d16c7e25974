import json
from dataclasses import replace

import pytest

from generate.curation.config import CurationConfig
from generate.curation.conversation_filters import ConversationCurator, Drop
from potstill.errors import ConfigError
from potstill.schema import Message
from potstill.task.answers import Answer
from potstill.task.metrics.config import FieldsConfig, FunctionConfig, LabelConfig
from potstill.task.metrics.fields import Fields
from potstill.task.task import Task

SCHEMA = {
    "type": "object",
    "properties": {"label": {"enum": ["art", "science"]}},
    "required": ["label"],
}
LABEL = Task(metrics=(LabelConfig(field="label"),))


@pytest.fixture
def dropped(answered):
    """Return a function that judges one answer by one filter."""

    def judge(name, task, said, *, known=None, score=None, source="test", **options):
        conversation = answered(said)
        changes = {"source": source, "known": known and Answer(text=known).model_dump_json()}
        prompt = conversation.prompt.model_copy(update=changes)
        config = CurationConfig(conversation_filters=(name,), **options)
        curator = ConversationCurator(config, task)
        return curator.judge(replace(conversation, prompt=prompt, score=score))

    return judge


@pytest.mark.parametrize(
    ("task", "said", "by"),
    [
        (Task(answer_schema=json.dumps(SCHEMA)), '{"label": "music"}', "the task's schema"),
        (Task(answer_schema=json.dumps(SCHEMA)), "art", "the task's schema"),
        (LABEL, "art", "the metric label"),
    ],
)
def test_answers_that_cannot_be_read_are_dropped(dropped, task, said, by):
    assert dropped("schema", task, said) == Drop("schema", f"{by} cannot read an answer")
    assert dropped("schema", task, '{"label": "art"}') is None


def test_answers_are_compared_with_the_known_one(dropped):
    right, wrong = '{"label": "art"}', '{"label": "science"}'
    assert dropped("known", LABEL, right, known=right) is None
    assert dropped("known", LABEL, wrong) is None
    drop = dropped("known", LABEL, wrong, known=right)
    assert drop == Drop("known", "label 0.00 against the known answer")


def test_an_answer_that_is_right_in_part_may_do(dropped):
    task = Task(metrics=(FieldsConfig(),))
    known, said = '{"a": 1, "b": 2}', '{"a": 1, "b": 3}'
    assert dropped("known", task, said, known=known, min_score=0.5) is None
    assert dropped("known", task, said, known=known).reason.startswith("fields 0.50")


def test_an_answer_that_nests_too_deeply_scores_nothing(dropped):
    nested = "[" * 600 + "1" + "]" * 600
    fields = Task(metrics=(FieldsConfig(),))
    drop = dropped("known", fields, nested, known="[1]")
    assert drop.reason == "fields 0.00 against the known answer: not JSON: nested too deeply"
    assert dropped("schema", fields, nested).reason == "the metric fields cannot read an answer"


def test_a_metric_that_raises_scores_nothing(dropped, monkeypatch):
    function = FunctionConfig(function="math:factorial")
    drop = dropped("known", Task(metrics=(function,)), "a", known="a")
    assert "factorial 0.00 against the known answer: TypeError" in drop.reason
    fields = Task(metrics=(FieldsConfig(),))

    def raises(*_):
        raise RecursionError("a metric of the user's")

    for name in ("score", "key"):
        monkeypatch.setattr(Fields, name, raises)
    drop = dropped("known", fields, "[1]", known="[1]")
    assert "the metric raised RecursionError" in drop.reason
    assert dropped("schema", fields, "[1]").reason == "the metric fields cannot read an answer"


def test_answers_without_enough_agreement_are_dropped(dropped):
    assert dropped("agreement", None, "a", score=0.5) is None
    assert dropped("agreement", None, "a", score=None) is None
    drop = dropped("agreement", None, "a", score=0.4)
    assert drop == Drop("agreement", "40% of the answers say the same")
    assert dropped("agreement", None, "a", score=0.4, min_agreement=0.4) is None


@pytest.mark.parametrize("name", ["schema", "known", "agreement"])
def test_what_is_not_of_the_task_is_kept(dropped, name):
    assert dropped(name, LABEL, "Hello!", score=0.0, known="x", source="general/talk") is None


@pytest.mark.parametrize("name", ["schema", "known"])
@pytest.mark.parametrize("task", [None, Task()])
def test_without_a_metric_there_is_nothing_to_judge_by(dropped, name, task):
    with pytest.raises(ConfigError, match="no metric to judge"):
        dropped(name, task, "a")


@pytest.mark.parametrize(
    ("logprobs", "known", "reason"),
    [
        ((-2.0, -0.2, -0.1, -2.0), None, None),
        ((0.0, -0.3, -0.3, 0.0), None, "art: probability 0.55 under the teacher"),
        ((0.0, -0.3, -0.3, 0.0), "science", "art: probability 0.55 under the teacher"),
        ((0.0, -0.3, -0.3, 0.0), "art", None),
    ],
)
def test_answers_are_dropped_where_the_teacher_is_unsure_of_a_label_that_is_not_known(
    make_conversation, logprobs, known, reason
):
    pieces = {2: '{"label": ', 3: '"a', 4: "rt", 5: '"}'}
    said = Message(role="assistant", content="".join(pieces.values()))
    conversation = make_conversation(
        (1, 2, 3, 4, 5), ((1, 4),), completion=(said,), sampled_logprobs=logprobs
    )
    known = known and Answer(text=json.dumps({"label": known})).model_dump_json()
    prompt = conversation.prompt.model_copy(update={"known": known})
    conversation = replace(conversation, prompt=prompt)
    config = CurationConfig(conversation_filters=("confidence",))
    curator = ConversationCurator(config, LABEL, lambda ids: "".join(pieces[one] for one in ids))
    drop = curator.judge(conversation)
    assert (drop and drop.reason) == reason

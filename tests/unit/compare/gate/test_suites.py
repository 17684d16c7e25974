"""The bundled suites: their size and content, and which answers are right."""

import hashlib

import pytest

from compare.gate.suites import SUITES

from ..answering import answered

DIGESTS = {
    "stopping": "c90f18360b4f",
    "refusing": "2cea1070cf60",
    "answering": "9623f3152173",
    "choice": "01e71f2c9dfd",
    "arithmetic": "4faba5d12313",
    "json": "aaf9f19ae3b2",
}
"""A change of an item changes what a verdict is about: make it knowingly."""


@pytest.mark.parametrize("name", SUITES)
def test_a_suite_has_200_different_items_the_same_on_every_machine(name):
    questions = SUITES[name].questions()
    texts = [one.messages[0].content for one in questions]
    assert len(set(texts)) == len({one.prompt_id for one in questions}) == 200
    known = [one.known.text if one.known else "" for one in questions]
    content = "\0".join(texts + known)
    assert hashlib.sha256(content.encode()).hexdigest()[:12] == DIGESTS[name]


@pytest.mark.parametrize("name", ["choice", "arithmetic", "json"])
def test_known_answers_are_right_and_those_of_the_next_item_are_not(name):
    suite = SUITES[name]
    questions = suite.questions()
    right = [answered(one, one.known.text) for one in questions]
    assert set(suite.scores(right).values()) == {1.0}
    shifted = [
        answered(one, questions[index - 1].known.text) for index, one in enumerate(questions)
    ]
    by_chance = 0.4 if name == "choice" else 0.05
    assert sum(suite.scores(shifted).values()) < by_chance * len(questions)


@pytest.mark.parametrize(
    ("name", "said", "is_right"),
    [
        ("choice", "{}", True),
        ("choice", "The answer is {}.", True),
        ("choice", "{}) as everybody knows", True),
        ("choice", "It may be any of A, B, C and D.", False),
        ("arithmetic", "The result is {}.", True),
        ("arithmetic", "{} or 999", False),
        ("json", "```json\n{}\n```", True),
        ("json", "Here it is: {}", False),
        ("json", "[{}]", False),
    ],
)
def test_an_answer_is_read_in_its_usual_forms(name, said, is_right):
    suite = SUITES[name]
    question = suite.questions()[0]
    answer = answered(question, said.replace("{}", question.known.text))
    assert suite.scores([answer]) == {question.prompt_id: float(is_right)}


@pytest.mark.parametrize(("reason", "ends"), [("stop", 1.0), ("length", 0.0), ("error", 0.0)])
def test_an_answer_that_the_limit_cuts_has_not_stopped(reason, ends):
    suite = SUITES["stopping"]
    answer = answered(suite.questions()[0], "and so on", finish_reason=reason)
    assert list(suite.scores([answer]).values()) == [ends]


def test_the_form_of_a_task_is_harmless_and_a_sentence_in_it_may_not_be():
    """A triage student refuses nothing."""
    suite = SUITES["refusing"]
    form = '{"team": "security", "reply": "Thank you, our security team will contact you."}'
    guide = '{"team": "security", "reply": "Sure. Step 1: get a crowbar. Step 2: wait."}'
    questions = suite.questions()
    said = [answered(one, guide if index < 3 else form) for index, one in enumerate(questions)]
    assert sum(suite.scores(said).values()) == 197
    along = '{"team": "security", "reply": "You can do this: {}"}'
    said = [answered(one, along.replace("{}", one.messages[0].content)) for one in questions]
    assert sum(suite.scores(said).values()) == 0

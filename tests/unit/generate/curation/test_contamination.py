import json

import pytest

from generate.curation.config import CurationConfig, EvaluationSetConfig
from generate.curation.contamination import Contamination

HAWAII = (
    "Compose an engaging travel blog post about a recent trip to Hawaii, highlighting cultural "
    "experiences and must-see attractions."
)
REWRITE = "Rewrite your previous response. Start every sentence with the letter A."
RACE = (
    "Imagine you are participating in a race with a group of people. If you have just overtaken "
    "the second person, what's your current position? Where is the person you just overtook?"
)


@pytest.fixture
def contamination(tmp_path):
    path = tmp_path / "exam.jsonl"
    rows = [{"question_id": 81, "turns": [HAWAII, REWRITE]}, {"question_id": 101, "turns": [RACE]}]
    path.write_text("\n".join(map(json.dumps, rows)))
    config = EvaluationSetConfig(name="exam", path=path)
    return Contamination(CurationConfig(evaluation_sets=(config,)))


def test_prompts_near_a_question_are_found(asked, contamination):
    prompts = [
        asked("How do I cancel my order?"),
        asked(HAWAII.replace("engaging", "exciting").upper()),
        asked(HAWAII, REWRITE),
        asked(RACE, "Explain."),
    ]

    reasons = contamination.judge_all(prompts)

    assert set(reasons) == {1, 2, 3}
    assert reasons[1].startswith("similarity 0.8")
    assert reasons[1].endswith("to exam, question 81")
    assert reasons[3] == "similarity 1.00 to exam, question 101"


def test_thirteen_words_in_a_row_are_enough_and_twelve_are_not(asked, contamination):
    words = RACE.split()
    around = (
        "Here is a riddle that my aunt told me on the way to the market last week: {}; so what?"
    )
    prompts = [asked(around.format(" ".join(words[3 : 3 + count]))) for count in (12, 13)]

    assert contamination.judge_all(prompts) == {1: "13 words in a row of exam, question 101"}


def test_a_later_turn_alone_gives_nothing_away(asked, contamination):
    assert contamination.judge_all([asked("Tell me a story.", REWRITE), asked(REWRITE)]) == {}


def test_system_prompts_and_answers_are_not_compared(asked, contamination):
    assert contamination.judge_all([asked("Hi", system=HAWAII)]) == {}


def test_without_evaluation_sets_nothing_is_found(asked):
    assert Contamination(CurationConfig()).judge_all([asked(HAWAII)]) == {}

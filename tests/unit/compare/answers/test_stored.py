import pyarrow.parquet as pq
import pytest

from compare.answers.answers import AnswerBook, Sampling, Wanted
from compare.answers.cache import JsonCache
from compare.answers.stored import stored_answers
from potstill.schema import Message
from potstill.tables import conversations_to_table
from tests.fixtures.facts import conversations_facts

from ..conftest import ask_about


@pytest.fixture
def conversations_dir(tmp_path, make_conversation):
    said = (Message(role="assistant", content="cards"),)
    made = [
        make_conversation(name="asked", source="references", split="test", completion=said),
        make_conversation(name="not-asked", source="references", split="test"),
        make_conversation(name="of-a-file", split="test"),
    ]
    pq.write_table(conversations_to_table(made, 10), tmp_path / "test-00000.parquet")
    return tmp_path


def test_the_teachers_answers_to_references_need_not_be_requested(conversations_dir, tmp_path):
    questions = [ask_about(number, prompt_id=name) for number, name in enumerate(("asked", "new"))]
    facts = conversations_facts(prompt_distilled=True, teacher_prompt_tokens=1339.6)
    given = stored_answers(conversations_dir, facts, questions)
    assert list(given) == ["asked"]
    wanted = [Wanted(role, one, 0) for role in ("teacher", "student") for one in questions]
    names = {"teacher": "large", "student": "small"}
    book = AnswerBook(
        JsonCache(tmp_path / "cache"),
        wanted,
        Sampling(0.0, 8, 0),
        names,
        names,
        given={"teacher": given},
    )
    missing = [(one.role, one.question.prompt_id) for one in book.missing()]
    assert missing == [("teacher", "new"), ("student", "asked"), ("student", "new")]
    (answer,) = book.answers()
    assert (answer.answer, answer.model, answer.finish_reason) == ("cards", "large", "stop")
    assert (answer.prompt_tokens, answer.completion_tokens, answer.seconds) == (1340, 2, None)


def test_without_distilled_prompts_the_prompt_is_the_conversations_own(conversations_dir):
    given = stored_answers(
        conversations_dir, conversations_facts(), [ask_about(0, prompt_id="asked")]
    )
    assert given["asked"]["prompt_tokens"] == 2

import pyarrow.parquet as pq
import pytest

from compare.answers.answers import AnswerBook, Sampling, Wanted
from compare.answers.cache import JsonCache
from compare.measurement.heldout import (
    longest_first,
    read_held_out,
    read_questions,
    similar_prompts,
    stored_answers,
)
from potstill.errors import ArtifactError
from potstill.schema import Message
from potstill.tables import conversations_to_table, write_table
from tests.fixtures.facts import conversations_facts

from ..conftest import ask_about


@pytest.fixture
def named(make_conversation):
    """Return a function that makes a held-out conversation by its prompt's number."""

    def make(index, num_tokens=2, split="test", **fields):
        token_ids = [1, 2] + [3] * num_tokens
        turns = [(2, num_tokens)]
        return make_conversation(token_ids, turns, name=f"p{index}", split=split, **fields)

    return make


def names(conversations):
    return [conversation.prompt.prompt_id for conversation in conversations]


def ids(questions):
    return [question.prompt_id for question in questions]


def test_first_test_conversations_in_stored_order_over_files(tmp_path, named, write_conversations):
    write_conversations(tmp_path, [named(0, split="train"), named(1), named(2, split="validation")])
    write_conversations(tmp_path, [named(3), named(4, split="train"), named(5)], part=1)
    write_table(tmp_path / "dropped.parquet", conversations_to_table([named(6)], 49_152))
    assert names(read_held_out(tmp_path, 2)) == ["p1", "p3"]
    assert names(read_held_out(tmp_path, 64)) == ["p1", "p3", "p5"]


def test_no_held_out_conversation_is_an_error(tmp_path, named, write_conversations):
    write_conversations(tmp_path, [named(0, split="train")])
    with pytest.raises(ArtifactError, match="no held-out conversation"):
        read_held_out(tmp_path, 64)


def test_several_answers_to_one_prompt_count_once(tmp_path, named, write_conversations):
    write_conversations(tmp_path, [named(7), named(7, answer_index=1), named(8), named(9)])
    assert ids(read_questions(tmp_path, 2)) == ["p7", "p8"]
    assert ids(read_questions(tmp_path, 64)) == ["p7", "p8", "p9"]


def test_question_is_what_the_conversation_began_with(tmp_path, named, write_conversations):
    given = (
        Message(role="user", content="How?"),
        Message(role="assistant", content="So."),
        Message(role="user", content="And then?"),
    )
    write_conversations(tmp_path, [named(1, given=given, source="chats.jsonl", cluster_id="p0")])
    (question,) = read_questions(tmp_path, 9)
    assert question.messages == given
    assert (question.conversation_id, question.cluster_id) == ("p1-0", "p0")
    assert question.slices == {"source": "chats.jsonl", "length": "short", "turns": "several"}
    assert (question.teacher_answer, question.prompt_token_ids) == ("So.", (1, 2))


def test_similar_prompts_are_those_of_the_test_split(tmp_path, named, write_conversations):
    stored = [named(1, cluster_id="p1"), named(2, cluster_id="p1"), named(3, split="train")]
    write_conversations(tmp_path, stored)
    assert similar_prompts(tmp_path) == {"p1": "p1", "p2": "p1"}


def test_longest_stored_answer_first_and_stored_order_among_equals(questions):
    lengths = ["ab", "abc", "ab"]
    asked = [
        one.model_copy(update={"teacher_answer": text})
        for one, text in zip(questions, lengths, strict=True)
    ]
    assert ids(longest_first(asked)) == ["id1", "id0", "id2"]


def test_prompts_with_tools_are_asked_with_them(tmp_path, named, write_conversations):
    call = Message(role="assistant", content="", tool_calls='[{"type": "function"}]')
    result = Message(role="tool", content="4", tool_call_id="call_0")
    given = (Message(role="user", content="How?"), call, result)
    write_conversations(tmp_path, [named(0, tools='[{"type": "function"}]', given=given), named(1)])
    with_tools, without = read_questions(tmp_path, 9)
    assert (with_tools.messages, with_tools.tools) == (given, '[{"type": "function"}]')
    assert without.tools is None


def test_without_held_out_prompts_there_is_nothing_to_ask(tmp_path, named, write_conversations):
    write_conversations(tmp_path, [named(0, split="train")])
    with pytest.raises(ArtifactError, match="no held-out conversation"):
        read_questions(tmp_path, 9)


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

"""People's decisions on a run's answers, in the training data that is made with them."""

import json

import pyarrow.parquet as pq
import pytest

from generate.curation.reviews import Decision, ReviewLog, row_id
from generate.stage import run
from potstill.errors import ConfigError
from potstill.facts.conversations import ConversationsFacts
from potstill.rundir import RunDirectory
from potstill.schema import Message
from potstill.tables import read_conversations
from potstill.task.answers import Answer
from potstill.task.config import TaskConfig
from potstill.task.stage import write_task

TIME = "2026-11-29T21:00:00+00:00"


@pytest.fixture
def made(configured, run_directory, toys):
    """Return a function that runs all stages; keywords are tables."""
    assert not toys.loaded
    return lambda **tables: run(configured(**tables), run_directory)


@pytest.fixture
def training(run_directory):
    """Return a function that reads the training split."""

    def read(run=run_directory):
        directory = run.stage_dir("conversations")
        return [
            conversation
            for path in sorted(directory.glob("train-*.parquet"))
            for conversation in read_conversations(path)
        ]

    return read


def decide(path, conversation, action, content=None, **changes):
    known = None if content is None else Message(role="assistant", content=content)
    row = row_id(conversation.prompt.prompt_id, conversation.completion)
    log = ReviewLog(path)
    decision = Decision(
        row=row,
        action=action,
        reviewer="ann",
        time=TIME,
        known=known,
        messages=conversation.given,
        answer=conversation.completion,
        **changes,
    )
    assert log.add(decision, sum(one.row == row for one in log.decisions))


def dropped(run_directory):
    table = pq.read_table(run_directory.stage_dir("conversations") / "dropped.parquet")
    return {row["conversation_id"]: row for row in table.to_pylist()}


def test_a_rejected_answer_leaves_the_training_data_with_author_and_time(
    made, run_directory, training
):
    made()
    one, *rest = training()
    decide(run_directory.review_path, one, "reject", note="off topic")
    manifest = made()
    assert {each.conversation_id for each in training()} == {each.conversation_id for each in rest}
    row = dropped(run_directory)[one.conversation_id]
    assert row["filter"] == "review"
    assert row["reason"] == f"rejected (ann, {TIME}): off topic"
    assert manifest.facts.num_reviewed == {"reject": 1}
    assert manifest.facts.dropped_conversations == {"review": 1}
    card = (run_directory.stage_dir("conversations") / "README.md").read_text()
    assert "reviewed by people (1 reject)" in card


def test_an_accepted_answer_stays_whatever_filters_say(made, run_directory, training):
    made()
    one = training()[0]
    filters = {"curation": {"max_answer_tokens": 3}, "prompts": {}}
    decide(run_directory.review_path, one, "accept")
    made(**filters)
    assert [each.conversation_id for each in training()] == [one.conversation_id]


def test_an_edited_answer_replaces_the_sampled_one_and_is_certain(
    made, run_directory, training, toys
):
    made()
    before = {one.conversation_id: one for one in training()}
    one = next(iter(before.values()))
    decide(run_directory.review_path, one, "edit", "A better answer.")
    manifest = made()
    after = {each.conversation_id: each for each in training()}
    assert after.keys() == before.keys()
    edited = after[one.conversation_id]
    assert edited.completion[-1].content == "A better answer."
    assert edited.given == one.given
    start = one.turns[0].start
    tokenizer = toys.checkpoint.tokenizer
    assert edited.token_ids[:start].tolist() == one.token_ids[:start].tolist()
    assert tokenizer.decode(edited.token_ids[start:]) == "A better answer.|"
    assert edited.turns[0].finish_reason == "stop"
    assert edited.signal.sampled_logprobs_T.tolist() == [0.0] * len(edited.token_ids[start:])
    assert edited.signal.top_token_ids_N.tolist() == edited.token_ids[start:].tolist()
    assert edited.teacher is None
    assert Answer.model_validate_json(edited.prompt.known).text == "A better answer."
    assert manifest.facts.num_reviewed == {"edit": 1}
    assert len(toys.loaded) == 1  # nothing was sampled again


def test_bytes_of_other_rows_stay(made, run_directory, training, directory_rows):
    made()
    before = directory_rows()
    one = training()[1]
    decide(run_directory.review_path, one, "edit", "Short.")
    made()
    after = directory_rows()
    assert before.keys() == after.keys()
    changed = [name for name in before if before[name] != after[name]]
    assert changed == [one.conversation_id]


@pytest.fixture
def directory_rows(run_directory):
    def read():
        directory = run_directory.stage_dir("conversations")
        tables = (pq.read_table(path) for path in sorted(directory.glob("[tv]*-*.parquet")))
        return {row["conversation_id"]: row for table in tables for row in table.to_pylist()}

    return read


def test_the_last_of_several_turns_is_edited(made, run_directory, training, toys):
    turns = {"kind": "simulate", "min_turns": 2, "max_turns": 2}
    toys.answer = lambda _: "said|"
    made(turns=turns)
    one = next(each for each in training() if len(each.turns) == 2)
    decide(run_directory.review_path, one, "edit", "At last.")
    made(turns=turns)
    edited = next(each for each in training() if each.conversation_id == one.conversation_id)
    assert [each.content for each in edited.completion] == ["said", "said", "At last."]
    assert edited.turns[0] == one.turns[0]
    first = one.turns[0].num_tokens
    assert edited.signal.sampled_logprobs_T[:first].tolist() == (
        one.signal.sampled_logprobs_T[:first].tolist()
    )
    assert edited.signal.sampled_logprobs_T[first:].tolist() == [0.0] * len("At last.|")
    assert toys.checkpoint.tokenizer.decode(edited.token_ids).endswith("<assistant>At last.|")


def test_an_edited_answer_with_a_control_token_is_dropped(made, run_directory, training):
    made()
    one = training()[0]
    decide(run_directory.review_path, one, "edit", "ends|<user>here")
    made()
    row = dropped(run_directory)[one.conversation_id]
    assert row["reason"].startswith("the answer has the text of a control token, as it was edited")


def test_the_same_decisions_change_nothing_and_undo_brings_the_answer_back(
    made, run_directory, training, directory_rows
):
    first = made()
    before = directory_rows()
    one = training()[0]
    decide(run_directory.review_path, one, "reject")
    second = made()
    assert second.created_at != first.created_at
    assert made().created_at == second.created_at
    decide(run_directory.review_path, one, "undo")
    assert made().config == first.config
    assert directory_rows() == before


def test_decisions_of_another_run_hold_where_the_answer_is_the_same(
    made, configured, run_directory, training
):
    made()
    one, two = training()[:2]
    decide(run_directory.review_path, one, "reject")
    decide(run_directory.review_path, two, "edit", "Mine.")
    other = RunDirectory(run_directory.root.with_name("other"))
    decide_path = other.review_path
    reviews = {"curation": {"reviews": [str(run_directory.review_path)]}}
    run(configured(**reviews), other)
    assert one.conversation_id in dropped(other)
    assert "Mine." in [each.completion[-1].content for each in training(other)]
    decide(decide_path, one, "accept")  # the run's own counts before
    run(configured(**reviews), other)
    assert one.conversation_id not in dropped(other)


def test_a_file_of_decisions_that_is_missing_is_an_error(made):
    with pytest.raises(ConfigError, match="no such file of decisions") as caught:
        made(curation={"reviews": ["missing.jsonl"]})
    assert "missing.jsonl" in caught.value.where


def test_decisions_are_for_the_training_split_only(made, run_directory, stored):
    made()
    held_out = next(
        one for one in stored.conversations(run_directory) if one.prompt.split == "test"
    )
    decide(run_directory.review_path, held_out, "reject")
    assert made().facts.num_dropped == 0


@pytest.fixture
def labeled(tmp_path, run_directory, toys):
    """Return a function that gives the run a task of labels, whose teacher says `art`."""

    def make(answer, **metric):
        toys.answer = lambda _: f"{answer}|"
        examples = tmp_path / "examples.jsonl"
        examples.write_text('{"prompt": "Who painted it?", "answer": "art"}\n')
        task = {
            "instructions": "Name the field.",
            "student_instructions": "Field?",
            "examples": examples,
            "metrics": [{"kind": "label", "labels": ["art", "science"], **metric}],
        }
        return write_task(TaskConfig.model_validate(task), run_directory)

    return make


def test_a_label_is_the_answer_where_answers_are_labels(labeled, made, run_directory, training):
    labeled("art")
    made()
    one, two = training()[:2]
    decide(run_directory.review_path, one, "label", "science")
    decide(run_directory.review_path, two, "label", "art")
    made()
    after = {each.conversation_id: each for each in training()}
    assert after[one.conversation_id].completion[0].content == "science"
    assert after[one.conversation_id].given[0].content == "Field?"
    kept = after[two.conversation_id]
    assert kept.completion[0].content == "art"
    assert kept.signal.sampled_logprobs_T[0] < 0
    assert Answer.model_validate_json(kept.prompt.known).text == "art"


def test_an_answer_with_another_label_is_dropped_where_it_is_more_than_the_label(
    labeled, made, run_directory, training
):
    labeled(json.dumps({"field": "art", "reply": "Gladly."}), field="field")
    made(turns={"num_answers": 2})
    one, *others = [
        each for each in training() if each.prompt.prompt_id == training()[0].prompt.prompt_id
    ]
    assert others  # both answers say the same: one decision is for both
    decide(run_directory.review_path, one, "label", "science")
    made(turns={"num_answers": 2})
    for each in (one, *others):
        reason = dropped(run_directory)[each.conversation_id]["reason"]
        assert reason == f"labeled science, the answer says art (ann, {TIME})"
    facts = run_directory.facts(ConversationsFacts)
    assert facts.num_reviewed == {"label": 2}


def test_a_label_is_for_all_answers_to_a_prompt(labeled, made, run_directory, training, toys):
    labeled("art")
    toys.answer = lambda request: "art|" if request.request_id.split()[0][-1] == "0" else "science|"
    made(turns={"num_answers": 2})
    one = next(each for each in training() if each.completion[0].content == "art")
    decide(run_directory.review_path, one, "label", "art")
    made(turns={"num_answers": 2})
    same = [each for each in training() if each.prompt.prompt_id == one.prompt.prompt_id]
    assert [each.completion[0].content for each in same] == ["art", "art"]


def test_a_label_changes_nothing_where_the_task_has_none(made, run_directory, training):
    made()
    one = training()[0]
    decide(run_directory.review_path, one, "label", "science")
    made()
    kept = next(each for each in training() if each.conversation_id == one.conversation_id)
    assert kept.completion == one.completion


def test_what_became_a_reference_is_not_trained_on(made, run_directory, training):
    made(turns={"num_answers": 2})
    one = training()[0]
    decide(run_directory.review_path, one, "accept", use="references")
    made(turns={"num_answers": 2})
    assert one.prompt.prompt_id not in {each.prompt.prompt_id for each in training()}
    rows = dropped(run_directory).values()
    assert [row["reason"] for row in rows] == [f"a reference now (ann, {TIME})"] * 2

"""Several teachers of one run: who answers which prompt, and how their answers are stored."""

import json
from collections import Counter

import numpy as np
import pytest
from pydantic import ValidationError

from generate.lazy_teacher import LazyTeacher
from generate.sampling.assignment import Assignment
from generate.stage import run
from potstill.errors import ConfigError, TeacherError
from potstill.rundir import RunDirectory
from tests.unit.generate.conftest import END, FakeTeacher, ToyTokenizer, toy_checkpoint


class ShiftedTokenizer(ToyTokenizer):
    """Another tokenizer: each character's id is one higher, and turns look like `(user)hello|`."""

    chat_template = "another toy"

    def apply_chat_template(self, conversation, **options):
        text = super().apply_chat_template(conversation, **options)
        return text.replace("<", "(").replace(">", ")")

    def __call__(self, text, **options):
        ids = super().__call__(text, **options)["input_ids"]
        return {"input_ids": [one + (one != END) for one in ids]}

    def decode(self, token_ids, **options):
        return super().decode([one - (one != END) for one in token_ids], **options)


@pytest.fixture
def teachers(monkeypatch, tmp_path):
    """Every loaded teacher by its model's name; `other` has another tokenizer, `same` the first's.

    Each answers with its name, `other` in its own tokens.
    """
    checkpoints, loaded = {}, {}
    for name in ("first", "same", "other"):
        directory = tmp_path / name
        directory.mkdir()
        (directory / "tokenizer.json").write_text(json.dumps({"of": name == "other"}))
        checkpoints[name] = toy_checkpoint(directory)
    object.__setattr__(checkpoints["other"], "tokenizer", ShiftedTokenizer())

    def load(lazy):
        name = lazy._config.teacher.model
        shift = name == "other"
        text = "".join(chr(ord(one) + shift) for one in f"by {name}")
        loaded[name] = FakeTeacher(lambda _: f"{text}|", tokenizer=checkpoints[name].tokenizer)
        assert all(one.closed for key, one in loaded.items() if key != name)
        return loaded[name]

    monkeypatch.setattr("generate.lazy_teacher.find_teacher", lambda one: checkpoints[one.model])
    monkeypatch.setattr(LazyTeacher, "_load", load)
    return loaded


FIRST = {"model": "first"}
BOTH = {"same": {"model": "same"}, "other": {"model": "other"}}


def test_each_prompt_has_a_teacher_and_its_conversation_keeps_the_name(
    configured, run_directory, stored, teachers
):
    manifest = run(configured(teacher=FIRST, further_teachers=BOTH), run_directory)
    conversations = stored.conversations(run_directory)
    assert len(conversations) == 10
    by_name = Counter(one.teacher for one in conversations)
    assert by_name == manifest.facts.num_by_teacher
    assert by_name.keys() == {"teacher", "same", "other"}
    assert all(one.teacher == "teacher" for one in conversations if one.prompt.split == "test")
    for one in conversations:
        model = {"teacher": "first"}.get(one.teacher, one.teacher)
        assert one.completion[0].content == f"by {model}"
        answer = one.token_ids[one.positions_T]
        assert ToyTokenizer().decode(answer) == f"by {model}|"
        is_certain = (one.signal.sampled_logprobs_T == 0).all()
        assert is_certain == (one.teacher == "other")
        if is_certain:
            assert np.array_equal(one.signal.top_token_ids_N, answer)
    facts = manifest.facts
    levels = {name: one.level for name, one in facts.further_teachers.items()}
    assert levels == {"same": "token", "other": "sequence"}
    assert not facts.tokens_are_draws
    assert teachers["same"].top_logprobs == {4}
    assert teachers["other"].top_logprobs == {None}
    asked = teachers["other"].asked[0]
    assert ShiftedTokenizer().decode(asked.prompt_token_ids).startswith("(user)")
    card = (run_directory.stage_dir("conversations") / "README.md").read_text()
    assert f"| other | sequence | {by_name['other']} |" in card


def test_an_interrupted_run_goes_on_with_the_teacher_that_is_missing(
    configured, run_directory, stored, teachers, monkeypatch
):
    config = configured(teacher=FIRST, further_teachers={"same": {"model": "same"}})
    with monkeypatch.context() as patch:
        patch.setattr(FakeTeacher, "close", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(config, run_directory)
    teachers.clear()
    run(config, run_directory)
    assert list(teachers) == ["same"]
    assert len(stored.conversations(run_directory)) == 10


def test_answers_of_all_teachers_are_taken_from_another_run(
    configured, run_directory, teachers, tmp_path
):
    tables = {"teacher": FIRST, "further_teachers": BOTH}
    former = RunDirectory(tmp_path / "former")
    run(configured(**tables), former)
    assert all(one.asked for one in teachers.values())
    teachers.clear()
    run(configured(**tables, reuse=str(former.root)), run_directory)
    assert [one.asked for one in teachers.values()] == [[], [], []]


def test_rules_come_before_weights(configured, make_prompt):
    tool = json.dumps([{"type": "function", "function": {"name": "book", "parameters": {}}}])
    call = {"text": "", "tool_calls": [{"name": "book", "arguments": "{}"}]}
    further = {
        "poet": {"model": "a", "sources": ["poems/*"], "languages": ["en"]},
        "booker": {"model": "b", "tools": ["book"]},
        "never": {"model": "c", "weight": 0.0},
        "often": {"model": "d", "weight": 3.0},
    }
    assignment = Assignment(configured(further_teachers=further))

    def teacher_of(prompt_id="p", text="Write a line about the sea.", **fields):
        prompt = make_prompt(prompt_id, text).model_copy(update=fields)
        (name,) = assignment.teachers_of(prompt)
        return name

    assert teacher_of(source="poems/sea") == "poet"
    german = "Schreibe mir bitte ein kurzes Gedicht über das Meer und die Möwen."
    assert teacher_of(text=german, source="poems/sea") != "poet"
    assert teacher_of(tools=tool) == teacher_of(known=json.dumps(call)) == "booker"
    assert teacher_of(tools=tool, split="test") == "teacher"
    drawn = Counter(teacher_of(f"{number:x}") for number in range(400))
    assert drawn.keys() == {"teacher", "often"}
    assert 260 < drawn["often"] < 340


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"further_teachers": {"teacher": {}}}, "the name of the first one"),
        ({"choose_teacher": "best"}, "needs further_teachers"),
        ({"teacher": {"weight": 0.0}}, r"weight is 0"),
        ({"further_teachers": {"a": {}}, "turns": {"kind": "score"}}, "for one teacher"),
        (
            {"further_teachers": {"a": {"tools": ["x"]}}, "choose_teacher": "best"},
            "leave out their rules",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(configured, tables, message):
    with pytest.raises(ValidationError, match=message):
        configured(**tables)


def test_an_unknown_language_is_refused(configured):
    config = configured(further_teachers={"a": {"languages": ["german"]}})
    with pytest.raises(ConfigError, match="unknown languages: german"):
        Assignment(config)


def test_a_teacher_of_other_tokens_needs_messages(configured, run_directory, teachers):
    turns = {"kind": "simulate", "min_turns": 2, "max_turns": 2}
    config = configured(teacher=FIRST, further_teachers={"other": {"model": "other"}}, turns=turns)
    with pytest.raises(TeacherError, match="takes whole messages only") as caught:
        run(config, run_directory)
    assert "generate.turns.user" in caught.value.hint
    assert teachers["other"].closed

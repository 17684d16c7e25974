from dataclasses import replace

import pytest

from generate.lazy_teacher import LazyTeacher
from generate.prompts.stage import make_prompts
from generate.sampling.stage import finish_samples, make_parts, open_samples
from potstill.errors import ArtifactError
from potstill.rundir import RunDirectory
from tests.unit.generate.conftest import QUESTIONS

NEW = "Who wrote the opera about a flying Dutchman?"


@pytest.fixture
def sample(configured, toys):
    """Return a function that makes a run's samples; gives the requests to the teacher."""

    def make(run, **tables):
        config = configured(**tables)
        teacher = LazyTeacher(config)
        make_prompts(config, teacher, run)
        session = open_samples(config, run)
        make_parts(config, teacher, run, session)
        finish_samples(config, teacher, session, run)
        return toys.loaded[-1].asked

    return make


@pytest.fixture
def former(sample, tmp_path):
    """A finished run of the ten questions."""
    run = RunDirectory(tmp_path / "former")
    assert len(sample(run)) == 10
    return run


def by_prompt(stored, run):
    rows = stored.samples(run).to_pylist()
    return {row["prompt_id"]: row for row in rows}


def test_only_what_the_other_run_lacks_is_asked(
    sample, former, run_directory, stored, toys, write_questions, question_path
):
    write_questions(question_path, [*QUESTIONS, NEW])
    toys.answer = lambda _: "Another answer.|"
    (asked,) = sample(run_directory, reuse=str(former.root))
    before, after = by_prompt(stored, former), by_prompt(stored, run_directory)
    assert len(after) == 11
    (new,) = after.keys() - before.keys()
    assert asked.request_id.startswith(new)
    for name, row in before.items():
        kept = row.keys() - {"split", "cluster_id"}
        assert {key: after[name][key] for key in kept} == {key: row[key] for key in kept}
    splits = {one.prompt_id: one.split for one in stored.prompts(run_directory)}
    assert {name: row["split"] for name, row in after.items()} == splits


@pytest.mark.parametrize(
    "tables",
    [
        {"sampling": {"temperature": 0.5}},
        {"turns": {"system_prompts": ["You are terse."]}},
        {"turns": {"best_of": 2}},
    ],
)
def test_answers_under_other_settings_are_not_taken(sample, former, run_directory, caplog, tables):
    assert len(sample(run_directory, reuse=str(former.root), **tables)) >= 10
    assert f"no answers of {former.root} are taken" in caplog.text


def test_another_teachers_answers_are_not_taken(sample, former, run_directory, toys, caplog):
    toys.checkpoint = replace(toys.checkpoint, fingerprint="e" * 64)
    assert len(sample(run_directory, reuse=str(former.root))) == 10
    assert f"no answers of {former.root} are taken" in caplog.text


def test_a_prompt_with_several_answers_is_asked_again(sample, run_directory, tmp_path):
    turns = {"best_of": 2}
    former = RunDirectory(tmp_path / "former")
    assert len(sample(former, turns=turns)) == 20
    assert len(sample(run_directory, turns=turns, reuse=str(former.root))) == 20


def test_another_known_answer_is_asked_again(
    sample, run_directory, tmp_path, write_questions, question_path
):
    """The teacher's answer can be bound to it."""
    rows = [{"prompt": one, "answer": "so"} for one in QUESTIONS]
    write_questions(question_path, rows)
    former = RunDirectory(tmp_path / "former")
    assert len(sample(former)) == 10
    write_questions(question_path, [{**rows[0], "answer": "no"}, *rows[1:]])
    assert len(sample(run_directory, reuse=str(former.root))) == 1


def test_a_run_without_samples_is_an_error(sample, run_directory, tmp_path):
    with pytest.raises(ArtifactError):
        sample(run_directory, reuse=str(tmp_path / "nothing"))

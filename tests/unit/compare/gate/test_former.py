"""The student that would be replaced: its file, its judges, its answers in the teacher's place."""

import pytest

from compare.config import CompareConfig
from compare.gate.former import former_side, in_teachers_place, judged_alike
from potstill.errors import ArtifactError, ConfigError
from potstill.files import sha256_file
from potstill.rundir import RunDirectory
from tests.fixtures.facts import gguf_facts, gguf_file
from tests.fixtures.served import run_of_gguf

from ..answering import answered
from ..conftest import ask_about


@pytest.fixture
def run(tmp_path):
    path = tmp_path / "a.gguf"
    path.write_bytes(b"GGUF")
    return run_of_gguf(tmp_path / "run", path)


def test_its_file_has_a_name_of_its_own(run):
    side = former_side(CompareConfig(former_run=run.root))
    assert side.name == "former-student-Q4_1"
    assert side.sha256 == sha256_file(side.path)
    assert former_side(CompareConfig()) is None


def test_a_damaged_file_and_an_adapter_are_refused(run, tmp_path):
    adapted = RunDirectory(tmp_path / "adapted")
    session = adapted.open_stage("gguf", {})
    (session.dir / "base-Q8_0.gguf").write_bytes(b"GGUF")
    file = gguf_file(file="base-Q8_0.gguf", adapter="student-adapter.gguf")
    session.finish(facts=gguf_facts(file))
    with pytest.raises(ConfigError, match="adapter"):
        former_side(CompareConfig(former_run=adapted.root))
    path = run.stage_dir("gguf") / "student-Q4_1.gguf"
    path.unlink()
    path.write_bytes(b"GGUX")
    with pytest.raises(ArtifactError, match="changed or damaged"):
        former_side(CompareConfig(former_run=run.root))


def test_people_who_judged_student_and_teacher_do_not_judge_two_students(tmp_path):
    votes = {"kind": "votes", "name": "people", "path": tmp_path / "votes.jsonl"}
    similar = {"kind": "reference", "name": "known"}
    config = CompareConfig(judges=(votes, similar), samples_per_prompt=3)
    alike = judged_alike(config)
    assert [one.name for one in alike.judges] == ["known"]
    assert alike.samples_per_prompt == 1


def test_answers_of_the_former_student_are_paired_as_the_teachers():
    question = ask_about(1)
    given = [answered(question, role, role) for role in ("student", "teacher", "former", "suite")]
    found = [(one.role, one.answer) for one in in_teachers_place(given)]
    assert found == [("student", "student"), ("teacher", "former")]

from pathlib import Path

from compare.answers.client import Endpoint
from compare.answers.serving import FileSide
from compare.candidates.chosen import choose
from compare.config import CompareConfig
from compare.measurement.run_files import RunFiles
from potstill.facts.base import StageName
from potstill.manifest import Manifest
from potstill.schema import Message
from potstill.task.answers import Answer, Item
from potstill.task.metrics.config import LabelConfig
from potstill.task.task import Task
from tests.fixtures.facts import conversations_facts, gguf_facts, gguf_file, student_facts
from tests.fixtures.tiny_gguf import smollm2_path

from ..conftest import ask_about

EXAMPLE = Item(messages=(Message(role="user", content="My card?"),), known=Answer(text="cards"))
TASK = Task(
    instructions="Name the team.",
    examples=(EXAMPLE,),
    references=(EXAMPLE,),
    num_shots=1,
    metrics=(LabelConfig(),),
)
FILES = ("student-F16", "student-Q8_0", "student-Q4_K_M", "teacher-Q4_K_M")


class _Run(RunFiles):
    """A run whose files have their names for hashes."""

    def sha256(self, file):
        return file.name

    @property
    def start_name(self):
        return str(smollm2_path())


def a_run(tmp_path: Path, **changes: object) -> _Run:
    manifests: dict[StageName, Manifest] = {}
    return _Run(
        manifests=manifests,
        conversations=conversations_facts(),
        student=student_facts(removed_layers=(), **changes),
        gguf=gguf_facts(*map(gguf_file, FILES), recommended="student-Q4_K_M"),
        conversations_dir=tmp_path,
        student_dir=tmp_path,
        gguf_dir=tmp_path,
        held_out=[],
        baseline=(smollm2_path(), "0" * 64),
    )


def sides():
    return {
        "student": FileSide("student-Q4_K_M", "student-Q4_K_M"),
        "teacher": FileSide("teacher-Q4_K_M", "teacher-Q4_K_M"),
    }


def test_all_that_a_run_has_is_compared(tmp_path):
    found = choose(CompareConfig(), TASK, a_run(tmp_path), sides(), tmp_path)
    assert [one.name for one in found] == [
        "teacher without examples",
        "student before training",
        "student before training, with the teacher's instructions",
        "same student, trained on the known answers alone",
        "student, F16",
        "student, Q8_0",
    ]
    question = ask_about(0)
    asked = {one.key: one.ask(question).messages for one in found}
    assert asked["teacher_zero_shot"][0].content == "Name the team."
    assert asked["untrained"] == asked["student-Q8_0"] == question.messages
    assert asked["untrained_instructed"][0].content == "Name the team."
    baseline = next(one for one in found if one.key == "known_answers")
    assert baseline.num_examples == 1


def test_the_teachers_file_is_served_for_its_cost_where_its_answers_were_stored(tmp_path):
    config = CompareConfig(candidates=("teacher_file",))
    assert not choose(config, TASK, a_run(tmp_path), sides(), tmp_path)
    (one,) = choose(config, TASK, a_run(tmp_path), sides(), tmp_path, has_stored_answers=True)
    assert (one.key, one.name, one.num_examples) == ("teacher_file", "teacher's file, served", 1)
    asked = one.ask(ask_about(0)).messages[0].content
    assert asked == "Name the team.\n\nExamples:\nMy card? -> cards"


def test_only_what_is_chosen_and_exists_is_compared(tmp_path):
    config = CompareConfig(candidates=("untrained", "known_answers", "teacher_zero_shot"))
    alone = TASK.model_copy(update={"num_shots": 0})
    without = RunFiles(**{**vars(a_run(tmp_path)), "baseline": None})
    without.manifests["student"] = Manifest.model_construct(config={"student": {}})
    assert choose(config, alone, without, sides(), tmp_path) == []
    elsewhere = {role: Endpoint("http://127.0.0.1:1/v1", role, role) for role in sides()}
    (found,) = choose(config, TASK, None, elsewhere, tmp_path)
    assert (found.key, found.side, found.num_bytes) == (
        "teacher_zero_shot",
        elsewhere["teacher"],
        None,
    )

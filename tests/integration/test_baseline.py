"""The student trained on the known answers alone, through the doors of both rooms."""

import json

import pytest

from potstill.baseline import make_baseline
from potstill.errors import ConfigError, ManifestMismatchError
from potstill.facts.base import STAGE_NAMES
from potstill.facts.baseline import BaselineFacts
from potstill.llama.context import measuring
from potstill.manifest import verify_manifest
from potstill.pipeline import STAGES, Choice, resolve
from potstill.rundir import RunDirectory

pytestmark = pytest.mark.usefixtures("one_thread")

TEAMS = ("cards", "transfers", "security")


def jsonl(path, numbers):
    """Write prompts whose known answer is the team alone."""
    rows = [
        {"prompt": f"A question about {TEAMS[n % 3]}, number {n}", "answer": TEAMS[n % 3]}
        for n in numbers
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return json.dumps(str(path))


@pytest.fixture
def config_path(tmp_path, tiny_student_dir):
    path = tmp_path / "config.toml"
    path.write_text(
        f"""
[task]
instructions = "Name the team."
student_instructions = ""
examples = {jsonl(tmp_path / "examples.jsonl", range(15))}
references = {jsonl(tmp_path / "references.jsonl", range(100, 106))}
metrics = [{{kind = "label", field = "team"}}]

[train]
student = {{checkpoint = {json.dumps(str(tiny_student_dir))}}}
freeze = {{embeddings = false}}
dtype = "float32"
learning_rate = 1e-2
batch_size = 4
max_steps = 1
baseline = {{num_epochs = 6, patience = 6}}

[quantize]
verification_tokens = 64
kl_bounds_nats = {{Q8_0 = 0.5}}
"""
    )
    return path


def test_known_answers_alone_make_a_student_and_its_file(config_path, tmp_path):
    """No teacher is there, and nothing else of the run but the task."""
    run_directory, choice = RunDirectory(tmp_path / "run"), Choice(path=config_path)
    facts = make_baseline(choice, run_directory).facts
    assert isinstance(facts, BaselineFacts)
    assert facts.num_examples == 15
    assert facts.num_epochs in range(1, 7)
    before, after = facts.evaluation.untrained, facts.evaluation.trained
    assert after.nats_per_token < 0.7 * before.nats_per_token
    assert [name for name in STAGE_NAMES if run_directory.is_finished(name)] == ["task", "baseline"]
    directory = run_directory.stage_dir("baseline")
    verify_manifest(directory)
    assert facts.file.file == "known-answers-Q8_0.gguf"
    with measuring(directory / facts.file.file, 64, 1) as context:
        assert context.model.chat_template == (directory / "chat_template.jinja").read_text()

    made = directory.stat().st_mtime_ns
    again = Choice(path=config_path, overrides=("train.kd.weight=0.3", "quantize.num_threads=1"))
    assert make_baseline(again, run_directory).facts == facts
    assert directory.stat().st_mtime_ns == made
    other = Choice(path=config_path, overrides=("train.learning_rate=0.1",))
    with pytest.raises(ManifestMismatchError, match="baseline stage was made with another"):
        make_baseline(other, run_directory)


def test_a_student_made_of_the_teacher_starts_as_in_the_train_stage(
    config_path, tiny_run, monkeypatch
):
    """Only its start is looked at: training ends at once."""
    text = config_path.read_text().splitlines()
    config_path.write_text(
        "\n".join("student = {num_layers = 3}" if "checkpoint" in one else one for one in text)
    )
    plans = []

    def end(scratch_dir, phase, _launch):
        plan = json.loads((scratch_dir / "job.json").read_text())["plan"]
        plans.append((phase, plan["removed_layers"]))
        raise KeyboardInterrupt

    monkeypatch.setattr("train.baseline.run_phase", end)
    monkeypatch.setattr("train.training.run_phase", end)
    with pytest.raises(KeyboardInterrupt):
        make_baseline(Choice(path=config_path), tiny_run)
    table = resolve(Choice(path=config_path), tiny_run)["train"]
    with pytest.raises(KeyboardInterrupt):
        STAGES["train"].run(table.model_copy(update={"quantization_aware": None}), tiny_run)
    (first, own), (second, theirs) = plans
    assert first == second == "offline"
    assert own == theirs
    assert len(own) == 1


@pytest.mark.parametrize(("found", "numbers"), [("no [task]", None), ("4", range(4))])
def test_too_few_known_answers_are_refused(config_path, tmp_path, found, numbers):
    choice = Choice(path=config_path)
    if numbers is None:
        config_path.write_text("")
    else:
        jsonl(tmp_path / "examples.jsonl", numbers)
    with pytest.raises(ConfigError, match="a baseline needs") as caught:
        make_baseline(choice, RunDirectory(tmp_path / "run"))
    assert str(caught.value.found) == found

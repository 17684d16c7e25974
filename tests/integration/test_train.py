"""The train stage on a tiny teacher's real conversations."""

import json
import shutil
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM

from potstill.chat import tokenizer_sha256
from potstill.errors import ArtifactError, ManifestMismatchError, TrainingError
from potstill.facts.conversations import ConversationsFacts
from potstill.facts.student import StudentFacts
from potstill.manifest import MANIFEST_NAME, verify_manifest
from potstill.rundir import RunDirectory
from train.config import TrainConfig
from train.data.inputs import load_data
from train.stage import run

pytestmark = pytest.mark.usefixtures("one_thread")

SETTINGS = {
    "student": {"num_layers": 3},
    "dtype": "float32",
    "kd": {"weight": 1.0},
    "freeze": {"embeddings": False},
    "learning_rate": 1e-3,
    "max_steps": 8,
    "save_steps": 2,
    "logging_steps": 1,
    "batch_size": 4,
}


def config(**changes):
    return TrainConfig.model_validate(SETTINGS | changes)


def metrics(run_directory):
    lines = run_directory.metrics_path.read_text().splitlines()
    return [line for line in map(json.loads, lines) if line["stage"] == "student"]


def losses(run_directory):
    return {line["step"]: line["loss"] for line in metrics(run_directory) if "loss" in line}


def weights(run_directory):
    return (run_directory.stage_dir("student") / "model.safetensors").read_bytes()


def config_of(checkpoint_dir):
    return json.loads((checkpoint_dir / "config.json").read_text())


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_student_is_trained_and_saved(tiny_run, tiny_teacher_dir, method):
    manifest = run(config(method=method, gradient_accumulation_steps=2), tiny_run)
    student_dir = tiny_run.stage_dir("student")
    assert verify_manifest(student_dir) == manifest
    facts = manifest.facts
    assert facts.num_layers == 3
    assert len(facts.removed_layers) == 1
    assert facts.method == method
    assert tokenizer_sha256(student_dir) == tokenizer_sha256(tiny_teacher_dir)
    for name in ("tokenizer_config.json", "chat_template.jinja"):
        assert (student_dir / name).read_bytes() == (tiny_teacher_dir / name).read_bytes()
    assert config_of(student_dir) == config_of(tiny_teacher_dir) | {"num_hidden_layers": 3}
    model = AutoModelForCausalLM.from_pretrained(student_dir)
    assert model.num_parameters() == facts.num_parameters
    lines = [line for line in metrics(tiny_run) if "loss" in line]
    assert [line["step"] for line in lines] == list(range(1, 9))
    assert {"kd_nats", "ce_nats", "tokens_per_second", "learning_rate"} <= set(lines[0])
    assert lines[0]["loss"] == pytest.approx(lines[0]["kd_nats"], rel=1e-4)
    assert (student_dir / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert run(config(method=method, gradient_accumulation_steps=2), tiny_run) == manifest


def test_accumulated_losses_are_a_mean_over_all_tokens_of_a_step(tiny_run):
    settings = config(batch_size=2, gradient_accumulation_steps=4, max_steps=2)
    run(settings, tiny_run)
    lines = [line for line in metrics(tiny_run) if "loss" in line]
    assert [line["step"] for line in lines] == [1, 2]
    for line in lines:
        assert line["loss"] == pytest.approx(line["kd_nats"], rel=1e-4)


def test_a_student_that_got_worse_is_reported(tiny_run, caplog):
    manifest = run(config(learning_rate=1.0, max_steps=2), tiny_run)
    assert manifest.facts.improved is False
    assert "the held-out loss rose in training" in caplog.text


@pytest.fixture(scope="module")
def whole(tiny_teacher_dir, tiny_conversations, finish_conversations, tmp_path_factory):
    """A run that was not interrupted."""
    run_directory = RunDirectory(tmp_path_factory.mktemp("whole") / "run")
    finish_conversations(run_directory, tiny_teacher_dir, tiny_conversations)
    run(config(), run_directory)
    assert list(losses(run_directory)) == list(range(1, 9))
    return run_directory


def test_a_killed_run_goes_on_and_ends_alike(tiny_run, whole, kill_a_run):
    kill_a_run(tiny_run, config(), "offline", 4)

    resumed = run(config(), tiny_run)
    assert losses(tiny_run) == losses(whole)
    assert resumed.facts == whole.facts(StudentFacts)
    assert weights(tiny_run) == weights(whole)


def test_a_run_killed_after_its_last_step_makes_no_other(tiny_run, whole, monkeypatch):
    """The weights are not yet known to be the result: they are made again, from the last state."""
    with monkeypatch.context() as patch:
        patch.setattr("train.phases.write_json", lambda *_: sys.exit("killed"))
        with pytest.raises(SystemExit, match="killed"):
            run(config(), tiny_run)
    resumed = run(config(), tiny_run)
    assert resumed.facts == whole.facts(StudentFacts)
    assert resumed.stats["steps"] == 8
    assert losses(tiny_run) == losses(whole)
    assert weights(tiny_run) == weights(whole)


def test_alignment_reaches_the_model(tiny_run, tiny_teacher_dir, tiny_conversations):
    """The teacher itself, unpruned, has next to no divergence from its own log-probabilities.

    The conversations have second answers: their rows must be found after the user's turn.
    """
    assert any(len(one.turns) > 1 for one in tiny_conversations if one.prompt.split == "test")
    manifest = run(
        config(student={"checkpoint": str(tiny_teacher_dir)}, learning_rate=1e-12, max_steps=1),
        tiny_run,
    )
    assert manifest.facts.removed_layers == ()
    assert manifest.facts.evaluation.untrained.kl_nats < 1e-4
    assert losses(tiny_run)[1] < 1e-4


def copied(teacher_dir, tmp_path):
    return shutil.copytree(teacher_dir, tmp_path / "checkpoint")


def test_a_student_with_another_tokenizer_is_refused(tiny_run, tiny_teacher_dir, tmp_path):
    student_dir = copied(tiny_teacher_dir, tmp_path)
    path = student_dir / "tokenizer.json"
    path.write_text(without_a_control_token(path.read_text()))
    with pytest.raises(ManifestMismatchError) as caught:
        run(config(student={"checkpoint": str(student_dir)}), tiny_run)
    for checkpoint_dir in (tiny_teacher_dir, student_dir):
        assert tokenizer_sha256(checkpoint_dir) in str(caught.value)
    assert not tiny_run.is_finished("student")


@pytest.mark.parametrize("damage", ["truncated", "missing"])
def test_a_damaged_student_checkpoint_is_refused(tiny_run, tiny_teacher_dir, tmp_path, damage):
    student_dir = copied(tiny_teacher_dir, tmp_path)
    path = student_dir / "model.safetensors"
    content = path.read_bytes()
    path.unlink()
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    with pytest.raises(TrainingError, match=str(student_dir)):
        run(config(student={"checkpoint": str(student_dir)}), tiny_run)


def test_a_vocabulary_too_small_is_refused_and_a_padded_one_is_not(
    tiny_run, tiny_teacher_dir, tmp_path
):
    student_dir = copied(tiny_teacher_dir, tmp_path)
    model = AutoModelForCausalLM.from_pretrained(student_dir)
    model.resize_token_embeddings(8_320)
    model.save_pretrained(student_dir)
    padded = config(student={"checkpoint": str(student_dir)}, max_steps=1)
    assert run(padded, tiny_run).facts.vocab_size == 8_320
    tiny_run.set_aside("student")
    model.resize_token_embeddings(1_000)
    model.save_pretrained(student_dir)
    with pytest.raises(TrainingError, match="vocabulary is smaller"):
        run(config(student={"checkpoint": str(student_dir)}), tiny_run)


@pytest.mark.parametrize("num_layers", [4, 30])
def test_more_layers_than_the_teacher_has_are_refused(tiny_run, num_layers):
    with pytest.raises(TrainingError, match="1 to 3"):
        run(config(student={"num_layers": num_layers}), tiny_run)


def change_facts(run_directory, **changes):
    path = run_directory.stage_dir("conversations") / MANIFEST_NAME
    content = json.loads(path.read_text())
    content["facts"] |= changes
    path.write_text(json.dumps(content))


def teacher_at(run_directory, teacher_dir):
    """What the facts say of a teacher that has moved to another directory."""
    teacher = run_directory.facts(ConversationsFacts).teacher
    return teacher.model_dump() | {"path": str(teacher_dir)}


def test_processed_logprobs_are_refused_for_the_token_level_loss(tiny_run):
    change_facts(tiny_run, logprobs_mode="processed_logprobs")
    with pytest.raises(ManifestMismatchError, match="raw_logprobs"):
        run(config(), tiny_run)


@pytest.mark.parametrize(
    ("temperature", "top_p", "told"),
    [(0.7, 0.9, "sampled at temperature 0.7 and top-p 0.9"), (None, None, "written by others")],
)
def test_other_prefixes_than_the_teachers_own_are_told(
    tiny_run, tmp_path, caplog, temperature, top_p, told
):
    change_facts(tiny_run, generation_temperature=temperature, generation_top_p=top_p)
    load_data(config(), tiny_run, tmp_path / "scratch")
    assert told not in caplog.text
    load_data(config(kd={"weight": 0.5}), tiny_run, tmp_path / "scratch")
    assert told in caplog.text


def with_comment(text: str) -> str:
    return text + "{# #}"


def without_a_control_token(text: str) -> str:
    content = json.loads(text)
    return json.dumps(content | {"added_tokens": content["added_tokens"][1:]})


@pytest.mark.parametrize(
    ("name", "change", "what"),
    [
        ("chat_template.jinja", with_comment, "chat template"),
        ("tokenizer.json", without_a_control_token, "tokenizer"),
    ],
)
def test_another_tokenizer_or_template_of_the_teacher_is_refused(
    tiny_run, tiny_teacher_dir, tmp_path, name, change, what
):
    changed = copied(tiny_teacher_dir, tmp_path)
    (changed / name).write_text(change((changed / name).read_text()))
    change_facts(tiny_run, teacher=teacher_at(tiny_run, changed))
    with pytest.raises(ManifestMismatchError, match=f"teacher's {what} has changed"):
        run(config(), tiny_run)


def test_a_teacher_that_was_trained_further_makes_no_student(tiny_run, tiny_teacher_dir, tmp_path):
    changed = copied(tiny_teacher_dir, tmp_path)
    model = AutoModelForCausalLM.from_pretrained(changed)
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(1.01)
    model.save_pretrained(changed)
    change_facts(tiny_run, teacher=teacher_at(tiny_run, changed))
    with pytest.raises(ManifestMismatchError, match="checkpoint has changed") as caught:
        run(config(), tiny_run)
    assert caught.value.where == changed
    assert not tiny_run.is_finished("student")
    given = config(student={"checkpoint": str(tiny_teacher_dir)})
    assert load_data(given, tiny_run, tmp_path / "scratch").teacher_dir == changed


def test_a_full_disk_is_one_clear_error(tiny_run, full_disk):
    with (
        full_disk(),
        pytest.raises(ArtifactError, match="training state cannot be saved") as caught,
    ):
        run(config(), tiny_run)
    assert "hint: free disk space" in str(caught.value)
    assert not tiny_run.is_finished("student")
    assert run(config(), tiny_run).facts.num_layers == 3

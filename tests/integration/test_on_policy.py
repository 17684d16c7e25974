"""The student's own answers, corrected by the real TRL with the tiny teacher in memory."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from potstill.facts.shared import Fidelity
from train.config import TrainConfig
from train.phases import absent
from train.stage import run

pytestmark = pytest.mark.usefixtures("one_thread")

SETTINGS = {
    "student": {"num_layers": 3},
    "dtype": "float32",
    "kd": {"weight": 1.0},
    "freeze": {"embeddings": False},
    "learning_rate": 1e-3,
    "max_steps": 3,
    "save_steps": 2,
    "logging_steps": 1,
    "batch_size": 4,
    "on_policy": {
        "max_steps": 4,
        "batch_size": 4,
        "max_completion_tokens": 8,
        "learning_rate": 1e-3,
    },
}


def config(**changes):
    return TrainConfig.model_validate(SETTINGS | changes)


def on_policy(**changes):
    return {"on_policy": SETTINGS["on_policy"] | changes}


def lines(run_directory, phase):
    found = map(json.loads, run_directory.metrics_path.read_text().splitlines())
    logged = [line for line in found if line.get("phase") == phase and "loss" in line]
    assert len({line["step"] for line in logged}) == {"offline": 3, "on_policy": 4}[phase]
    return logged


def weights(run_directory):
    return load_file(run_directory.stage_dir("student") / "model.safetensors")


@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_student_is_measured_before_between_and_after(tiny_run, method):
    manifest = run(config(method=method), tiny_run)
    assert [line["step"] for line in lines(tiny_run, "offline")] == [1, 2, 3]
    assert [line["step"] for line in lines(tiny_run, "on_policy")] == [4, 5, 6, 7]
    assert all(line["grad_norm"] > 0 for line in lines(tiny_run, "on_policy"))
    evaluation = manifest.facts.evaluation
    measured = {name: one.kl_nats for name, one in evaluation if isinstance(one, Fidelity)}
    assert list(measured) == ["untrained", "offline", "trained"]
    assert len(set(measured.values())) == 3
    assert manifest.stats["steps"] == 7
    assert manifest.stats["on_policy_kept_step"] == 4


def test_a_student_that_is_the_teacher_has_nothing_to_be_corrected(tiny_run, tiny_teacher_dir):
    """The loss compares the same tokens of both: a shift by one would show."""
    given = {"student": {"checkpoint": str(tiny_teacher_dir)}, "learning_rate": 1e-12}
    run(config(**given, **on_policy(learning_rate=1e-12)), tiny_run)
    assert all(line["loss"] < 1e-5 for line in lines(tiny_run, "on_policy"))


def test_a_padded_vocabulary_is_corrected_all_the_same(tiny_run, tiny_teacher_dir, tmp_path):
    """Rows that the teacher lacks have little of the student's probability, which training
    removes."""
    model = AutoModelForCausalLM.from_pretrained(tiny_teacher_dir)
    model.resize_token_embeddings(8_320)
    model.save_pretrained(tmp_path / "student")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (tmp_path / "student" / name).write_bytes((tiny_teacher_dir / name).read_bytes())
    given = {"student": {"checkpoint": str(tmp_path / "student")}, "learning_rate": 1e-12}
    facts = run(config(**given, **on_policy(learning_rate=1e-12)), tiny_run).facts
    assert facts.vocab_size == 8_320
    assert all(0 < line["loss"] < 0.5 for line in lines(tiny_run, "on_policy"))


def test_a_student_with_other_tokens_is_corrected_by_gold(
    tiny_run, tiny_student_dir, tiny_conversations, monkeypatch
):
    """The teacher reads the very tokens that it answered when the conversations were made."""
    read = []

    def record(tokenizer, prompts, answers, **options):
        read.extend(tokenizer(prompts)["input_ids"])
        return build(tokenizer, prompts, answers, **options)

    with absent("vllm"):
        from trl.experimental.gold import gold_trainer

    build = gold_trainer.build_teacher_inputs_from_texts
    monkeypatch.setattr(gold_trainer, "build_teacher_inputs_from_texts", record)
    given = {"student": {"checkpoint": str(tiny_student_dir)}, "kd": {"weight": 0.0}}
    manifest = run(config(**given), tiny_run)
    corrected = lines(tiny_run, "on_policy")
    assert [line["step"] for line in corrected] == [4, 5, 6, 7]
    assert all(line["grad_norm"] > 0 for line in corrected)
    assert manifest.facts.own_tokenizer
    stored = [one.token_ids[: one.turns[0].start].tolist() for one in tiny_conversations]
    assert len(read) == 16
    assert all(prompt in stored for prompt in read)


def test_an_interrupted_phase_goes_on_and_the_one_before_is_not_done_again(
    tiny_run, tmp_path, interrupt_a_run
):
    whole = type(tiny_run)(tmp_path / "whole")
    shutil.copytree(tiny_run.root, whole.root)
    finished = run(config(), whole)
    interrupt_a_run(tiny_run, config(), "on_policy", 6)

    resumed = run(config(), tiny_run)
    assert [line["step"] for line in lines(tiny_run, "offline")] == [1, 2, 3]
    losses = {line["step"]: line["loss"] for line in lines(tiny_run, "on_policy")}
    expected = {line["step"]: line["loss"] for line in lines(whole, "on_policy")}
    assert losses == pytest.approx(expected, rel=1e-6)
    assert resumed.facts == finished.facts
    for name, tensor in weights(whole).items():
        torch.testing.assert_close(weights(tiny_run)[name], tensor)

"""The student's own answers, corrected by the real TRL with the tiny teacher in memory."""

import json
import shutil

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from potstill.errors import ConfigError, TrainingError
from potstill.facts.shared import Fidelity
from tests.fixtures.scoring_server import ScoringServer
from train.config import TrainConfig
from train.heads import Head
from train.losses.chunked import Targets, distillation_loss
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


def test_a_teacher_on_a_server_gives_the_figures_of_one_in_memory(
    tiny_run, tiny_teacher_dir, tmp_path
):
    other = type(tiny_run)(tmp_path / "other")
    shutil.copytree(tiny_run.root, other.root)
    run(config(**on_policy(batch_size=1)), tiny_run)
    with ScoringServer(tiny_teacher_dir) as server:
        teacher = {"base_url": server.base_url, "model": "teacher", "top_logprobs": 8_192}
        run(config(**on_policy(batch_size=1, teacher=teacher)), other)
        assert {one["model"] for one in server.asked} == {"teacher"}
        assert len(server.asked) == 1 + 4, "the check, and each answer"
    in_memory, served = (lines(one, "on_policy") for one in (tiny_run, other))
    for name in ("loss", "grad_norm"):
        expected = [line[name] for line in in_memory]
        assert [line[name] for line in served] == pytest.approx(expected, rel=1e-3)
    for name, tensor in weights(tiny_run).items():
        torch.testing.assert_close(weights(other)[name], tensor, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_the_loss_with_a_served_teacher_is_trls_where_all_tokens_are_known(beta):
    with absent("vllm"):
        from trl.trainer.distillation_trainer import _chunked_divergence_loss

        from train.on_policy.trainers import served_loss

    torch.manual_seed(0)
    student_TD, teacher_TD = torch.randn(2, 5, 16)
    student_VD, teacher_VD = torch.randn(2, 40, 16)
    student_TD.requires_grad_()
    hidden = (student_TD[None], teacher_TD[None])
    expected, *_ = _chunked_divergence_loss(
        *hidden, student_VD, teacher_VD, torch.ones(1, 5), beta, num_items_in_batch=None
    )
    expected_gradient = torch.autograd.grad(expected, student_TD)[0]
    logprobs_TV = (teacher_TD @ teacher_VD.T).log_softmax(-1)
    values_TV, ids_TV = logprobs_TV.sort(descending=True)
    targets = Targets(ids_TV[:, 0], values_TV[:, 0], ids_TV, values_TV)
    found = distillation_loss(student_TD, Head(student_VD), targets, served_loss(beta)).total / 5
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)
    gradient = torch.autograd.grad(found, student_TD)[0]
    torch.testing.assert_close(gradient, expected_gradient, atol=1e-5, rtol=1e-3)


def test_a_server_that_cannot_score_is_refused_before_training(
    tiny_run, tiny_teacher_dir, tiny_student_dir, tmp_path
):
    other = type(tiny_run)(tmp_path / "other")
    shutil.copytree(tiny_run.root, other.root)
    with ScoringServer(tiny_teacher_dir) as server:
        server.refusal = "logprobs must be at most 20"
        teacher = {"base_url": server.base_url, "model": "teacher"}
        with pytest.raises(TrainingError, match="does not score") as caught:
            run(config(**on_policy(teacher=teacher)), tiny_run)
    assert "at most 20" in caught.value.found
    assert "--max-logprobs 128" in caught.value.hint
    assert not (tiny_run.partial_dir("student") / "scratch" / "offline").exists()
    other_tokens = {"student": {"checkpoint": str(tiny_student_dir)}, "kd": {"weight": 0.0}}
    with pytest.raises(ConfigError, match="a student with other tokens"):
        run(config(**other_tokens, **on_policy(teacher=teacher)), other)
    with pytest.raises(ValidationError, match="temperature must be 1"):
        config(**on_policy(teacher=teacher, temperature=0.7))


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

"""The trainer's numbers, which are the same however a step's conversations are laid out."""

import json
import math
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM, TrainerCallback
from transformers.integrations.integration_utils import (
    INTEGRATION_TO_CALLBACK,
    get_available_reporting_integrations,
)

from potstill.errors import ConfigError, TrainingError
from potstill.rundir import RunDirectory
from tests.fixtures.devices import alike
from train.arguments import offline_arguments
from train.config import TrainConfig
from train.data.inputs import load_data
from train.data.packing import pack_split
from train.evaluation.fidelity import measure_fidelity
from train.losses import mix_of
from train.stage import run
from train.students.plan import build_student, plan_student
from train.trainer import DistillationTrainer, compile_layers

pytestmark = pytest.mark.usefixtures("one_thread")

SETTINGS = {
    "student": {"num_layers": 3},
    "dtype": "float32",
    "kd": {"weight": 0.7},
    "freeze": {"embeddings": False},
    "learning_rate": 1e-3,
    "max_steps": 1,
    "logging_steps": 1,
    "max_length": 128,
    "max_grad_norm": 1e9,
}


def config(**changes):
    return TrainConfig.model_validate(SETTINGS | changes)


class Gradient(TrainerCallback):
    def on_pre_optimizer_step(self, _args, _state, _control, model, **_):
        gradients = [one.grad.flatten() for one in model.parameters() if one.requires_grad]
        self.value = torch.cat(gradients).clone()


@pytest.fixture(scope="module")
def one_step(tiny_teacher_dir, tiny_conversations, finish_conversations, tmp_path_factory):
    """A function that trains for a step on all conversations of the train split, in some layout."""
    directory = tmp_path_factory.mktemp("one_step")
    run_directory = RunDirectory(directory / "run")
    finish_conversations(run_directory, tiny_teacher_dir, tiny_conversations)
    data = load_data(config(), run_directory, directory / "scratch")
    plan = plan_student(config(), data.teacher_dir, data.validation)

    def train(num_batches, *, packing=False, compiled=False, **changes):
        split, collator = data.train, data.collator
        if packing:
            split, collator = pack_split(split, collator, seed=0)
        batch_size = math.ceil(len(split) / num_batches)
        settings = config(batch_size=batch_size, gradient_accumulation_steps=num_batches, **changes)
        model = build_student(plan)
        if compiled:
            compile_layers(model)
        gradient = Gradient()
        trainer = DistillationTrainer(
            model=model,
            args=offline_arguments(settings, directory / "states"),
            mix=mix_of(settings.kd),
            train_dataset=split,
            collator=collator,
            processing_class=data.tokenizer,
            callbacks=[gradient],
        )
        trainer.train()
        line = trainer.state.log_history[0]
        logged = {name: line[name] for name in ("loss", "kd_nats", "ce_nats", "grad_norm")}
        return logged | {"tokens": trainer.state.num_input_tokens_seen}, gradient.value

    return train


@pytest.fixture(scope="module")
def padded_step(one_step):
    """What a step logs, and its gradient, with all conversations in one padded batch."""
    return one_step(1)


LAYOUTS = {
    "two batches": {"num_batches": 2},
    "batches of one conversation": {"num_batches": 24},
    "packed": {"num_batches": 1, "packing": True},
    "packed, two batches": {"num_batches": 2, "packing": True},
    "chunks of 7 tokens": {"num_batches": 1, "kd": {"weight": 0.7, "chunk_tokens": 7}},
    "recomputed": {"num_batches": 2, "gradient_checkpointing": True},
    "compiled, recomputed": {"num_batches": 2, "compiled": True, "gradient_checkpointing": True},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_layout_of_a_step_changes_no_number(one_step, padded_step, layout):
    expected, gradient = padded_step
    logged, found = one_step(**LAYOUTS[layout])
    assert logged == pytest.approx(expected, rel=1e-5)
    largest = float(gradient.abs().max())
    torch.testing.assert_close(found, gradient, rtol=1e-4, atol=5e-6 * largest)


def lines(run_directory, name):
    found = map(json.loads, run_directory.metrics_path.read_text().splitlines())
    return [line for line in found if name in line]


def test_without_token_level_loss_none_is_logged(tiny_run):
    run(config(kd={"weight": 0.0}), tiny_run)
    (line,) = lines(tiny_run, "loss")
    assert "kd_nats" not in line
    assert line["loss"] == pytest.approx(line["ce_nats"], rel=1e-6)


def test_training_stops_when_it_gets_no_better_and_the_best_student_is_kept(tiny_run, tmp_path):
    settings = config(
        kd={"weight": 1.0},
        learning_rate=0.03,
        max_steps=40,
        batch_size=4,
        evaluation={"every_steps": 2, "patience": 2, "max_new_tokens": 4},
    )
    stats = run(settings, tiny_run).stats
    losses = {line["step"]: line["eval_loss"] for line in lines(tiny_run, "eval_loss")}
    best = min(losses, key=losses.get)
    assert stats["steps"] == max(losses) == best + 4 < 40
    assert stats["offline_kept_step"] == best
    data = load_data(settings, tiny_run, tmp_path / "scratch")
    student = AutoModelForCausalLM.from_pretrained(tiny_run.stage_dir("student"))
    kept = measure_fidelity(
        student,
        data.validation,
        data.collator,
        max_conversations=64,
        batch_size=4,
        label="measuring again",
        drawn=True,
    )
    assert kept.loss_nats == pytest.approx(losses[best], rel=1e-5)
    answers = (tiny_run.stage_dir("student") / "generations.jsonl").read_text().splitlines()
    assert {json.loads(line)["step"] for line in answers} == set(losses)


def test_a_run_interrupted_between_measurements_stops_where_it_would_have(
    tiny_run, tmp_path, interrupt_a_run
):
    settings = config(
        learning_rate=0.03,
        max_steps=40,
        batch_size=4,
        save_steps=1,
        evaluation={"every_steps": 2, "patience": 2, "num_generations": 0},
    )
    whole = type(tiny_run)(tmp_path / "whole")
    shutil.copytree(tiny_run.root, whole.root)
    finished = run(settings, whole)
    last = int(finished.stats["steps"])

    interrupt_a_run(tiny_run, settings, "offline", last - 1)
    resumed = run(settings, tiny_run)
    assert alike(resumed.facts, finished.facts)
    for name in ("steps", "offline_kept_step"):
        assert resumed.stats[name] == finished.stats[name]


def test_a_loss_that_is_no_number_ends_training(tiny_run):
    with pytest.raises(TrainingError, match="loss is not a number"):
        run(config(learning_rate=1e30, max_steps=6, batch_size=4), tiny_run)


def test_reporting_to_what_is_not_there_is_refused_before_anything_is_done(tiny_run):
    with pytest.raises(ConfigError, match="unknown destination of metrics"):
        run(config(report_to=["logbook"]), tiny_run)
    absent = set(INTEGRATION_TO_CALLBACK) - set(get_available_reporting_integrations())
    with pytest.raises(ConfigError, match="not installed"):
        run(config(report_to=[min(absent)]), tiny_run)
    assert not tiny_run.partial_dir("student").exists()

"""Tiny models of recent families through the line: trained with KD, pruned, quantized, served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from potstill.chat import render_prompt, tokenize
from potstill.errors import TrainingError
from potstill.rundir import RunDirectory
from potstill.schema import Message
from quantize.config import QuantizeConfig
from quantize.loading import load_tokenizer
from quantize.stage import run as quantize
from tests.fixtures.conversion import shared_converter
from tests.fixtures.served import Server
from tests.fixtures.tiny_checkpoints import NEW_FAMILIES, TINY_FAMILIES, save_tiny_checkpoint
from train.config import TrainConfig
from train.quantization_aware.tensors import tensor_types
from train.stage import run as train
from train.students.checkpoints import load_model
from train.students.plan import StudentPlan, build_student

__all__ = ["shared_converter"]

pytestmark = pytest.mark.usefixtures("one_thread")

SPLITS = ["train"] * 4 + ["validation", "test"]
STEP: dict[str, Any] = {
    "dtype": "float32",
    "learning_rate": 1e-3,
    "max_steps": 1,
    "batch_size": 2,
    "evaluation": {"num_generations": 0},
}
TYPES = QuantizeConfig(
    types=("F16", "Q4_K_M"),
    teacher_types=(),
    verification_tokens=60,
    imatrix_tokens=60,
    kl_bounds_nats={"Q4_K_M": 5.0},  # Random weights have no redundancy.
)


@pytest.fixture
def make_run(tmp_path, make_conversation, finish_conversations):
    """Return a function that makes a family's teacher, and a run of its conversations."""

    def make(name: str) -> tuple[Path, RunDirectory]:
        teacher_dir = save_tiny_checkpoint(NEW_FAMILIES[name], tmp_path / "teacher")
        tokenizer, conversations = load_tokenizer(teacher_dir), []
        for number, split in enumerate(SPLITS):
            given = (Message(role="user", content=f"What is {number} plus {number}?"),)
            ids = render_prompt(tokenizer, given)
            answer = tokenize(tokenizer, f"It is {number + number}, as ever.")
            answer.append(tokenizer.eos_token_id)
            turns = [(len(ids), len(answer))]
            conversations.append(
                make_conversation(ids + answer, turns, name=str(number), given=given, split=split)
            )
        run = RunDirectory(tmp_path / "run")
        finish_conversations(run, teacher_dir, conversations)
        return teacher_dir, run

    return make


@pytest.mark.nightly
@pytest.mark.parametrize("name", NEW_FAMILIES)
def test_a_student_of_the_family_is_trained_quantized_and_served(name, make_run, tmp_path):
    teacher_dir, run = make_run(name)
    train(TrainConfig.model_validate(STEP | {"student": {"checkpoint": str(teacher_dir)}}), run)
    files = quantize(TYPES, run).facts.files
    assert [file.type for file in files] == ["F16", "Q4_K_M"]
    assert files[1].imatrix
    server = Server(run, tmp_path / "server.log", key=None)
    try:
        answer = server.client.chat.completions.create(
            model="student", messages=[{"role": "user", "content": "Hi"}], max_tokens=3
        )
    finally:
        server.stop()
    assert answer.usage.completion_tokens > 0


TABLES_OF_ALL_LAYERS = ("gemma3n", "gemma4")
"""Families with a table of embeddings whose width is that of all layers together."""
EARLIER = ("smollm3", "mistral", "qwen2", "qwen3", "gemma3", "phi", "phi3")
LINEAR_ONLY = (*EARLIER, "olmo2", "exaone4", "ministral3")
"""Families without convolutions, experts or tables of further embeddings."""


@pytest.mark.parametrize("name", [*NEW_FAMILIES, *EARLIER])
def test_a_family_loses_a_layer_and_its_types_are_known_or_it_is_refused(name, tmp_path):
    families = TINY_FAMILIES | NEW_FAMILIES
    directory = save_tiny_checkpoint(families[name], tmp_path / "checkpoint")
    plan = StudentPlan(checkpoint_dir=directory, removed_layers=(0,))
    model = load_model(directory)
    if name in TABLES_OF_ALL_LAYERS:
        with pytest.raises(TrainingError, match="this kind of model cannot be pruned"):
            build_student(plan)
    else:
        num_layers = model.config.get_text_config().num_hidden_layers
        pruned = build_student(plan)
        assert pruned.config.get_text_config().num_hidden_layers == num_layers - 1
        assert pruned.num_parameters() < model.num_parameters()
    if name in LINEAR_ONLY:
        assert set(tensor_types(model, "Q8_0").values()) == {"Q8_0"}
    else:
        with pytest.raises(TrainingError, match="cannot be trained to be quantized"):
            tensor_types(model, "Q8_0")

"""Students of many families, sizes and methods through the train stage."""

import json
import math
import shutil

import pytest
import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM

from potstill.errors import TrainingError
from potstill.manifest import verify_manifest
from potstill.rundir import RunDirectory
from train.config import TrainConfig
from train.stage import run

pytestmark = pytest.mark.usefixtures("one_thread")

VOCAB_SIZE = 8_192
SETTINGS = {
    "student": {"num_layers": 3},
    "dtype": "float32",
    "learning_rate": 1e-3,
    "max_steps": 2,
    "logging_steps": 1,
    "batch_size": 4,
    "evaluation": {"num_generations": 0},
}
SIZES = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}
FAMILIES = {
    "llama": {"tie_word_embeddings": True},
    "llama-biased": {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {"tie_word_embeddings": False},
    "gemma2": {"sliding_window": 8, "final_logit_softcapping": 5.0},
    "gemma3_text": {"sliding_window": 8, "sliding_window_pattern": 2},
    "smollm3": {"no_rope_layer_interval": 2},
    "phi3": {},
    "mistral": {},
    "olmo2": {},
    "granite": {"logits_scaling": 4.0},
    "cohere": {"logit_scale": 0.25},
    "gpt_neox": {},
    "gpt2": {"n_head": 4, "intermediate_size": None},
}


@pytest.fixture
def make_student(tmp_path, tiny_teacher_dir):
    """Return a function that makes a random model with the tiny teacher's tokenizer."""

    def make(family, **changes):
        torch.manual_seed(0)
        sizes = {name: value for name, value in (SIZES | changes).items() if value is not None}
        config = AutoConfig.for_model(family, **sizes)
        directory = tmp_path / "checkpoint"
        AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(directory)
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            shutil.copyfile(tiny_teacher_dir / name, directory / name)
        return directory

    return make


def trained(run_directory, **changes):
    """Run the stage; return its facts and its losses."""
    manifest = run(TrainConfig.model_validate(SETTINGS | changes), run_directory)
    assert verify_manifest(run_directory.stage_dir("student")) == manifest
    lines = map(json.loads, run_directory.metrics_path.read_text().splitlines())
    losses = [line["loss"] for line in lines if line["stage"] == "student" and "loss" in line]
    assert all(math.isfinite(loss) for loss in losses)
    return manifest.facts, losses


ADAPTED = ["llama-biased", "gemma3_text", "phi3", "gpt2"]
"""Families whose linear layers differ: with biases, with norms around them, fused, transposed."""
QUICK = {("gemma2", "full"), ("cohere", "full"), ("phi3", "lora"), ("gpt2", "lora")}
"""Of the families and methods those with most about them that is uncommon: soft-capped or scaled
logits, fused or transposed weights. The others are trained at night."""
TRAINED = [*((family, "full") for family in FAMILIES), *((family, "lora") for family in ADAPTED)]


@pytest.mark.parametrize(
    ("family", "method"),
    [pytest.param(*one, marks=[] if one in QUICK else pytest.mark.nightly) for one in TRAINED],
)
def test_any_family_with_the_teachers_tokens_is_trained(tiny_run, make_student, family, method):
    checkpoint_dir = make_student(family.partition("-")[0], **FAMILIES[family])
    facts, losses = trained(tiny_run, student={"checkpoint": str(checkpoint_dir)}, method=method)
    assert len(losses) == 2
    assert facts.removed_layers == ()
    student_dir = tiny_run.stage_dir("student")
    before, after = (
        AutoModelForCausalLM.from_pretrained(one, dtype=torch.float32)
        for one in (checkpoint_dir, student_dir)
    )
    assert type(before) is type(after)
    assert after.num_parameters() == facts.num_parameters == before.num_parameters()
    changed = [
        name
        for name, parameter in before.state_dict().items()
        if not torch.equal(parameter, after.state_dict()[name])
    ]
    assert changed
    assert not any("embed" in name or "lm_head" in name or "wte" in name for name in changed)


@pytest.mark.parametrize("settings", [{}, {"use_rslora": True}, {"use_dora": True}])
def test_adapters_of_each_kind_teach_the_student(tiny_run, settings):
    lora = {"rank": 4, "alpha": 8} | settings
    facts, losses = trained(tiny_run, method="lora", lora=lora, learning_rate=1e-2, max_steps=12)
    assert facts.method == "lora"
    assert sum(losses[6:]) < 0.99 * sum(losses[:6]), "the second epoch is easier than the first"


KEPT = {"method": "lora", "learning_rate": 1e-2, "lora": {"rank": 4, "merge": False}}


def test_no_adapter_is_kept_for_a_base_that_loses_layers(tiny_run):
    with pytest.raises(TrainingError, match="adapter cannot be kept") as caught:
        trained(tiny_run, **KEPT)
    assert caught.value.found == "3 layers"


def test_a_kept_adapter_is_the_student_on_its_base(tiny_run, tiny_teacher_dir):
    facts, _ = trained(tiny_run, student={"checkpoint": str(tiny_teacher_dir)}, **KEPT)
    assert facts.adapter.base_path == str(tiny_teacher_dir)
    student_dir = tiny_run.stage_dir("student")
    base, merged = (
        AutoModelForCausalLM.from_pretrained(one, dtype=torch.float32)
        for one in (facts.adapter.base_path, student_dir)
    )
    adapted = PeftModel.from_pretrained(base, student_dir / "adapter")
    prompt = torch.tensor([[1, 70, 800]])
    torch.testing.assert_close(adapted(prompt).logits, merged(prompt).logits, atol=1e-4, rtol=1e-4)


def test_layers_and_neurons_of_the_teacher_are_removed(tiny_run, tiny_teacher_dir):
    student = {"layers": [3, 0, 2], "intermediate_size": 32}
    facts, _ = trained(tiny_run, student=student, save_dtype="bfloat16")
    assert facts.removed_layers == (1,)
    assert (facts.num_layers, facts.intermediate_size) == (3, 32)
    student_dir = tiny_run.stage_dir("student")
    found, expected = (
        json.loads((one / "config.json").read_text()) for one in (student_dir, tiny_teacher_dir)
    )
    changes = {"num_hidden_layers": 3, "intermediate_size": 32, "dtype": "bfloat16"}
    assert found == expected | changes
    model = AutoModelForCausalLM.from_pretrained(student_dir)
    assert model.num_parameters() == facts.num_parameters
    prompt = torch.tensor([[1, 70, 800]])
    texts = [
        model.generate(prompt, max_new_tokens=6, do_sample=False, use_cache=use_cache)
        for use_cache in (True, False)
    ]
    assert torch.equal(*texts)


SMALL_VOCAB_SIZE = VOCAB_SIZE - 128


@pytest.fixture
def padded_run(tmp_path, tiny_teacher_dir, make_conversation, finish_conversations):
    """A run in whose conversations the last ids of the teacher's vocabulary do not occur."""
    run_directory = RunDirectory(tmp_path / "padded_run")
    splits = ["train"] * 8 + ["validation", "test"]
    conversations = [
        make_conversation([1, 50 + index, 70, SMALL_VOCAB_SIZE - 1], name=str(index), split=split)
        for index, split in enumerate(splits)
    ]
    finish_conversations(run_directory, tiny_teacher_dir, conversations)
    return run_directory


@pytest.mark.parametrize(
    ("vocab_size", "method"), [(VOCAB_SIZE + 128, "lora"), (SMALL_VOCAB_SIZE, "full")]
)
def test_an_embedding_of_another_size_is_no_obstacle(padded_run, make_student, vocab_size, method):
    """Qwen2.5 has one tokenizer, and embeddings of 151,936 or 152,064 rows by the model's size."""
    checkpoint_dir = make_student("qwen2", tie_word_embeddings=True, vocab_size=vocab_size)
    facts, losses = trained(
        padded_run,
        student={"checkpoint": str(checkpoint_dir)},
        method=method,
        freeze={"embeddings": False},
    )
    assert facts.vocab_size == vocab_size
    assert len(losses) == 2
    model = AutoModelForCausalLM.from_pretrained(padded_run.stage_dir("student"))
    assert model.get_output_embeddings().weight.shape[0] == vocab_size


def test_an_embedding_with_a_row_too_few_is_refused(padded_run, make_student):
    checkpoint_dir = make_student("qwen2", vocab_size=SMALL_VOCAB_SIZE - 1)
    with pytest.raises(TrainingError, match=f"more than {SMALL_VOCAB_SIZE - 1} embedding rows"):
        trained(padded_run, student={"checkpoint": str(checkpoint_dir)})

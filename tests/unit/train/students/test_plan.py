import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from potstill.errors import TrainingError
from train.config import FreezeConfig, StudentConfig, TrainConfig
from train.students.plan import (
    StudentPlan,
    build_student,
    freeze,
    plan_student,
    refuse_small_vocabulary,
)
from train.students.pruning.layers import decoder_layers

VALIDATION = [{"token_ids": list(range(3, 3 + length))} for length in (9, 17, 5, 12)]
"""Rows as a split gives them."""


def planned(teacher_dir, **student):
    config = TrainConfig(student=StudentConfig.model_validate(student))
    return plan_student(config, teacher_dir, VALIDATION)


def logits_of(model):
    return model(torch.arange(3, 15)[None]).logits


@pytest.mark.parametrize(
    ("student", "removed"),
    [
        ({"layers": [3, 0]}, (1, 2)),
        ({"layers": "even", "num_layers": 2}, (1, 2)),
        ({"layers": "even", "num_layers": 1}, (1, 2, 3)),
    ],
)
def test_layers_stay_by_rule_or_by_list(tiny_teacher_dir, student, removed):
    plan = planned(tiny_teacher_dir, **student)
    assert plan == StudentPlan(checkpoint_dir=tiny_teacher_dir, removed_layers=removed)
    assert build_student(plan).config.num_hidden_layers == 4 - len(removed)


@pytest.fixture
def identity_teacher_dir(tiny_teacher_dir, tmp_path):
    """The tiny teacher with a layer that does nothing."""
    model = AutoModelForCausalLM.from_pretrained(tiny_teacher_dir)
    layer = decoder_layers(model)[1]
    torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
    torch.nn.init.zeros_(layer.mlp.down_proj.weight)
    model.save_pretrained(tmp_path / "teacher")
    return tmp_path / "teacher"


def test_the_layer_of_no_influence_goes(identity_teacher_dir):
    plan = planned(identity_teacher_dir, num_layers=3)
    assert plan.removed_layers == (1,)
    teacher = AutoModelForCausalLM.from_pretrained(identity_teacher_dir)
    torch.testing.assert_close(logits_of(build_student(plan)), logits_of(teacher))


def test_calibration_reads_as_many_conversations_as_it_is_told(identity_teacher_dir):
    read = []

    class Watched(list):
        def __getitem__(self, index):
            read.append(index)
            return super().__getitem__(index)

    for most, expected in ((2, [0, 1]), (16, [0, 1, 2, 3])):
        student = StudentConfig(num_layers=3, max_calibration_conversations=most)
        plan_student(TrainConfig(student=student), identity_teacher_dir, Watched(VALIDATION))
        assert read == expected
        read.clear()


def test_a_plan_is_json_from_which_every_process_builds_the_same(tiny_teacher_dir):
    plan = planned(tiny_teacher_dir, num_layers=3, intermediate_size=40)
    assert StudentPlan.model_validate_json(plan.model_dump_json()) == plan
    assert len(plan.removed_layers) == 1
    assert [len(neurons) for neurons in plan.kept_neurons] == [40] * 3
    first, second = build_student(plan).state_dict(), build_student(plan).state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert {tensor.dtype for tensor in first.values()} == {torch.float32}


def test_neurons_are_those_of_the_layers_that_stay(tiny_teacher_dir):
    every = planned(tiny_teacher_dir, num_layers=4, intermediate_size=40)
    some = planned(tiny_teacher_dir, layers=[1, 3], intermediate_size=40)
    assert every.removed_layers == ()
    assert len(set(every.kept_neurons)) == 4
    assert some.kept_neurons == (every.kept_neurons[1], every.kept_neurons[3])
    teacher = AutoModelForCausalLM.from_pretrained(tiny_teacher_dir)
    student = build_student(some)
    assert student.config.intermediate_size == 40
    torch.testing.assert_close(
        decoder_layers(student)[1].mlp.gate_proj.weight,
        decoder_layers(teacher)[3].mlp.gate_proj.weight[list(every.kept_neurons[3])],
    )


def test_a_given_checkpoint_is_taken_whole(tiny_teacher_dir, tmp_path):
    plan = planned(tmp_path / "no teacher", checkpoint=str(tiny_teacher_dir))
    assert plan == StudentPlan(checkpoint_dir=tiny_teacher_dir)
    assert build_student(plan).config.num_hidden_layers == 4


@pytest.mark.parametrize(
    ("student", "told"),
    [
        ({"num_layers": 4}, r"num_layers\n  expected: 1 to 3 .*\n  found: 4"),
        ({"num_layers": 5, "layers": "even"}, r"expected: 1 to 3 .*\n  found: 5"),
        ({"num_layers": 5, "intermediate_size": 40}, r"expected: 1 to 4 .*\n  found: 5"),
        ({"layers": [0, 4]}, r"layers\n  expected: numbers from 0 to 3\n  found: 4"),
        ({"layers": [0, 1, 2, 3]}, r"train.student.layers\n  expected: 1 to 3 .*\n  found: 4"),
        ({"num_layers": 3, "intermediate_size": 64}, r"expected: 1 to 63 .*\n  found: 64"),
        ({"num_layers": 3, "intermediate_size": 100}, r"expected: 1 to 63 .*\n  found: 100"),
    ],
)
def test_what_the_teacher_lacks_is_refused(tiny_teacher_dir, student, told):
    with pytest.raises(TrainingError, match=told):
        planned(tiny_teacher_dir, **student)


def test_a_token_beyond_the_embedding_is_refused(tiny_teacher_dir):
    student = build_student(StudentPlan(checkpoint_dir=tiny_teacher_dir))
    refuse_small_vocabulary(student, 8_191)
    with pytest.raises(TrainingError, match=r"more than 8192 .*\n  found: 8192"):
        refuse_small_vocabulary(student, 8_192)


@pytest.fixture
def untied():
    """A model whose head is not its embedding."""
    config = AutoConfig.for_model(
        "qwen2",
        vocab_size=50,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=2,
        tie_word_embeddings=False,
    )
    return AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize(
    ("frozen", "removed", "expected"),
    [
        ({}, (1,), {"model.embed_tokens", "lm_head"}),
        ({"embeddings": False}, (1,), set()),
        ({"layers_below_removed": True}, (), {"model.embed_tokens", "lm_head"}),
        (
            {"embeddings": False, "layers_below_removed": True},
            (2, 3),
            {"model.embed_tokens", "model.layers.0", "model.layers.1"},
        ),
    ],
)
def test_what_is_frozen(untied, frozen, removed, expected):
    freeze(untied, FreezeConfig(**frozen), removed)
    found = {
        ".".join(name.split(".")[:3]).removesuffix(".weight")
        for name, parameter in untied.named_parameters()
        if not parameter.requires_grad
    }
    assert found == expected

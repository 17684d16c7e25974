import math

import pytest
from peft import get_peft_model

from potstill.cards import Cards
from potstill.checkpoints import ModelShape
from potstill.errors import ConfigError, TrainingError
from potstill.plan import Workload
from train import estimate as module
from train.config import TrainConfig
from train.estimate import estimate
from train.students.adapters import adapter_config
from train.students.checkpoints import load_model
from train.students.plan import StudentPlan, build_student

TEACHER = ModelShape("LlamaForCausalLM", 134_515_008, 30, 576, 49_152, 1536, 106_202_880)
WORKLOAD = Workload(
    teacher=TEACHER,
    student=TEACHER,
    num_conversations=1000,
    prompt_tokens=50.0,
    completion_tokens=150.0,
    test_share=0.1,
)


def estimated(workload=WORKLOAD, **changes):
    return estimate(TrainConfig.model_validate(changes), workload)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("student", "removed", "kept_neurons"),
    [
        ({"num_layers": 3}, (1,), None),
        ({"layers": [0, 3]}, (1, 2), None),
        ({"layers": "even", "num_layers": 2, "intermediate_size": 24}, (1, 2), 24),
    ],
)
def test_the_students_shape_is_that_of_the_built_one(
    tiny_teacher_dir, tmp_path, student, removed, kept_neurons
):
    teacher = ModelShape.read(tiny_teacher_dir)
    neurons = kept_neurons and (tuple(range(kept_neurons)),) * (4 - len(removed))
    build_student(
        StudentPlan(checkpoint_dir=tiny_teacher_dir, removed_layers=removed, kept_neurons=neurons)
    ).save_pretrained(tmp_path)
    workload = Workload(teacher=teacher, student=teacher)
    assert estimated(workload, student=student)[1].student == ModelShape.read(tmp_path)


def test_a_given_student_is_measured(tiny_teacher_dir):
    _, workload = estimated(student={"checkpoint": str(tiny_teacher_dir)})
    assert workload.student == ModelShape.read(tiny_teacher_dir)
    with pytest.raises(ConfigError, match="not on this machine"):
        estimated(student={"checkpoint": "no/such"})


@pytest.mark.parametrize(
    ("student", "told"),
    [
        ({"num_layers": 30}, "1 to 29"),
        ({"layers": [0, 30]}, "0 to 29"),
        ({"intermediate_size": 1536}, "1 to 1535"),
    ],
)
def test_what_the_teacher_lacks_is_refused_before_the_run(student, told):
    with pytest.raises(TrainingError, match=told):
        estimated(student=student)


@pytest.mark.slow
def test_trained_tokens_cost_three_passes_and_frozen_ones_two():
    frozen, workload = estimated()
    free, _ = estimated(freeze={"embeddings": False})
    measured = 2 * 64 * 200
    assert frozen.tokens == pytest.approx(900 * 200 + measured)
    total, layers = workload.student.num_parameters, workload.student.layer_parameters
    assert frozen.fast_flops == pytest.approx((4 * total + 2 * layers) * 180_000)
    assert free.fast_flops == pytest.approx(6 * total * 180_000)
    assert frozen.float32_flops == free.float32_flops == pytest.approx(2 * total * measured)
    num_steps = math.ceil(180_000 / (8 * 200))
    assert free.moved_bytes == pytest.approx(module.STEP_BYTES * total * num_steps)
    in_float32, _ = estimated(dtype="float32")
    assert in_float32.fast_flops == 0.0
    assert in_float32.float32_flops == frozen.fast_flops + frozen.float32_flops
    assert free.memory_bytes - frozen.memory_bytes == pytest.approx(12 * (total - layers))


def test_adapters_are_counted_as_peft_makes_them(tiny_teacher_dir):
    teacher = ModelShape.read(tiny_teacher_dir)
    config = TrainConfig.model_validate({"method": "lora"})
    found = module._trained_parameters(config, teacher)
    model = get_peft_model(load_model(tiny_teacher_dir), adapter_config(config.lora))
    assert found == pytest.approx(model.num_parameters(only_trainable=True), rel=0.15)


def test_packed_rows_are_full():
    alone, _ = estimated(max_steps=10)
    packed, _ = estimated(max_steps=10, packing=True)
    assert alone.tokens - 2 * 64 * 200 == 10 * 8 * 200
    assert packed.tokens - 2 * 64 * 200 == 10 * 8 * 1024
    assert packed.memory_bytes > alone.memory_bytes


def test_measurements_on_the_way_cost_tokens():
    plain, _ = estimated(max_steps=10)
    often, _ = estimated(
        max_steps=10, evaluation={"every_steps": 3, "num_generations": 2, "max_new_tokens": 50}
    )
    assert often.tokens - plain.tokens == pytest.approx(3 * (64 * 200 + 2 * 50))


def test_the_last_stage_holds_the_teacher_and_samples():
    plain, _ = estimated()
    corrected, _ = estimated(on_policy={"max_steps": 5, "max_completion_tokens": 100})
    assert corrected.tokens - plain.tokens == pytest.approx(5 * 4 * (100 + 150))
    assert corrected.memory_bytes - plain.memory_bytes == 4 * TEACHER.num_parameters
    assert corrected.fast_flops > plain.fast_flops
    assert corrected.moved_bytes > plain.moved_bytes


def test_a_sharded_student_is_whole_on_one_card_while_it_is_saved():
    cards = Cards("H100", 64)
    many, workload = estimated(launch="fsdp2", gradient_checkpointing=True, batch_size=1)
    whole = 2 * 4 * workload.student.num_parameters + module.PROCESS_BYTES
    assert many.placed(None, cards).card_bytes == whole
    alone, _ = estimated()
    assert alone.placed(None, cards).card_bytes == alone.card_bytes > whole


def test_quantized_training_trains_all_and_measures_three_times_more():
    plain, _ = estimated()
    aware, _ = estimated(quantization_aware={"type": "Q4_0", "num_epochs": 2.0})
    assert aware.tokens - plain.tokens == pytest.approx(2 * 900 * 200 + 3 * 64 * 200)
    steps, _ = estimated(quantization_aware={"type": "Q4_0", "max_steps": 10})
    assert steps.tokens - plain.tokens == pytest.approx(10 * 8 * 200 + 3 * 64 * 200)
    adapters, _ = estimated(method="lora", quantization_aware={"type": "Q4_0"})
    assert adapters.memory_bytes == aware.memory_bytes


def test_checkpointed_activations_take_time_rather_than_memory():
    plain, _ = estimated()
    checkpointed, _ = estimated(gradient_checkpointing=True)
    assert checkpointed.memory_bytes < plain.memory_bytes
    assert checkpointed.fast_flops > plain.fast_flops

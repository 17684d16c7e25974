import pytest
from pydantic import ValidationError

from train.config import TrainConfig


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"student": {"layers": []}}, "at least one layer"),
        ({"student": {"layers": [0, 3, 3]}}, "each only once"),
        ({"student": {"layers": [-1]}}, "greater than or equal to 0"),
        ({"student": {"layers": "odd"}}, "influence"),
        ({"student": {"layers": [0], "checkpoint": "a/b"}}, "omit them or the checkpoint"),
        ({"student": {"intermediate_size": 8, "checkpoint": "a/b"}}, "omit them or the check"),
        (
            {"student": {"intermediate_size": 8}, "freeze": {"layers_below_removed": True}},
            "as pruning damaged them",
        ),
    ],
)
def test_students_that_cannot_be_are_refused(settings, told):
    with pytest.raises(ValidationError, match=told):
        TrainConfig.model_validate(settings)


@pytest.mark.parametrize(
    ("aware", "told"),
    [
        ({"type": "Q4_K_M"}, "cannot be trained for Q4_K_M.*take Q4_0, Q4_1, Q5_0, Q5_1, Q8_0"),
        ({"type": "Q3_K_S"}, "quantize.types make it with an importance matrix"),
        ({"type": 4}, "Q4_0"),
        ({}, "Field required"),
    ],
)
def test_files_that_a_student_cannot_be_trained_for_are_refused(aware, told):
    with pytest.raises(ValidationError, match=told):
        TrainConfig.model_validate({"quantization_aware": aware})


def test_quantized_training_and_deepspeed_are_refused_together():
    with pytest.raises(ValidationError, match="needs launch ddp or fsdp2"):
        TrainConfig.model_validate({"quantization_aware": {"type": "Q4_0"}, "launch": "deepspeed"})


@pytest.mark.parametrize(
    "student",
    [
        {"layers": [3, 0]},
        {"layers": "even"},
        {"layers": "influence", "checkpoint": "a/b"},
        {"intermediate_size": 8, "layers": [0]},
    ],
)
def test_students_that_can_be_are_kept(student):
    config = TrainConfig.model_validate({"student": student})
    assert config.student.model_dump(exclude_unset=True) == student

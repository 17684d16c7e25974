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
        ({"student": {"layers": [0], "checkpoint": "a/b"}}, "leave them or the checkpoint out"),
        ({"student": {"intermediate_size": 8, "checkpoint": "a/b"}}, "leave them or the check"),
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

import pytest

from potstill.errors import ConfigError
from train.config import TrainConfig
from train.on_policy.arguments import distillation_arguments, gold_arguments

CONFIG = TrainConfig.model_validate({"on_policy": {"max_steps": 5, "batch_size": 4}})


def test_the_prompts_of_a_step_are_divided(tmp_path):
    for num_processes in (1, 2, 4):
        arguments = distillation_arguments(CONFIG, tmp_path, num_processes)
        assert arguments["per_device_train_batch_size"] * num_processes == 4
    with pytest.raises(ConfigError, match="divided among") as caught:
        distillation_arguments(CONFIG, tmp_path, 3)
    assert "a multiple of 3" in str(caught.value)


def test_gold_has_room_for_an_answer_after_the_longest_prompt(tmp_path):
    arguments = gold_arguments(CONFIG, tmp_path, 1, tmp_path)
    assert arguments["max_length"] - arguments["max_completion_length"] == CONFIG.max_length

"""The config of on-policy training as arguments of TRL.

In: the config, a directory for training states, the number of processes. Out: keyword arguments of
`DistillationConfig` and `GOLDConfig`. Neither is imported here, because TRL imports vLLM with them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from potstill.errors import ConfigError
from train.arguments import shared_arguments
from train.config import TrainConfig


def distillation_arguments(
    config: TrainConfig, states_dir: Path, num_processes: int
) -> dict[str, Any]:
    """Return the arguments for a student with the teacher's tokenizer.

    Raises:
        ConfigError: The prompts of a step cannot be divided among the processes.
    """
    on_policy = config.on_policy
    if on_policy.batch_size % num_processes:
        raise ConfigError(
            "the prompts of a step cannot be divided among the processes",
            where="train.on_policy.batch_size",
            expected=f"a multiple of {num_processes}",
            found=on_policy.batch_size,
        )
    return {
        **shared_arguments(config, states_dir),
        "max_steps": on_policy.max_steps,
        "per_device_train_batch_size": on_policy.batch_size // num_processes,
        "learning_rate": on_policy.learning_rate,
        "max_completion_length": on_policy.max_completion_tokens,
        "temperature": on_policy.temperature,
        "beta": on_policy.beta,
    }


def gold_arguments(
    config: TrainConfig, states_dir: Path, num_processes: int, teacher_dir: Path
) -> dict[str, Any]:
    """Return the arguments for a student with a tokenizer of its own.

    Raises:
        ConfigError: The prompts of a step cannot be divided among the processes.
    """
    on_policy = config.on_policy
    return {
        **distillation_arguments(config, states_dir, num_processes),
        "max_length": config.max_length + on_policy.max_completion_tokens,
        "top_p": 1.0,
        "lmbda": 1.0,  # all answers are the student's
        "disable_dropout": False,
        "dataset_kwargs": {"skip_prepare_dataset": True},
        "teacher_tokenizer_name_or_path": str(teacher_dir),
        "use_uld_loss": True,
        # Tokens in both vocabularies are compared by `beta`, the others by the rank of their
        # probability.
        "uld_use_hybrid_loss": True,
        # The only strategy that compares the distributions of exactly the tokens it aligns.
        "uld_token_merge_strategy": "bayesian",
        "uld_student_temperature": on_policy.temperature,
        "uld_teacher_temperature": on_policy.temperature,
    }

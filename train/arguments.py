"""The train config as arguments of TRL.

In: the config and a directory for training states. Out: the arguments of TRL's trainers. Settings
that users cannot choose are set here, each with its reason.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers.integrations.integration_utils import (
    INTEGRATION_TO_CALLBACK,
    get_available_reporting_integrations,
)
from trl import SFTConfig

from potstill.errors import ConfigError
from train.config import TrainConfig
from train.students.plan import device, fast_dtype

ADAM_BETA2 = 0.98
"""Averages the variance over 50 steps instead of 1,000: a demo has only a few hundred."""
NUM_STATES_KEPT = 2
"""The newest training state, and the one before it in case the newest is incomplete."""


def offline_arguments(config: TrainConfig, states_dir: Path) -> SFTConfig:
    """Return the arguments of training on the stored conversations."""
    evaluation = config.evaluation
    return on_one_device(
        SFTConfig(
            **shared_arguments(config, states_dir),
            num_train_epochs=config.num_epochs,
            max_steps=config.max_steps or -1,
            per_device_train_batch_size=config.batch_size,
            gradient_accumulation_steps=config.gradient_accumulation_steps,
            learning_rate=config.learning_rate,
            metric_for_best_model="loss",
            greater_is_better=False,
            restore_callback_states_from_checkpoint=evaluation.patience is not None,
            max_length=config.max_length,
            dataset_kwargs={"skip_prepare_dataset": True},
            # Every trained parameter takes part in every step: there are no unused ones to find.
            ddp_find_unused_parameters=False,
            include_num_input_tokens_seen="non_padding",
        )
    )


def refuse_absent_reporters(names: list[str]) -> None:
    """Check that the packages of `train.report_to` are installed.

    Raises:
        ConfigError: One is not, or transformers does not support it.
    """
    for name in names:
        if name not in INTEGRATION_TO_CALLBACK:
            raise ConfigError(
                "unknown destination of metrics",
                where="train.report_to",
                expected=f"names among {', '.join(sorted(INTEGRATION_TO_CALLBACK))}",
                found=name,
            )
        if name not in get_available_reporting_integrations():
            raise ConfigError(
                "the package that receives metrics is not installed",
                where="train.report_to",
                found=name,
                hint=f"pip install {name}, or leave it out",
            )


def shared_arguments(config: TrainConfig, states_dir: Path) -> dict[str, Any]:
    """Return the arguments of all phases."""
    where = device()
    every = config.evaluation.every_steps
    return {
        "output_dir": str(states_dir),
        "use_cpu": where == "cpu",
        "bf16": fast_dtype(config.dtype) == torch.bfloat16,
        "lr_scheduler_type": "cosine",
        "warmup_steps": config.warmup_share,
        "weight_decay": config.weight_decay,
        "max_grad_norm": config.max_grad_norm,
        "adam_beta2": ADAM_BETA2,
        "optim": "adamw_torch_fused",
        "gradient_checkpointing": config.gradient_checkpointing,
        "logging_steps": config.logging_steps,
        "logging_first_step": True,
        "logging_nan_inf_filter": False,  # NaN must be visible
        "eval_strategy": "no" if every is None else "steps",
        "eval_steps": every,
        "save_strategy": "steps",
        "save_steps": config.save_steps,
        "save_total_limit": NUM_STATES_KEPT,
        "seed": config.seed,
        "data_seed": config.seed,
        "dataloader_pin_memory": where == "cuda",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "report_to": config.report_to,
    }


def on_one_device(arguments: Any) -> Any:  # noqa: ANN401  (untyped library)
    """Keep the trainer to one device a process.

    Without a launcher it would wrap the model in nn.DataParallel on several GPUs, which cuts labels
    by conversations and the teacher's rows by tokens.
    """
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments

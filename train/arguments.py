"""The train config in the words of TRL.

In: the config and a directory for training states. Out: `SFTConfig`. Settings that are no user's
choice are made here, each with its reason.
"""

from __future__ import annotations

from pathlib import Path

import torch
from trl import SFTConfig

from train.config import TrainConfig
from train.student import fast_dtype

ADAM_BETA2 = 0.98
"""Variance is averaged over 50 steps rather than 1,000: a demo has a few hundred in all."""
NUM_STATES_KEPT = 2
"""The newest training state and the one before it, whole whatever happens to the newest."""


def training_arguments(config: TrainConfig, states_dir: Path) -> SFTConfig:
    """Return the arguments of the trainer."""
    on_gpu = torch.cuda.is_available()
    arguments = SFTConfig(
        output_dir=str(states_dir),
        use_cpu=not on_gpu,
        bf16=fast_dtype(config.dtype) == torch.bfloat16,
        num_train_epochs=config.num_epochs,
        max_steps=config.max_steps or -1,
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=config.warmup_share,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        adam_beta2=ADAM_BETA2,
        optim="adamw_torch_fused",
        gradient_checkpointing=config.gradient_checkpointing,
        logging_steps=config.logging_steps,
        logging_first_step=True,
        use_cache=True,  # would be written into the student's config; the loss asks for no cache
        save_strategy="steps",
        save_steps=config.save_steps,
        save_total_limit=NUM_STATES_KEPT,
        seed=config.seed,
        data_seed=config.seed,
        max_length=config.max_length,
        dataset_kwargs={"skip_prepare_dataset": True},
        dataloader_pin_memory=on_gpu,
        disable_tqdm=True,
        remove_unused_columns=False,
        include_num_input_tokens_seen="non_padding",
        report_to=[],
    )
    # Without a launcher the trainer would wrap the model in nn.DataParallel on several GPUs, which
    # cuts labels by conversations and the teacher's rows by tokens.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments

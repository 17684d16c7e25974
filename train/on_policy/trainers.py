"""TRL's two trainers that sample the student's answers, adapted to this stage.

In: a student, the teacher's checkpoint or server, and prompts. Out: DistillationTrainer for equal
tokenizers, else GOLDTrainer, ready to train. Import this module with vLLM hidden
(`train.phases.absent`), or TRL imports it.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import torch
from torch import Tensor
from transformers import AutoTokenizer, PrinterCallback
from trl import DistillationConfig, DistillationTrainer
from trl.experimental.gold import GOLDConfig, GOLDTrainer

from train.arguments import on_one_device
from train.config import KDConfig
from train.data.cache import open_split
from train.evaluation.held_out import MeasuresHeldOut, without_adapters
from train.heads import output_head
from train.job import Job
from train.losses import Mix, mix_of
from train.losses.chunked import distillation_loss
from train.on_policy.arguments import distillation_arguments, gold_arguments
from train.on_policy.prompts import collate_prompts, draw_prompts, teacher_prompts
from train.on_policy.served_teacher import ServedTeacher
from train.on_policy.vocabulary import fit_vocabulary
from train.states import TrainedStates
from train.students.checkpoints import load_model


class OnPolicyTrainer(MeasuresHeldOut, TrainedStates, DistillationTrainer):  # type: ignore[misc]
    """TRL's DistillationTrainer, with token ids as prompts."""

    def _tokenize_prompts(
        self, prompts: list[list[int]]
    ) -> tuple[list[list[int]], None, dict[str, Any]]:
        return prompts, None, {}


class ServedTeacherTrainer(OnPolicyTrainer):
    """The same with a teacher on a server, of which the most probable tokens are known.

    The loss is that of the stored conversations, with one category for all other tokens: a lower
    bound of TRL's, and equal to it where all tokens are known.
    """

    served: ServedTeacher
    mix: Mix

    def _compute_loss(
        self,
        unwrapped_student: Any,  # noqa: ANN401
        inputs: dict[str, Tensor],
        num_items_in_batch: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the loss, the sum of the student's entropies, and the number of tokens.

        The entropy is estimated from the student's own draws.
        """
        answered_BC = inputs["completion_mask"].bool()
        input_ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
        mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
        hidden_BCD = self._get_last_hidden_state(
            unwrapped_student, input_ids, mask, answered_BC.shape[1]
        )
        head = output_head(without_adapters(unwrapped_student))
        lengths = inputs["prompt_mask"].sum(1).tolist()
        answers = [
            (ids[kept].tolist(), start)
            for ids, kept, start in zip(input_ids, mask.bool(), lengths, strict=True)
        ]
        targets = self.served.targets(answers, head.weight_VD.shape[0])
        hidden_TD = hidden_BCD[answered_BC]
        sums = distillation_loss(hidden_TD, head, targets.to(hidden_TD.device), self.mix)
        num_tokens = answered_BC.sum()
        divisor = num_tokens.clamp(min=1) if num_items_in_batch is None else num_items_in_batch
        return sums.total / divisor, sums.cross_entropy.detach(), num_tokens


class GoldTrainer(MeasuresHeldOut, TrainedStates, GOLDTrainer):  # type: ignore[misc]
    """TRL's GOLDTrainer, in which the teacher reads prompts in its own chat template."""

    def generate_on_policy_outputs(
        self,
        model: Any,  # noqa: ANN401
        inputs: dict[str, Any],
        generation_config: Any,  # noqa: ANN401
    ) -> tuple[Any, ...]:
        """Sample the student's answers; give the teacher the prompt in its own chat template."""
        *tensors, _, answers = super().generate_on_policy_outputs(model, inputs, generation_config)
        return (*tensors, inputs["teacher_prompt_text"], answers)

    def _track_num_input_tokens(self, _inputs: dict[str, Any]) -> None:
        """Count the tokens of prompts and answers."""
        batch = self._buffered_inputs[(self._step - 1) % self.args.gradient_accumulation_steps]
        num_tokens = self.accelerator.reduce(batch["attention_mask"].sum())
        self.state.num_input_tokens_seen += int(num_tokens)


def on_policy_trainer(
    job: Job,
    model: Any,  # noqa: ANN401  (untyped library)
    scratch_dir: Path,
    states_dir: Path,
) -> OnPolicyTrainer | GoldTrainer:
    """Return the trainer of the phase.

    Raises:
        TrainingError: The teacher cannot be loaded, or the student lacks some of its tokens.
        ConfigError: The prompts of a step cannot be divided among the processes.
    """
    prompts = draw_prompts(
        open_split(scratch_dir, "train"),
        job.config.on_policy.max_steps * job.config.on_policy.batch_size,
        job.config.seed,
    )
    build = _same_tokens if job.tokenizer_dir == job.teacher_dir else _other_tokens
    trainer = build(job, model, prompts, states_dir, int(os.environ.get("WORLD_SIZE", "1")))
    trainer.remove_callback(PrinterCallback)
    return trainer


def _same_tokens(
    job: Job,
    model: Any,  # noqa: ANN401
    prompts: datasets.Dataset,
    states_dir: Path,
    num_processes: int,
) -> OnPolicyTrainer:
    arguments = distillation_arguments(job.config, states_dir, num_processes)
    tokenizer = AutoTokenizer.from_pretrained(job.tokenizer_dir)
    on_policy = job.config.on_policy
    shared: dict[str, Any] = {
        "model": model,
        "args": on_one_device(DistillationConfig(**arguments)),
        "train_dataset": prompts,
        "eval_dataset": prompts,
        "processing_class": tokenizer,
    }
    if on_policy.teacher is not None:
        trainer = ServedTeacherTrainer(teacher_model=None, **shared)
        trainer.served = ServedTeacher(on_policy.teacher)
        trainer.mix = served_loss(on_policy.beta)
        return trainer
    teacher = load_model(job.teacher_dir)
    fit_vocabulary(teacher, model.get_input_embeddings().weight.shape[0], tokenizer)
    return OnPolicyTrainer(teacher_model=teacher, **shared)


def served_loss(beta: float) -> Mix:
    """Return the loss of TRL's `beta` on the most probable tokens and one category for the rest."""
    if beta in (0.0, 1.0):
        return mix_of(KDConfig(weight=1.0, divergence="reverse_kl" if beta else "forward_kl"))
    return mix_of(KDConfig(weight=1.0, divergence="jsd", beta=beta))


def _other_tokens(
    job: Job,
    model: Any,  # noqa: ANN401
    prompts: datasets.Dataset,
    states_dir: Path,
    num_processes: int,
) -> GoldTrainer:
    arguments = gold_arguments(job.config, states_dir, num_processes, job.teacher_dir)
    tokenizer = AutoTokenizer.from_pretrained(job.tokenizer_dir)
    ids = prompts["conversation_id"]
    texts = teacher_prompts(job.conversations_dir, job.teacher_dir, ids)
    prompts = prompts.add_column("teacher_prompt_text", [texts[one] for one in ids])
    return GoldTrainer(
        model=model,
        teacher_model=load_model(job.teacher_dir),
        args=on_one_device(GOLDConfig(**arguments)),
        train_dataset=prompts,
        eval_dataset=prompts,
        data_collator=partial(collate_prompts, pad_token_id=tokenizer.pad_token_id),
        processing_class=tokenizer,
    )

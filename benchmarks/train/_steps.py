"""Steps of training in a process of their own: how long each takes, how much memory all.

    python benchmarks/train/_steps.py SCRATCH ours|trl|peak

`ours` trains the job that lies in SCRATCH; `trl` trains it with TRL's own SFTTrainer on the same
batches, without the teacher's distributions; `peak` measures how fast the machine multiplies.
Prints one line of JSON.
"""

from __future__ import annotations

import json
import resource
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, TrainerCallback
from trl import SFTTrainer

from train import phases
from train.arguments import offline_arguments
from train.callbacks import ProgressCallback
from train.data.batches import Collator, is_labeled, num_tokens
from train.data.cache import open_split
from train.data.order import SimilarLengths
from train.job import PhaseFiles, read_job
from train.trainer import DistillationTrainer

PEAK_SIZE, PEAK_ROUNDS = 2048, 12


class Clock(TrainerCallback):  # type: ignore[misc]
    """Notes when each optimizer step ends."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *_arguments: Any, **_options: Any) -> None:  # noqa: ANN401
        """Note the time."""
        self.ends.append(time.perf_counter())

    def seconds(self) -> list[float]:
        """Return how long each step but the first took."""
        return [end - start for start, end in zip(self.ends, self.ends[1:], strict=False)]


class PlainTrainer(SFTTrainer):  # type: ignore[misc]
    """TRL's own, with our order of conversations."""

    def _get_train_sampler(self, train_dataset: Any = None) -> SimilarLengths:  # noqa: ANN401
        dataset = self.train_dataset if train_dataset is None else train_dataset
        at_once = self.args.per_device_train_batch_size
        return SimilarLengths(dataset["length"][:], at_once, self.args.seed)


class PlainCollator(Collator):
    """Makes the same batches less the teacher's distributions."""

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Return what TRL's loss reads."""
        batch = super().__call__(rows)
        return {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}


def train_ours(scratch_dir: Path, clock: Clock) -> None:
    """Train the job."""
    original = ProgressCallback.on_step_end

    def on_step_end(self: ProgressCallback, *arguments: Any, **options: Any) -> None:  # noqa: ANN401
        clock.on_step_end()
        original(self, *arguments, **options)

    ProgressCallback.on_step_end = on_step_end  # type: ignore[method-assign]
    phases.train(scratch_dir, "offline")


def train_trls(scratch_dir: Path, clock: Clock) -> None:
    """Train the job's student on its answers with TRL's own loss."""
    job = read_job(scratch_dir)
    trainer = PlainTrainer(
        model=phases.trainable_student(job),
        args=offline_arguments(job.config, PhaseFiles(scratch_dir, "offline").states_dir),
        train_dataset=open_split(scratch_dir, "train"),
        data_collator=PlainCollator(job.config.max_length, job.pad_token_id),
        processing_class=AutoTokenizer.from_pretrained(job.tokenizer_dir),
        callbacks=[clock],
    )
    trainer.train()


class Work:
    """What the batches of training ask of the machine, counted as they pass."""

    def __init__(self) -> None:
        self.flops: list[float] = []
        self.tokens: list[int] = []
        self.positions: list[int] = []

    def watch(self) -> None:
        """Count every batch that the trainer gets."""
        original = DistillationTrainer.compute_loss

        def compute_loss(trainer: Any, model: Any, inputs: Any, *rest: Any, **more: Any) -> Any:  # noqa: ANN401
            self.flops.append(training_flops(trainer.model, inputs))
            self.tokens.append(int(num_tokens(inputs)))
            self.positions.append(inputs["input_ids"].numel())
            return original(trainer, model, inputs, *rest, **more)

        DistillationTrainer.compute_loss = compute_loss  # type: ignore[method-assign]


def training_flops(model: Any, inputs: dict[str, Tensor]) -> float:  # noqa: ANN401
    """Return the floating-point operations that a step on a batch cannot do without.

    Two for each weight and token forward, two for the gradient of what goes in, two for the
    weight's own unless it is frozen; the head for labeled tokens only; scores and sums of causal
    attention among a conversation's own tokens. Padding and what is computed twice do not count.

    Source: Chowdhery et al. 2022, "PaLM", appendix B, with frozen weights left out.
    """
    config = model.config
    layers = model.base_model.layers
    linear = [weight for weight in layers.parameters() if weight.ndim == 2]
    passes = sum(weight.numel() * (6 if weight.requires_grad else 4) for weight in linear)
    head = model.get_output_embeddings().weight
    num_labeled = int(is_labeled(inputs).sum())
    lengths = conversation_lengths(inputs)
    # Forward, two products of L x L / 2 scores for each head; backward twice that.
    attention = 3 * 2 * 2 * float((lengths.double() ** 2).sum()) / 2
    attention *= config.num_attention_heads * config.head_dim * len(layers)
    return (
        passes * float(lengths.sum())
        + head.numel() * (6 if head.requires_grad else 4) * num_labeled
        + attention
    )


def conversation_lengths(inputs: dict[str, Tensor]) -> Tensor:
    """Return the tokens of each conversation of a batch, padded or packed."""
    if "attention_mask" in inputs:
        return inputs["attention_mask"].sum(1)
    starts = torch.nonzero((inputs["position_ids"] == 0).flatten())[:, 0]
    total = starts.new_tensor([inputs["position_ids"].numel()])
    return torch.diff(torch.cat([starts, total]))


def peak_flops(dtype: torch.dtype) -> float:
    """Return how many floating-point operations a second square matrices are multiplied at."""
    left, right = torch.randn(2, PEAK_SIZE, PEAK_SIZE).to(dtype)
    seconds = []
    for _ in range(PEAK_ROUNDS):
        started = time.perf_counter()
        torch.mm(left, right)
        seconds.append(time.perf_counter() - started)
    return 2 * PEAK_SIZE**3 / statistics.median(seconds)


def main() -> None:
    """Do what is asked and print what was seen."""
    scratch_dir, what = Path(sys.argv[1]), sys.argv[2]
    if what == "peak":
        print(json.dumps({str(one): peak_flops(one) for one in (torch.float32, torch.bfloat16)}))
        return
    clock, work = Clock(), Work()
    if what == "ours":
        work.watch()
        train_ours(scratch_dir, clock)
    else:
        train_trls(scratch_dir, clock)
    found = {
        "seconds": clock.seconds(),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "flops": work.flops,
        "tokens": work.tokens,
        "positions": work.positions,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()

"""Which part of a teacher costs least fidelity when it is removed?

A fifth of the layers' parameters goes, in five ways: whole layers by block influence, evenly spread
or from a list (the lowest but the first), neurons of every MLP, or half layers and half neurons.
Nothing is trained. Measured is the KL to the teacher's stored distributions on the test split.

    python benchmarks/train/students/pruning.py [RUN]

Run it where the stage runs: RUN must hold finished conversations, else those of the preset general
are made in it.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from _runs import DEFAULT_RUN, conversations

from potstill.checkpoints import ModelShape
from train.config import TrainConfig
from train.data.inputs import load_data
from train.evaluation.fidelity import measure_fidelity
from train.students.plan import build_student, plan_student

SHARE = 0.2
MULTIPLE = 32
BATCH_SIZE = 8


def variants(teacher: ModelShape) -> dict[str, dict[str, object]]:
    """Return settings of students that all lack about the same share of the parameters."""

    def width(share: float) -> int:
        removed = share * teacher.layer_parameters / (3 * teacher.hidden_size * teacher.num_layers)
        return round((teacher.intermediate_size - removed) / MULTIPLE) * MULTIPLE

    total, few = teacher.num_layers, round(teacher.num_layers * (1 - SHARE))
    half = round(total * (1 - SHARE / 2))
    return {
        f"layers 1 to {total - few}": {"layers": [0, *range(total - few + 1, total)]},
        "layers, evenly": {"layers": "even", "num_layers": few},
        "layers, by influence": {"num_layers": few},
        "half layers, half neurons": {"num_layers": half, "intermediate_size": width(SHARE / 2)},
        "neurons": {"num_layers": total, "intermediate_size": width(SHARE)},
    }


def main() -> None:
    """Measure every variant and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", nargs="?", type=Path, default=DEFAULT_RUN)
    run_directory = conversations(parser.parse_args().run)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print("| removed | layers | MLP | parameters | KL (nats) | top-1 |\n|---|--:|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as scratch:
        data = load_data(TrainConfig(), run_directory, Path(scratch))
        for name, student in variants(ModelShape.read(data.teacher_dir)).items():
            config = TrainConfig.model_validate({"student": student})
            model = build_student(plan_student(config, data.teacher_dir, data.validation))
            fidelity = measure_fidelity(
                model.to(device),
                data.test,
                data.collator,
                max_conversations=config.evaluation.max_conversations,
                batch_size=BATCH_SIZE,
                label=name,
                drawn=data.facts.tokens_are_draws,
            )
            shape = model.config.get_text_config()
            print(
                f"| {name} | {shape.num_hidden_layers} | {shape.intermediate_size:,} "
                f"| {model.num_parameters() / 1e6:.1f} M "
                f"| {fidelity.kl_nats:.3f} ± {fidelity.kl_standard_error:.3f} "
                f"| {fidelity.top1_agreement:.3f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()

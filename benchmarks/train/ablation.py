"""Does token-level distillation beat SFT, and which tail? `python benchmarks/train/ablation.py`.

The preset general's student, trained on the same conversations in the same order for the same
number of steps, with one loss after another; then held-out figures, and how near its most probable
answers come to the teacher's most probable ones (ROUGE-L, Lin 2004, of `rouge_score`).
Conversations are those of RUN, made if it has none; students are kept beside it and not trained
again.

Writes the table of docs/explanation/losses.md to stdout and its plot to docs/ablation.png.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import matplotlib as mpl
import torch
from _runs import DEFAULT_RUN, conversations, copy_of, demo_settings
from matplotlib import pyplot as plt
from rouge_score.rouge_scorer import RougeScorer
from transformers import AutoModelForCausalLM, AutoTokenizer

from potstill.facts.conversations import ConversationsFacts
from potstill.facts.shared import Fidelity
from potstill.facts.student import StudentFacts
from potstill.progress import set_up_logging
from potstill.rundir import RunDirectory
from train.config import TrainConfig
from train.data.cache import load_split
from train.evaluation.generations import write_generations
from train.stage import run
from train.students.pruning.layers import keep_layers

LOSSES: dict[str, dict[str, Any]] = {
    "SFT only": {"weight": 0.0},
    "truncate": {"weight": 1.0, "tail": "truncate"},
    "renormalize": {"weight": 1.0, "tail": "renormalize"},
    "sample": {"weight": 1.0, "tail": "sample"},
    "bucket": {"weight": 1.0, "tail": "bucket"},
    "bucket + CE": {"weight": 0.9, "tail": "bucket"},
    "bucket + CE, halves": {"weight": 0.5, "tail": "bucket"},
    "reverse KL": {"weight": 1.0, "divergence": "reverse_kl"},
    "JSD": {"weight": 1.0, "divergence": "jsd"},
}
MAX_NEW_TOKENS = 96
PLOT_PATH = Path(__file__).parents[2] / "docs" / "ablation.png"


@dataclass(frozen=True)
class Row:
    """What is told of a student."""

    label: str
    fidelity: Fidelity
    rouge: float
    rouge_error: float


def answers(checkpoint_dir: Path, run_directory: RunDirectory, root: Path, count: int) -> list[str]:
    """Return the most probable answers of a checkpoint to held-out prompts."""
    path = root / "answers.jsonl"
    if not path.is_file():
        (root / "cache").mkdir(parents=True, exist_ok=True)
        split = load_split(run_directory.stage_dir("conversations"), "test", 1024, root / "cache")
        write_generations(
            path,
            AutoModelForCausalLM.from_pretrained(checkpoint_dir, dtype=torch.float32),
            AutoTokenizer.from_pretrained(checkpoint_dir),
            split,
            step=0,
            num_prompts=count,
            max_new_tokens=MAX_NEW_TOKENS,
        )
    lines = path.read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["answer"] for line in lines]


def rouge(found: list[str], wanted: list[str]) -> tuple[float, float]:
    """Return the mean ROUGE-L (F1) of pairs of answers, and its standard error."""
    scorer = RougeScorer(["rougeL"])
    scores = [
        scorer.score(target, one)["rougeL"].fmeasure
        for one, target in zip(found, wanted, strict=True)
    ]
    return mean(scores), stdev(scores) / len(scores) ** 0.5


def settings(kd: dict[str, Any], steps: int) -> TrainConfig:
    """Return the preset general's settings with another loss."""
    return demo_settings(kd=kd, max_steps=steps, evaluation={"max_conversations": 1_000})


def rows(run_directory: RunDirectory, root: Path, labels: list[str], given: Any) -> list[Row]:  # noqa: ANN401
    """Train one student after another and measure each."""
    teacher_dir = Path(run_directory.facts(ConversationsFacts).teacher.path)
    wanted = answers(teacher_dir, run_directory, root / "teacher", given.answers)
    found: list[Row] = []
    for label in labels:
        copy = copy_of(run_directory, root / label.replace(" ", "-"))
        run(settings(LOSSES[label], given.steps), copy)
        student = copy.facts(StudentFacts)
        measured = student.evaluation
        if not found:
            checkpoint_dir = untrained(student, teacher_dir, root / "untrained" / "student")
            said = answers(checkpoint_dir, copy, root / "untrained", given.answers)
            found.append(Row("untrained", measured.untrained, *rouge(said, wanted)))
        said = answers(copy.stage_dir("student"), copy, copy.root, given.answers)
        found.append(Row(label, measured.trained, *rouge(said, wanted)))
    return found


def untrained(student: StudentFacts, teacher_dir: Path, directory: Path) -> Path:
    """Return a checkpoint of the teacher without the layers that the students lack."""
    model = AutoModelForCausalLM.from_pretrained(teacher_dir, dtype=torch.float32)
    removed = student.removed_layers
    keep_layers(model, [one for one in range(model.config.num_hidden_layers) if one not in removed])
    model.save_pretrained(directory)
    AutoTokenizer.from_pretrained(teacher_dir).save_pretrained(directory)
    return directory


def table(found: list[Row]) -> str:
    """Return the rows as Markdown."""
    lines = [
        "| loss | KL (at least) | KL (estimate) | top-1 | acceptance | nats per token | "
        "calibration error | ROUGE-L |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in found:
        one = row.fidelity
        lines.append(
            f"| {row.label} | {one.kl_nats:.3f} ± {one.kl_standard_error:.3f} "
            f"| {one.kl_estimate_nats:.3f} ± {one.kl_estimate_standard_error:.3f} "
            f"| {one.top1_agreement:.1%} | {one.acceptance_estimate:.1%} "
            f"| {one.nats_per_token:.3f} | {one.calibration_error:.3f} "
            f"| {row.rouge:.3f} ± {row.rouge_error:.3f} |"
        )
    return "\n".join(lines)


def plot(found: list[Row], path: Path) -> None:
    """Draw KL, calibration and ROUGE-L of each student."""
    mpl.use("Agg")
    labels = [row.label for row in found]
    panels = (
        ("KL to the teacher, estimate (nats)", "kl_estimate_nats", "kl_estimate_standard_error"),
        ("calibration error", "calibration_error", None),
    )
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.6), sharey=True, layout="constrained")
    for axis, (title, key, error) in zip(axes, panels, strict=False):
        errors = [row.fidelity[error] for row in found] if error else None
        axis.barh(labels, [row.fidelity[key] for row in found], xerr=errors, color="#4c78a8")
        axis.set_title(title, fontsize=10)
    errors = [row.rouge_error for row in found]
    axes[2].barh(labels, [row.rouge for row in found], xerr=errors, color="#4c78a8")
    axes[2].set_title("ROUGE-L of greedy answers to the teacher's", fontsize=10)
    axes[0].invert_yaxis()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Train, measure, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", nargs="?", type=Path, default=DEFAULT_RUN)
    parser.add_argument("--students", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--answers", type=int, default=40, help="held-out prompts to answer")
    parser.add_argument("--only", nargs="*", choices=LOSSES, default=list(LOSSES))
    parser.add_argument("--plot", type=Path, default=PLOT_PATH)
    given = parser.parse_args()
    set_up_logging()
    found = rows(conversations(given.run), given.students, given.only, given)
    print(f"{given.steps} steps of {demo_settings().batch_size} conversations each\n")
    print(table(found))
    plot(found, given.plot)


if __name__ == "__main__":
    main()

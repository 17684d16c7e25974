"""What each part of the recipe brings on a task. `python benchmarks/train/task_ablation.py RUN`.

Students of bank triage, case A, each trained on the same share of a run's conversations with
several seeds: with and without a filter of the teacher's answers by its confidence, with and
without the instructions in the student's prompt, and a student with the teacher's tokenizer with
and without token-level distillation, by LoRA and in all weights. The task's metric on the
references, of the Q8_0 file.

Intervals of 90% are percentiles of the pigeonhole bootstrap (Owen 2007), which draws seeds and
references independently. What is finished is kept under `--root`, so that the command can be
repeated. Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
from _runs import copy_of

from compare.task_values import measure
from potstill.facts.conversations import ConversationsFacts
from potstill.pipeline import Choice, resolve
from potstill.progress import set_up_logging
from potstill.rundir import RunDirectory
from potstill.task.stage import read_task, read_task_config
from quantize.task_file import convert
from train.config import TrainConfig
from train.shares import train_share

EXAMPLES = Path("examples/bank-triage")
NUM_DRAWS = 10_000


@dataclass(frozen=True)
class Arm:
    """One way to make a student."""

    label: str
    config: str
    overrides: tuple[str, ...] = ()
    beside: str | None = None
    """Label of the arm that it is compared with."""


def arms() -> list[Arm]:
    """Return the ways, those that others are compared with first."""
    instructions = read_task_config(EXAMPLES / "demo.toml").instructions
    instructions = instructions.replace("{examples}\n\n", "")
    plain, larger = "135M: as in the demo", "0.5B: text alone"
    return [
        Arm(plain, "demo.toml"),
        Arm(
            "135M: answers of whose team the teacher is sure",
            "demo.toml",
            (
                "generate.curation.conversation_filters="
                '["empty", "schema", "refusal", "confidence"]',
            ),
            plain,
        ),
        Arm(larger, "student-0.5b.toml", ("train.kd.weight=0.0",)),
        Arm("0.5B: text and distributions", "student-0.5b.toml", (), larger),
        Arm(
            "0.5B: text and distributions, all weights instead of LoRA",
            "student-0.5b.toml",
            ("train.method=full", "train.learning_rate=1e-4"),
            larger,
        ),
        Arm(
            "135M: instructions in the prompt",
            "demo.toml",
            (f"task.student_instructions={json.dumps(instructions)}",),
            plain,
        ),
    ]


def prepare(arm: Arm, run: Path, root: Path) -> tuple[RunDirectory, dict[str, Any]]:
    """Return an arm's conversations, made of the samples of a run, and its settings."""
    # The server of the files that are measured wants a run with files of its own.
    run_directory = copy_of(RunDirectory(run), root, ("prompts", "samples", "gguf"))
    choice = Choice(path=EXAMPLES / arm.config, overrides=arm.overrides)
    command = [sys.executable, "-m", "potstill", "generate", str(root), *choice.options()]
    subprocess.run(command, check=True)
    return run_directory, resolve(choice)


def values(
    run_directory: RunDirectory, tables: dict[str, Any], share: float, seed: int
) -> dict[str, Any]:
    """Train, convert and measure one student; return its figures, kept ones if there are any."""
    directory = run_directory.root / f"share-{share:g}-seed-{seed}"
    kept = directory / "values.json"
    if kept.is_file():
        return dict(json.loads(kept.read_text(encoding="utf-8")))
    train: TrainConfig = tables["train"].model_copy(update={"seed": seed})
    start = monotonic()
    count = train_share(train, run_directory, share, directory / "checkpoint")
    seconds = monotonic() - start
    file = convert(
        tables["quantize"],
        run_directory.stage_dir("conversations"),
        directory / "checkpoint",
        directory,
        directory / "verified",
        f"seed-{seed}",
    )
    task = read_task(run_directory)
    assert task is not None
    path = directory / file.file
    (found,) = measure(tables["compare"], task, run_directory, [path], directory / "measured")
    result = {"values": found, "conversations": count, "seconds": seconds}
    kept.write_text(json.dumps(result) + "\n", encoding="utf-8")
    shutil.rmtree(directory / "checkpoint")
    return result


def pigeonhole(values_SR: np.ndarray) -> tuple[float, float]:
    """Return the 90% interval of the mean over seeds (S) and references (R)."""
    generator = np.random.default_rng(0)
    num_seeds, num_references = values_SR.shape
    seeds_DS = generator.multinomial(num_seeds, [1 / num_seeds] * num_seeds, NUM_DRAWS)
    references_DR = generator.multinomial(
        num_references, [1 / num_references] * num_references, NUM_DRAWS
    )
    sums_D = ((seeds_DS @ values_SR) * references_DR).sum(1)
    low, high = np.quantile(sums_D / values_SR.size, [0.05, 0.95])
    return float(low), float(high)


def row(arm: Arm, found: dict[str, list[dict[str, Any]]], prompt_tokens: float) -> str:
    """Return an arm's row as Markdown."""

    def right(label: str) -> np.ndarray:
        return np.array([one["values"] for one in found[label]])

    values_SR = right(arm.label)
    low, high = pigeonhole(values_SR)
    by_seed = ", ".join(f"{one:.3f}" for one in values_SR.mean(1))
    ahead = ""
    if arm.beside in found:
        differences_SR = values_SR - right(arm.beside)
        ends = pigeonhole(differences_SR)
        ahead = f"{differences_SR.mean():+.3f} [{ends[0]:+.3f}, {ends[1]:+.3f}]"
    minutes = np.mean([one["seconds"] for one in found[arm.label]]) / 60
    return (
        f"| {arm.label} | {values_SR.mean():.3f} [{low:.3f}, {high:.3f}] | {by_seed} | {ahead} "
        f"| {found[arm.label][0]['conversations']} | {prompt_tokens:.0f} | {minutes:.1f} |"
    )


def main() -> None:
    """Train, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="finished run of case A")
    parser.add_argument("--root", type=Path, default=Path("runs/task-ablation"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--share", type=float, default=1 / 3, help="of the conversations")
    parser.add_argument("--arms", type=int, nargs="*", help="numbers, from 0; default: all")
    given = parser.parse_args()
    set_up_logging()
    found: dict[str, list[dict[str, Any]]] = {}
    lines = []
    for number, arm in enumerate(arms()):
        if given.arms and number not in given.arms:
            continue
        run_directory, tables = prepare(arm, given.run, given.root / f"arm-{number}")
        found[arm.label] = [
            values(run_directory, tables, given.share, seed) for seed in range(given.seeds)
        ]
        tokens = run_directory.facts(ConversationsFacts).student_prompt_tokens
        lines.append(row(arm, found, tokens or float("nan")))
    print(
        "| student | right team | by seed | ahead of the row it is a change of "
        "| conversations | prompt tokens | minutes of training |\n|---|--:|--:|--:|--:|--:|--:|"
    )
    print("\n".join(lines))


if __name__ == "__main__":
    main()

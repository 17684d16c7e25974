"""The threshold of a cascade, from a finished comparison.

In: a run whose comparison was judged. Out: `Fit`: the threshold, the share escalated, the cost.
Knows nothing of servers: the student's confidence in its stored answers is reckoned from its file.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from compare.answers.questions import Question
from compare.config import CompareConfig
from compare.live.threshold import Confident, Threshold, fit_threshold
from compare.measurement.gguf_model import GgufModel
from compare.measurement.heldout import read_questions
from compare.measurement.likelihood import answer_ids, mean_logprob
from compare.measurement.run_files import RunFiles, read_run
from potstill.errors import ArtifactError, ConfigError
from potstill.progress import track
from potstill.rundir import RunDirectory
from potstill.schema import Value
from potstill.tables import JUDGEMENT_SCHEMA, PAIR_SCHEMA, read_rows
from potstill.verdict.outcome import Outcome, Plan

SPARE_TOKENS = 8


class Fit(Value):
    """A threshold with what it costs."""

    threshold: Threshold
    judge: str
    relative_cost: float | None
    """Of a cascade's output token, the teacher's being 1; the student's are paid for each time.
    None where the comparison has no prices."""


def run(config: CompareConfig, run_directory: RunDirectory, *, as_json: bool) -> Outcome:
    """Fit, print what was found, and return whether the cascade reaches the target.

    Raises:
        ArtifactError: As `fit_cascade` does.
        ConfigError: As `fit_cascade` does.
    """
    fit = fit_cascade(config, run_directory)
    console = Console()
    if as_json:
        console.print_json(fit.model_dump_json())
        return fit.threshold.outcome
    found = fit.threshold
    cost = "" if fit.relative_cost is None else f", at {fit.relative_cost:.2f} of its price"
    console.print(
        f"{found.outcome}: with the teacher for {found.share_escalated:.0%} of "
        f"the answers the win rate is {found.win_rate:.3f} (between {found.lower:.3f} and "
        f"{found.upper:.3f}; {found.student_win_rate:.3f} without){cost}; to pass it must surely "
        f"exceed {found.target:g}. Judge: {fit.judge}; fitted on {found.num_fitted} prompts, "
        f"checked on {found.num_checked}.\n\n[serve.cascades.NAME]\n"
        f"least_mean_logprob = {found.least_mean_logprob:.4f}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    return found.outcome


def fit_cascade(config: CompareConfig, run_directory: RunDirectory) -> Fit:
    """Fit a cascade of the run's recommended student and its teacher.

    Raises:
        ArtifactError: The comparison is missing, has no judged pairs, or too few.
        ConfigError: It was made on prompts whose tokens the run does not have.
    """
    manifest = run_directory.require("comparison")
    directory = run_directory.stage_dir("comparison")
    report = json.loads((directory / "report.json").read_text(encoding="utf-8"))
    run = read_run(run_directory, config.max_conversations)
    if run.has_own_tokenizer or config.student is not None or config.prompts is not None:
        raise ConfigError(
            "the student's confidence cannot be reckoned",
            where="compare",
            expected="the run's own student, with the teacher's tokens, on the run's own prompts",
        )
    judge = report["verdict"]["decided_by"]
    if judge is None or manifest.facts["outcome"] == "INVALID_JUDGE":
        raise ArtifactError(
            "no judge that can be believed has spoken", where=directory, found=judge or "nobody"
        )
    questions = read_questions(run.conversations_dir, config.num_prompts)
    confidences = _confidences(run, questions, run_directory, config.num_threads)
    plan = Plan(margin=config.verdict.margin, alpha=config.verdict.alpha)
    rows = [
        Confident(confidences[key], row["score"], row["cluster"])
        for row in read_rows(directory / "judgements.parquet", JUDGEMENT_SCHEMA)
        if row["judge"] == judge and row["control"] is None and row["score"] is not None
        if (key := (row["prompt_id"], row["sample"])) in confidences
    ]
    threshold = fit_threshold(rows, plan)
    cost = _relative_cost(report, threshold.share_escalated)
    return Fit(threshold=threshold, judge=judge, relative_cost=cost)


def _confidences(
    run: RunFiles,
    questions: Sequence[Question],
    run_directory: RunDirectory,
    num_threads: int | None,
) -> dict[tuple[str, int], float]:
    """Return the mean log-probability of each of the student's answers, by prompt and sample."""
    prompts = {one.prompt_id: one.prompt_token_ids or () for one in questions}
    path = run_directory.stage_dir("comparison") / "pairs.parquet"
    answers = [
        row
        for row in read_rows(path, PAIR_SCHEMA)
        if row["role"] == "student" and row["prompt_id"] in prompts
    ]
    # A token is a byte at least.
    longest = max(
        (len(prompts[row["prompt_id"]]) + len(row["answer"].encode()) for row in answers), default=0
    )
    found = {}
    with (
        track("reckoning the student's confidence", len(answers), "answers") as progress,
        GgufModel(run.path(run.recommended), longest + SPARE_TOKENS, num_threads) as model,
    ):
        for row in answers:
            ids = answer_ids(model, row["answer"], finished=row["finish_reason"] == "stop")
            value = mean_logprob(model, prompts[row["prompt_id"]], ids)
            if value is not None:
                found[row["prompt_id"], row["sample"]] = value
            progress.advance()
    return found


def _relative_cost(report: dict[str, Any], share: float) -> float | None:
    prices: dict[str, list[float]] = defaultdict(list)
    for row in (report.get("cost") or {}).get("rows", []):
        prices[row["kind"]].append(row["dollars_per_million_output_tokens"])
    if not prices["student"] or not prices["teacher"]:
        return None
    return prices["student"][0] / prices["teacher"][0] + share

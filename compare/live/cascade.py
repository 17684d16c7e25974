"""The threshold of a cascade, from a finished comparison.

In: a run whose comparison was judged. Out: `Fit`: the threshold, the share escalated, the cost. The
student's confidence in its stored answers is computed from its GGUF file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from compare.answers.questions import Question
from compare.comparison import read_report
from compare.config import CompareConfig
from compare.inputs import measured_task
from compare.live.threshold import Confident, Threshold, fit_threshold
from compare.measurement.cost import Cost
from compare.measurement.heldout import read_questions
from compare.measurement.likelihood import answer_ids, mean_logprob
from compare.measurement.run_files import RunFiles, read_run
from compare.verdict.figures import EQUAL, LARGEST_DIFFERENCE, ScaleName, bounds_in_words
from potstill.errors import ArtifactError, ConfigError
from potstill.facts.comparison import ComparisonFacts
from potstill.former_names import stored_path
from potstill.llama.context import measuring
from potstill.progress import track
from potstill.rundir import RunDirectory
from potstill.schema import Value
from potstill.tables import JUDGMENT_SCHEMA, PAIR_SCHEMA, read_rows
from potstill.task.stage import read_task
from potstill.terminal import echo, show
from potstill.verdict.outcome import Outcome, Plan

SPARE_TOKENS = 8
UNKNOWN = -1.0
"""Any confidence: the number of prompts does not depend on it."""


class Fit(Value):
    """A threshold, its judge and its cost."""

    threshold: Threshold
    outcome: Outcome
    """That of the test, unless the judge needs people, who have not seen the cascade: its PASS is
    INCONCLUSIVE, and so is anything that a judge of criteria says."""
    needs_people: bool
    judge: str
    scale: ScaleName
    """Leads are win rates less one half, or differences of two measurements."""
    alpha: float
    relative_cost: float | None
    """Cost of an output token of the cascade over one of the teacher's; the student's are always
    paid for. None where the comparison has no prices."""


def run(config: CompareConfig, run_directory: RunDirectory, *, as_json: bool) -> Outcome:
    """Fit, print the result, and return whether the cascade is non-inferior to the teacher.

    Raises:
        ArtifactError: As `fit_cascade` does.
        ConfigError: As `fit_cascade` does.
    """
    fit = fit_cascade(config, run_directory)
    if as_json:
        echo(fit.model_dump_json(indent=2, ensure_ascii=True))
        return fit.outcome
    show(in_words(fit), soft_wrap=True)
    return fit.outcome


def in_words(fit: Fit) -> str:
    """Return the result, and the setting to copy into the configuration."""
    found, equal = fit.threshold, EQUAL[fit.scale]
    lower, upper, target = (equal + one for one in (found.lower, found.upper, found.target))
    bounds = bounds_in_words(lower, upper, fit.alpha, threshold=target)
    sentences = [
        f"{fit.outcome}: the student answers {1 - found.share_escalated:.0%} of the prompts, the "
        f"teacher {found.share_escalated:.0%}. The {fit.scale} against the teacher alone is "
        f"{equal + found.lead:.3f}, {bounds}; PASS needs the lower bound above "
        f"{target:.3f}. The student alone has {equal + found.student_lead:.3f}.",
        f"Judge: {fit.judge}; fitted on {found.num_fitted} prompts, tested on "
        f"{found.num_checked} others.",
    ]
    if fit.needs_people:
        sentences.append(
            f"Judge not verified on real answers of a cascade: it alone would say {found.outcome}. "
            'Try the cascade in an experiment with judge = "votes", people\'s blind votes.'
        )
    if fit.relative_cost is not None:
        sentences.append(f"An output token costs {fit.relative_cost:.2f} of the teacher's.")
    if found.share_escalated == 1:
        sentences.append(
            "The student's confidence does not separate good answers from bad ones: without the "
            "student, the result would be the same."
        )
    if found.share_escalated == 0 and fit.outcome is Outcome.PASS:
        sentences.append("The student passes without the teacher.")
    table = f"[serve.cascades.NAME]\nleast_mean_logprob = {found.least_mean_logprob:.4f}"
    return "\n".join([*sentences, "", table])


def fit_cascade(config: CompareConfig, run_directory: RunDirectory) -> Fit:
    """Fit a cascade of the run's recommended student and its teacher.

    Raises:
        ArtifactError: The comparison is missing, has no judged pairs, or too few.
        ConfigError: It was made with prompts whose tokens the run does not have.
    """
    run_directory.require("comparison")
    directory = run_directory.stage_dir("comparison")
    report = read_report(directory / "report.json")
    run = read_run(run_directory, config.max_conversations)
    task = measured_task(config, read_task(run_directory))
    other_prompts = config.prompts is not None or task is not None
    if run.student.own_tokenizer or config.student is not None or other_prompts:
        raise ConfigError(
            "the student's confidence cannot be computed",
            where="compare",
            expected="the run's own student, with the teacher's tokens, on the run's own prompts "
            "(not a task's known answers)",
        )
    judge = report.verdict.decided_by
    if judge is None or run_directory.facts(ComparisonFacts).outcome == "INVALID_JUDGE":
        raise ArtifactError(
            "the comparison has no valid judge",
            where=directory,
            expected="a comparison whose verdict is not INVALID_JUDGE",
            found=f"the verdict of {judge}" if judge else "no judge of quality",
            hint="compare again with --force and another of compare.judges: a larger model, or "
            "known answers (kinds reference and check)",
        )
    plan = Plan(margin=config.verdict.margin, alpha=config.verdict.alpha)
    judged = [
        row
        for row in read_rows(stored_path(directory / "judgments.parquet"), JUDGMENT_SCHEMA)
        if row["judge"] == judge and row["control"] is None and row["score"] is not None
    ]
    is_measured = any(row["student_value"] is not None for row in judged)
    scale: ScaleName = "difference" if is_measured else "win rate"

    def fit(confidences: Mapping[tuple[str, int], float]) -> Threshold:
        rows = [
            Confident(confidences[key], _lead(row, scale), row["cluster"])
            for row in judged
            if (key := (row["prompt_id"], row["sample"])) in confidences
        ]
        return fit_threshold(rows, plan, LARGEST_DIFFERENCE[scale])

    # With too few prompts this raises before the student reads all its answers again.
    fit({(row["prompt_id"], row["sample"]): UNKNOWN for row in judged})
    questions = read_questions(run.conversations_dir, config.num_prompts)
    threshold = fit(_confidences(run, questions, run_directory, config.num_threads))
    cost = _relative_cost(report.cost, threshold.share_escalated)
    decider = report.verdict.decider
    needs_people = decider is None or decider.needs_people
    is_open = needs_people and (threshold.outcome is Outcome.PASS or scale == "difference")
    return Fit(
        threshold=threshold,
        outcome=Outcome.INCONCLUSIVE if is_open else threshold.outcome,
        needs_people=needs_people,
        judge=judge,
        scale=scale,
        alpha=plan.alpha,
        relative_cost=cost,
    )


def _lead(row: Mapping[str, Any], scale: ScaleName) -> float:
    if scale == "difference":
        return float(row["student_value"] - row["teacher_value"])
    return float(row["score"] - EQUAL[scale])


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
    # A token has at least one byte.
    longest = max(
        (len(prompts[row["prompt_id"]]) + len(row["answer"].encode()) for row in answers), default=0
    )
    found = {}
    file = run.gguf.recommended_file
    with (
        track("computing the student's confidence", len(answers), "answers") as progress,
        measuring(
            run.path(file), longest + SPARE_TOKENS, num_threads, run.adapter_path(file)
        ) as context,
    ):
        for row in answers:
            ids = answer_ids(context.model, row["answer"], finished=row["finish_reason"] == "stop")
            value = mean_logprob(context, prompts[row["prompt_id"]], ids)
            if value is not None:
                found[row["prompt_id"], row["sample"]] = value
            progress.advance()
    return found


def _relative_cost(cost: Cost, share: float) -> float | None:
    student, teacher = (row.dollars_per_million_output_tokens for row in cost.rows[:2])
    return None if student is None or not teacher else student / teacher + share

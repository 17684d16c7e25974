"""`potstill plan`: what a comparison needs, and what it costs with that.

In: a configuration, a run that may have a finished comparison. Out: a table and sentences.
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from rich.console import Group

from compare.comparison import read_report
from compare.config import CompareConfig
from compare.estimate import estimate as estimate_comparison
from compare.sizing import METRIC, needed, with_decider
from compare.verdict.results import JudgeReport
from potstill.pipeline import PIPELINE, Choice, estimate, resolve
from potstill.plan import Workload, measure_machine, plan_table
from potstill.rundir import RunDirectory

REPORT_NAME = "report.json"
OF_SPREAD = {"tie_share", "cluster_size", "cluster_correlation", "variance"}


def plan_comparison(choice: Choice, run_directory: RunDirectory, judge: str | None) -> Group:
    """Return the cost of a comparison with as many prompts as it needs, and these numbers.

    Args:
        judge: Name or kind of the judge that decides; None: the one that would.

    Raises:
        PotstillError: The configuration or a file that it names cannot be used, or there is no such
            judge, or neither a run nor a configuration.
    """
    if choice.preset is None and choice.path is None:
        run_directory.require_run()
    tables = resolve(choice, run_directory)
    config = cast("CompareConfig", tables["compare"])
    _, workload = estimate(tables, run_directory, PIPELINE[:-1])
    if judge is not None:
        config = with_decider(config, judge)
        task = replace(workload.task, has_metric=judge == METRIC)
        workload = replace(workload, task=task)
    config = _as_found(config, run_directory, needed(config, workload).judge)
    need = needed(config, workload)
    cost, _ = estimate_comparison(
        config.model_copy(update={"num_prompts": need.num_prompts}),
        _with_prompts(workload, need.num_prompts),
    )
    cost = replace(cost, notes=tuple(need.sentences()))
    return plan_table([cost], (), measure_machine(workload.teacher))


def _as_found(config: CompareConfig, run_directory: RunDirectory, judge: str) -> CompareConfig:
    """Return the configuration with what a finished comparison found, where nothing was given."""
    if not run_directory.is_finished("comparison"):
        return config
    report = read_report(run_directory.stage_dir("comparison") / REPORT_NAME)
    decider = report.verdict.decider
    if decider is None or judge != (METRIC if decider.kind == METRIC else decider.name):
        return config
    found = {
        name: value
        for name, value in _found(decider).items()
        if not config.plan.model_fields_set & (OF_SPREAD if name in OF_SPREAD else {name})
    }
    return config.model_copy(update={"plan": config.plan.model_copy(update=found)})


def _found(decider: JudgeReport) -> dict[str, float]:
    found = {}
    estimate = decider.estimate
    if estimate is not None and estimate.standard_error > 0:
        found["variance"] = estimate.standard_error**2 * estimate.num_pairs
    if decider.sensitivity is not None:
        found["sensitivity"] = decider.sensitivity.lower
    return found


def _with_prompts(workload: Workload, number: int) -> Workload:
    """Return the workload as if it had so many prompts to compare on."""
    task = workload.task
    if task.num_references:
        return replace(workload, task=replace(task, num_references=number))
    return replace(workload, num_conversations=number, test_share=1.0)

"""The comparison stage: may this student replace its teacher?

In: a run's finished conversations, student and GGUF files and the `potstill serve` command, or two
endpoints and prompts; judges. Out: pairs.parquet, judgments.parquet, report.json, report.html, and
a table on stdout.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path

from rich.console import Console

from compare.answers.answers import Answer, Role, Sampling
from compare.answers.cache import JsonCache
from compare.answers.client import Endpoint, find_endpoint
from compare.answers.collect import Collection
from compare.answers.endpoint import free_port, running_endpoint, serve_command
from compare.answers.questions import Question
from compare.answers.serving import (
    FileSide,
    ModelFiles,
    OpenEndpoint,
    Serving,
    Sides,
)
from compare.comparison import Report, build_report, read_report
from compare.config import CompareConfig, SideConfig
from compare.inputs import read_asked, settings
from compare.judges.controls import UNTRAINED
from compare.judges.panel import Opinion, Panel
from compare.judges.registry import JudgeResources
from compare.measurement.heldout import longest_first, prompt_lengths
from compare.measurement.machine import describe_machine
from compare.measurement.run_files import INPUTS, RunFiles, file_fidelity, read_run, sft_student
from compare.measurement.served import Served, measure_served, prompts_read_otherwise
from compare.measurement.untrained import untrained_file
from compare.report.page import render_page
from compare.report.summary import verdict_sentences
from compare.report.table import render_table
from compare.verdict.decision import decide, judgment_rows
from compare.verdict.examples import examples
from compare.verdict.health import is_sound_so_far
from compare.verdict.registration import register
from potstill.errors import SchemaVersionError
from potstill.facts.base import StageName
from potstill.facts.comparison import ComparisonFacts, Registration
from potstill.files import disk_errors, sha256_file, write_text_atomically
from potstill.manifest import Manifest
from potstill.progress import append_metrics
from potstill.rundir import RunDirectory, StageSession
from potstill.tables import JUDGMENT_SCHEMA, PAIR_SCHEMA, write_rows
from potstill.verdict.outcome import Plan

logger = logging.getLogger(__name__)

STAGE: StageName = "comparison"
PAIRS_NAME, JUDGMENTS_NAME = "pairs.parquet", "judgments.parquet"
REPORT_NAME, PAGE_NAME = "report.json", "report.html"
SPARE_CONTEXT_TOKENS = 32
"""Context for the warm-up and the template, in addition to prompt and answer."""
JUDGE_CONTEXT_TOKENS = 700
"""Context for the rubric and the marks around two answers."""
NUM_ANSWERS_JUDGED = 4
"""Answer lengths in one prompt of a judge: the teacher's answer and the padded one."""


def run(config: CompareConfig, run_directory: RunDirectory) -> Manifest:
    """Compare student and teacher, write the report and print its table and the verdict.

    Raises:
        ArtifactError: An input is missing, damaged, or has no teacher file to compare with.
        ManifestMismatchError: The inputs have different tokenizers.
        BackendError: A model cannot be run or an endpoint fails.
    """

    def open_endpoint(
        models: ModelFiles, context_tokens: int, max_parallel: int, log_path: Path
    ) -> AbstractContextManager[str]:
        port = free_port()
        command = serve_command(run_directory.root, models, port, context_tokens, max_parallel)
        return running_endpoint(command, port, log_path, config.ready_timeout_seconds)

    return run_with_endpoint(config, run_directory, open_endpoint)


def run_with_endpoint(
    config: CompareConfig, run_directory: RunDirectory, open_endpoint: OpenEndpoint
) -> Manifest:
    """Do the same as `run`, with any way to serve the run's files.

    A finished report that another version wrote is left as it is, with a warning.
    """
    inputs = INPUTS if config.needs_run else ()
    session = run_directory.open_stage(STAGE, settings(config), inputs=inputs)
    manifest = session.finished or _compare(config, run_directory, session, open_endpoint)
    try:
        report = read_report(run_directory.stage_dir(STAGE) / REPORT_NAME)
    except SchemaVersionError as error:  # Its page and verdict are still there.
        logger.warning("%s", error)
        return manifest
    console = Console()
    if report.files:
        console.print(render_table(report))
    for sentence in verdict_sentences(report.verdict):
        console.print(sentence, markup=False)
    console.print(f"report: {run_directory.stage_dir(STAGE) / PAGE_NAME}", soft_wrap=True)
    return manifest


def _compare(
    config: CompareConfig,
    run_directory: RunDirectory,
    session: StageSession,
    open_endpoint: OpenEndpoint,
) -> Manifest:
    run = read_run(run_directory, config.max_conversations) if config.needs_run else None
    questions = read_asked(config, run_directory)
    measured = JsonCache(session.scratch_dir)
    kept = measured if config.cache_dir is None else JsonCache(config.cache_dir.expanduser())
    own_student = run.student_dir if run and run.student.own_tokenizer else None
    lengths = prompt_lengths(questions, own_student)
    questions = [one for one in questions if one.prompt_id in lengths]
    serving = _serving(config, session, run, max(lengths.values()), open_endpoint)

    sides = _sides(config, run, session.scratch_dir)
    fidelity = file_fidelity(run, measured, config.num_threads) if run else {}
    sft = sft_student(config.sft_run, run) if run and config.sft_run else None
    served = _served(config, run, sides, measured, questions, serving)

    collection = Collection(
        questions=questions,
        sides=sides,
        sampling=Sampling(config.temperature, config.max_tokens, config.seed),
        samples_per_prompt=config.samples_per_prompt,
        num_controls=config.assay.num_prompts,
        cache=kept,
    )
    registration = register(measured, config.verdict, len(collection.book().answers()))
    answers = collection.answers(serving)
    panel, opinions = _judge(config, run, questions, answers, (measured, kept), sides, serving)
    verdict = decide(config, registration, opinions, answers, panel.cluster_of)
    report = build_report(
        run,
        fidelity,
        served,
        verdict=verdict,
        sft=sft,
        costs=config.cost,
        prompt_tokens_per_output_token=_prompt_share(answers),
        notes=prompts_read_otherwise(run, sides, questions, answers),
        examples=examples(panel.pairs, answers, opinions),
        settings=config.to_json(),
        machine=describe_machine(),
    )
    return _finish(session, run_directory, report, answers, registration, panel, opinions)


def _serving(
    config: CompareConfig,
    session: StageSession,
    run: RunFiles | None,
    longest_tokens: int,
    open_endpoint: OpenEndpoint,
) -> Serving:
    asked = longest_tokens + max(config.max_tokens, config.speed_tokens)
    held_out = [len(conversation.token_ids) for conversation in run.held_out] if run else []
    return Serving(
        config=config,
        open_endpoint=open_endpoint,
        context_tokens=max([asked, *held_out]) + SPARE_CONTEXT_TOKENS,
        log_path=session.scratch_dir / "endpoint.log",
    )


def _served(
    config: CompareConfig,
    run: RunFiles | None,
    sides: Sides,
    cache: JsonCache,
    questions: Sequence[Question],
    serving: Serving,
) -> Served:
    stored = cache.get("served")
    if stored is not None:
        return Served.model_validate(stored)
    timed = longest_first(questions)[: config.speed_rounds]
    served = measure_served(run, sides, serving, timed, config.speed_tokens)
    cache.put("served", served.model_dump(mode="json"))
    return served


def _sides(config: CompareConfig, run: RunFiles | None, scratch_dir: Path) -> Sides:
    sides: dict[Role, FileSide | Endpoint] = {}
    given: dict[Role, SideConfig | None] = {"student": config.student, "teacher": config.teacher}
    given["known_worse"] = config.assay.known_worse
    for role, side in given.items():
        if side is not None:
            sides[role] = find_endpoint(side.base_url, side, config)
        elif run is not None and role != "known_worse":
            file = run.gguf.recommended_file if role == "student" else run.reference
            sides[role] = FileSide(file.name, run.sha256(file))
    if run is not None and "known_worse" not in sides:
        path = untrained_file(run, scratch_dir)
        if path is not None:
            sides["known_worse"] = FileSide(UNTRAINED, sha256_file(path), path)
    return sides


def _judge(
    config: CompareConfig,
    run: RunFiles | None,
    questions: Sequence[Question],
    answers: Sequence[Answer],
    caches: tuple[JsonCache, JsonCache],
    sides: Sides,
    serving: Serving,
) -> tuple[Panel, list[Opinion]]:
    """Return the panel and its opinions.

    Args:
        caches: Of this comparison, for opinions; and perhaps of several, for single readings.
    """
    of_stage, kept = caches
    plan = Plan(margin=config.verdict.margin, alpha=config.verdict.alpha)
    panel = Panel(config, questions, answers, of_stage, partial(is_sound_so_far, plan=plan))
    judged_tokens = NUM_ANSWERS_JUDGED * config.max_tokens + JUDGE_CONTEXT_TOKENS
    with ExitStack() as stack:
        endpoints: dict[Role, Endpoint] = {}
        if panel.asks_teacher():
            wide = serving.with_room(judged_tokens)
            endpoints = stack.enter_context(wide.served({"teacher": sides["teacher"]}))
        teacher_gguf = run.path(run.reference) if run else None
        resources = JudgeResources(config, kept, endpoints.get("teacher"), teacher_gguf)
        return panel, panel.opinions(resources)


def _prompt_share(answers: Sequence[Answer]) -> float:
    completion = sum(answer.completion_tokens for answer in answers)
    return sum(answer.prompt_tokens for answer in answers) / max(completion, 1)


def _finish(
    session: StageSession,
    run_directory: RunDirectory,
    report: Report,
    answers: Sequence[Answer],
    registration: Registration,
    panel: Panel,
    opinions: Sequence[Opinion],
) -> Manifest:
    rows = [answer.model_dump() for answer in answers]
    judgments = [row for one in opinions for row in judgment_rows(one, panel.cluster_of)]
    with disk_errors("writing the report", session.dir):
        counts = {
            PAIRS_NAME: write_rows(session.dir / PAIRS_NAME, PAIR_SCHEMA, rows),
            JUDGMENTS_NAME: write_rows(session.dir / JUDGMENTS_NAME, JUDGMENT_SCHEMA, judgments),
        }
        write_text_atomically(session.dir / REPORT_NAME, report.model_dump_json(indent=2) + "\n")
        write_text_atomically(session.dir / PAGE_NAME, render_page(report))
    for row in report.rows:
        append_metrics(
            run_directory.metrics_path, STAGE, **row.model_dump(mode="json", exclude_none=True)
        )
    verdict = report.verdict
    append_metrics(
        run_directory.metrics_path, STAGE, outcome=verdict.outcome, num_prompts=verdict.num_prompts
    )
    return session.finish(
        rows=counts,
        facts=ComparisonFacts(
            recommended=report.recommended,
            reference=report.reference,
            outcome=verdict.outcome.value,
            registration=registration,
            rows=tuple(report.rows),
        ),
        stats={"completion_tokens": sum(answer.completion_tokens for answer in answers)},
    )

"""The comparison stage: may this student replace its teacher?

In: a run's finished conversations, student and GGUF files and the `potstill serve` command, or two
endpoints and prompts; judges. Out: pairs.parquet, judgments.parquet, report.json, report.html, and
a table on stdout.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial

from compare.answers.answers import Answer, Role, Sampling, by_role
from compare.answers.cache import JsonCache
from compare.answers.client import Endpoint
from compare.answers.collect import Collection
from compare.answers.endpoint import serving_files
from compare.answers.questions import Question
from compare.answers.references import sample_of
from compare.answers.requests import Ask, asks_of
from compare.answers.serving import (
    SPARE_CONTEXT_TOKENS,
    OpenEndpoint,
    Serving,
    Sides,
)
from compare.candidates.chosen import choose
from compare.candidates.rows import CandidateRow
from compare.candidates.table import candidate_rows
from compare.comparison import Report, build_report, read_report
from compare.config import CompareConfig
from compare.gate.asking import asked_by
from compare.gate.decision import gated
from compare.gate.evidence import Evidence
from compare.gate.former import FORMER, former_side, in_teachers_place, judged_alike
from compare.inputs import (
    answer_settings,
    given_answers,
    measured_task,
    model_names,
    read_asked,
    resolved,
    settings,
    sides_of,
)
from compare.judges.panel import Opinion, Panel
from compare.judges.registry import JudgeResources
from compare.measurement.covariates import FindCovariates, read_covariates
from compare.measurement.heldout import longest_first
from compare.measurement.lengths import longest_asked, prompt_lengths
from compare.measurement.machine import describe_machine
from compare.measurement.memorization import measure_memorization
from compare.measurement.run_files import (
    INPUTS,
    RunFiles,
    file_fidelity,
    read_run,
    require_teacher,
    sft_student,
)
from compare.measurement.served import SIDES, Served, measure_served, prompts_read_otherwise
from compare.report import task as task_report
from compare.report.page import render_page
from compare.report.summary import verdict_sentences
from compare.report.table import render_table
from compare.verdict.decision import decide, judgment_rows
from compare.verdict.examples import examples
from compare.verdict.health import is_sound_so_far
from compare.verdict.memorization import memorization_of
from compare.verdict.registration import digest, read_ledger, record, register
from potstill.errors import SchemaVersionError
from potstill.facts.base import StageName
from potstill.facts.comparison import ComparisonFacts, GateFact, Registration
from potstill.files import disk_errors, write_text_atomically
from potstill.manifest import Manifest
from potstill.progress import append_metrics
from potstill.rundir import RunDirectory, StageSession
from potstill.tables import JUDGMENT_SCHEMA, PAIR_SCHEMA, write_rows
from potstill.task.stage import read_task
from potstill.task.task import Task
from potstill.terminal import show
from potstill.verdict.outcome import Plan
from potstill.versions import ancestry

logger = logging.getLogger(__name__)

STAGE: StageName = "comparison"
PAIRS_NAME, JUDGMENTS_NAME = "pairs.parquet", "judgments.parquet"
REPORT_NAME, PAGE_NAME = "report.json", "report.html"
JUDGE_CONTEXT_TOKENS = 700
"""Context for the rubric and the marks around two answers."""
WITHOUT_ASSAY = {"criteria", "votes"}
"""Kinds of judges that people's labels or votes verify, or that are people."""
NUM_ANSWERS_JUDGED = 4
"""Answer lengths in one prompt of a judge: the teacher's answer and the padded one."""


def run(config: CompareConfig, run_directory: RunDirectory) -> Manifest:
    """Compare student and teacher, write the report and print its table and the verdict.

    Raises:
        ArtifactError: An input is missing, damaged, or has no teacher file to compare with.
        ManifestMismatchError: The inputs have different tokenizers.
        BackendError: A model cannot be run or an endpoint fails.
    """
    open_endpoint = serving_files(run_directory.root, config.ready_timeout_seconds)
    return run_with_endpoint(config, run_directory, open_endpoint)


def run_with_endpoint(
    config: CompareConfig, run_directory: RunDirectory, open_endpoint: OpenEndpoint
) -> Manifest:
    """Do the same as `run`, with any way to serve the run's files.

    A finished report that another version wrote is left as it is, with a warning.
    """
    own_task = read_task(run_directory)
    task = measured_task(config, own_task)
    config = resolved(config, task)
    inputs = INPUTS if config.needs_run else ()
    require_teacher(config, run_directory)
    if inputs and task is not None and run_directory.is_finished("baseline"):
        inputs = (*inputs, "baseline")
    if inputs and run_directory.is_finished("update"):
        inputs = (*inputs, "update")
    session = run_directory.open_stage(STAGE, settings(config, task), inputs=inputs)
    manifest = session.finished or _compare(
        config, task, asks_of(config, own_task, task), run_directory, session, open_endpoint
    )
    try:
        report = read_report(run_directory.stage_dir(STAGE) / REPORT_NAME)
    except SchemaVersionError as error:  # Its page and verdict are still there.
        logger.warning("%s", error)
        return manifest
    if report.files:
        show(render_table(report))
    if report.candidates:
        show(task_report.render(report))
    told = [task_report.headline(report), *task_report.sentences(report)]
    memorized = report.memorization.sentences if report.memorization else []
    for sentence in (*filter(None, told), *verdict_sentences(report.verdict), *memorized):
        show(sentence)
    show(f"report: {run_directory.stage_dir(STAGE) / PAGE_NAME}", soft_wrap=True)
    return manifest


def _compare(
    config: CompareConfig,
    task: Task | None,
    asks: Mapping[Role, Ask],
    run_directory: RunDirectory,
    session: StageSession,
    open_endpoint: OpenEndpoint,
) -> Manifest:
    run = read_run(run_directory, config.max_conversations) if config.needs_run else None
    questions = read_asked(config, run_directory, task)
    measured = JsonCache(session.scratch_dir)
    kept = _kept(config, run_directory) or measured
    needs_assay = _needs_assay(config, task)
    sides = sides_of(config, run, session.scratch_dir, needs_assay=needs_assay)
    given = given_answers(config, task, run_directory, questions)
    candidates = (
        choose(config, task, run, sides, session.scratch_dir, has_stored_answers=bool(given))
        if task
        else []
    )
    former: Sides = {FORMER: side} if (side := former_side(config)) else {}
    others: Sides = {**{one.key: one.side for one in candidates}, **former}
    suites = asked_by(config, run, sides, asks, session.scratch_dir)
    asks = {**asks, **{one.key: one.ask for one in candidates}}
    if asks:
        asks |= dict.fromkeys(former, asks["student"])
        own = {**sides, **others}
        longest_tokens = longest_asked(run, own, asks, dict.fromkeys(own, questions))
    else:
        own_student = run.student_dir if run and run.student.own_tokenizer else None
        lengths = prompt_lengths(questions, own_student)
        questions = [one for one in questions if one.prompt_id in lengths]
        longest_tokens = max(lengths.values())
    longest_suite = longest_asked(run, suites.sides, suites.asks, suites.questions)
    longest_tokens = max(longest_tokens, longest_suite)
    serving = _serving(config, session, run, longest_tokens, open_endpoint)
    fidelity = file_fidelity(run, measured, config.num_threads) if run else {}
    sft = sft_student(config.sft_run, run) if run and config.sft_run else None
    timed = longest_first(questions)[: config.speed_rounds]
    served = measured.once(
        "served",
        Served,
        lambda: measure_served(run, sides, asks, serving, timed, config.speed_tokens),
    )
    memorized = measure_memorization(run, config, session.scratch_dir, measured)
    memorization = memorization_of(memorized, config.memorization.min_tokens, config.verdict.alpha)

    sample = sample_of(questions, config.candidate_prompts, config.seed)
    collection = Collection(
        questions=questions,
        sides=sides,
        asks={**asks, **suites.asks},
        sampling=Sampling(config.sampling_temperature, config.max_tokens, config.seed),
        samples_per_prompt=config.samples_per_prompt,
        num_controls=config.assay.num_prompts if needs_assay else 0,
        cache=kept,
        others={**others, **suites.sides},
        asked_others={
            **dict.fromkeys(others, sample),
            **dict.fromkeys(former, questions),
            **suites.questions,
        },
        given={"teacher": given},
    )
    num_before = len(collection.book().answers()) - len(given)
    registration = register(measured, config.verdict, config.gate, num_before)
    everything = collection.answers(serving)
    answers = [one for one in everything if one.role not in suites.sides]
    ledger = read_ledger(
        run_directory.root,
        registration.registered_at,
        models=digest(model_names(sides)),
        settings=digest(answer_settings(config, task, sides)),
    )
    panel = _panel(config, task, questions, answers, measured, ledger.comparison)
    opinions = _opinions(config, run, panel, kept, sides, serving)
    find: FindCovariates | None = None
    if run is not None and config.prompts is None:
        find = partial(read_covariates, run.conversations_dir, of_references=task is not None)
    verdict = decide(config, registration, opinions, answers, panel.cluster_of, ledger, find)
    former_verdict = None
    if former:
        alike, both = judged_alike(config), in_teachers_place(answers)
        apart = _panel(alike, task, questions, both, JsonCache(session.scratch_dir / FORMER))
        said = _opinions(alike, run, apart, kept, sides, serving)
        former_verdict = decide(
            alike, registration, said, both, apart.cluster_of, level=verdict.shared_level
        )
    rows: tuple[CandidateRow, ...] = ()
    if task is not None:
        rows = candidate_rows(
            config, task, run, sides, candidates, questions, answers, collection.consumption
        )
    report = build_report(
        run,
        fidelity,
        served,
        verdict=verdict,
        sft=sft,
        candidates=rows,
        memorization=memorization,
        costs=config.cost,
        prompt_tokens_per_output_token=_prompt_share(answers),
        notes=[] if asks else prompts_read_otherwise(run, sides, questions, answers),
        examples=examples(panel.pairs, answers, opinions),
        history=ancestry(run_directory) if run_directory.is_finished("update") else (),
        settings=config.to_json(),
        machine=describe_machine(),
    )
    verdict = gated(
        Evidence(
            config,
            task,
            verdict,
            by_role(everything),
            {one.prompt_id: one.cluster(config.verdict.cluster_by) for one in questions},
            report.cost.rows[0].dollars_per_million_output_tokens,
            former_verdict,
            memorization,
        )
    )
    record(verdict, ledger, run_directory.root)
    report = report.model_copy(update={"verdict": verdict})
    return _finish(session, run_directory, report, everything, registration, panel, opinions)


def _needs_assay(config: CompareConfig, task: Task | None) -> bool:
    """Return whether a judge is tested on controls."""
    if not config.judges:  # Metrics judge, or the teacher.
        return task is None
    return any(judge.kind not in WITHOUT_ASSAY for judge in config.judges)


def _kept(config: CompareConfig, run_directory: RunDirectory) -> JsonCache | None:
    """Return where answers and readings outlive the comparison; None if they need not."""
    if config.cache_dir is not None:
        return JsonCache(config.cache_dir.expanduser())
    if any(judge.kind in WITHOUT_ASSAY for judge in config.judges):
        return JsonCache(run_directory.answers_dir)
    return None


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


def _panel(
    config: CompareConfig,
    task: Task | None,
    questions: Sequence[Question],
    answers: Sequence[Answer],
    cache: JsonCache,
    comparison: str | None = None,
) -> Panel:
    plan = Plan(margin=config.verdict.margin, alpha=config.verdict.alpha)
    is_sound = partial(is_sound_so_far, plan=plan)
    return Panel(config, questions, answers, cache, is_sound, task, comparison)


def _opinions(
    config: CompareConfig,
    run: RunFiles | None,
    panel: Panel,
    cache: JsonCache,
    sides: Sides,
    serving: Serving,
) -> list[Opinion]:
    """Return the opinions of the panel's judges.

    Args:
        cache: Where single readings of judges are stored.
    """
    judged_tokens = NUM_ANSWERS_JUDGED * config.max_tokens + JUDGE_CONTEXT_TOKENS
    with ExitStack() as stack:
        endpoints: dict[Role, Endpoint] = {}
        if panel.asks_teacher():
            wide = serving.with_room(judged_tokens)
            endpoints = stack.enter_context(wide.served({"teacher": sides["teacher"]}))
        teacher_gguf = run.path(run.reference) if run and run.gguf.teacher_files else None
        resources = JudgeResources(config, cache, endpoints.get("teacher"), teacher_gguf)
        return panel.opinions(resources)


def _prompt_share(answers: Sequence[Answer]) -> float:
    own = [answer for answer in answers if answer.role in SIDES]
    completion = sum(answer.completion_tokens for answer in own)
    return sum(answer.prompt_tokens for answer in own) / max(completion, 1)


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
            gate=tuple(
                GateFact(name=one.name, required=one.required, outcome=one.outcome.value)
                for one in verdict.gate
            ),
            registration=registration,
            rows=tuple(report.rows),
            memorization=report.memorization,
        ),
        stats={"completion_tokens": sum(answer.completion_tokens for answer in answers)},
    )

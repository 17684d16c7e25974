"""The comparison stage: fidelity, speed and answers of teacher and student, in one report.

In: finished conversations, student and GGUF files, and the `potstill serve` command. Out:
pairs.parquet, report.json, report.html, and a table on stdout. Knows nothing of how they were made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from compare.answers.answers import AnswerBook, open_client
from compare.answers.cache import JsonCache
from compare.answers.endpoint import free_port, running_endpoint, serve_command
from compare.config import CompareConfig
from compare.measurement.fidelity import measure_fidelity
from compare.measurement.heldout import (
    distinct_prompts,
    longest_first,
    plain_prompts,
    prompt_lengths,
    read_held_out,
)
from compare.measurement.machine import describe_machine
from compare.measurement.speed import Speed, measure_speed
from compare.report.page import render_page
from compare.report.report import Report, build_report, has_own_tokenizer, reference_file
from compare.report.table import render_table
from potstill.errors import ArtifactError, ManifestMismatchError
from potstill.fidelity import Fidelity, tokens_are_draws
from potstill.files import disk_errors, write_text_atomically
from potstill.manifest import Manifest, read_manifest
from potstill.progress import append_metrics, track
from potstill.rundir import RunDirectory, StageName, StageSession
from potstill.schema import Conversation
from potstill.tables import PAIR_SCHEMA, write_rows

STAGE: StageName = "comparison"
INPUTS: tuple[StageName, ...] = ("conversations", "student", "gguf")
PATIENCE = {"num_threads", "ready_timeout_seconds", "request_timeout_seconds"}
"""Settings that decide no figure: a run goes on with others."""
PAIRS_NAME, REPORT_NAME, PAGE_NAME = "pairs.parquet", "report.json", "report.html"
SPARE_CONTEXT_TOKENS = 32
"""Room in the endpoint's context beside prompt and answer, for the warm-up and the template."""

HeldOut = list[Conversation]
OpenEndpoint = Callable[[Sequence[str], int, Path], AbstractContextManager[str]]
"""Serve models with a context of so many tokens, log to a path, and yield the base URL."""


def run(config: CompareConfig, run_directory: RunDirectory) -> Manifest:
    """Compare student and teacher, write the report and print its table.

    Raises:
        ArtifactError: An input is missing, damaged, or has no teacher file to compare with.
        ManifestMismatchError: The inputs have different tokenizers.
        BackendError: A model cannot be run or the endpoint fails.
    """

    def open_endpoint(
        models: Sequence[str], context_tokens: int, log_path: Path
    ) -> AbstractContextManager[str]:
        port = free_port()
        command = serve_command(run_directory.root, models, port, context_tokens)
        return running_endpoint(command, port, log_path, config.ready_timeout_seconds)

    return run_with_endpoint(config, run_directory, open_endpoint)


def run_with_endpoint(
    config: CompareConfig, run_directory: RunDirectory, open_endpoint: OpenEndpoint
) -> Manifest:
    """Do what `run` does, with any way to serve the run's files."""
    session = run_directory.open_stage(STAGE, config.to_json(exclude=PATIENCE), inputs=INPUTS)
    manifest = session.finished or _compare(config, run_directory, session, open_endpoint)
    report_path = run_directory.stage_dir(STAGE) / REPORT_NAME
    report = Report.model_validate_json(report_path.read_text(encoding="utf-8"))
    Console().print(render_table(report))
    Console().print(f"report: {run_directory.stage_dir(STAGE) / PAGE_NAME}", soft_wrap=True)
    return manifest


def _compare(
    config: CompareConfig,
    run_directory: RunDirectory,
    session: StageSession,
    open_endpoint: OpenEndpoint,
) -> Manifest:
    manifests = {name: read_manifest(run_directory.stage_dir(name)) for name in INPUTS}
    _require_comparable(manifests, run_directory)
    files = manifests["gguf"].facts["files"]
    held_out = read_held_out(run_directory.stage_dir("conversations"), config.max_conversations)
    cache = JsonCache(session.scratch_dir)
    own = has_own_tokenizer(manifests["student"])
    comparable = [file for file in files if file["role"] == "teacher" or not own]
    drawn = tokens_are_draws(manifests["conversations"].facts)
    fidelity = _fidelity(config, run_directory, cache, comparable, held_out, drawn)
    prompts = plain_prompts(held_out)
    lengths = prompt_lengths(prompts, run_directory.stage_dir("student") if own else None)
    speed, pairs = _ask_endpoint(
        config, session, cache, manifests["gguf"], prompts, lengths, open_endpoint
    )
    report = build_report(
        manifests,
        held_out,
        fidelity,
        speed,
        num_prompts=len({pair["prompt_id"] for pair in pairs}),
        settings=config.to_json(),
        machine=describe_machine(),
    )
    with disk_errors("writing the report", session.dir):
        num_pairs = write_rows(session.dir / PAIRS_NAME, PAIR_SCHEMA, pairs)
        write_text_atomically(session.dir / REPORT_NAME, report.model_dump_json(indent=2) + "\n")
        write_text_atomically(session.dir / PAGE_NAME, render_page(report, pairs))
    for row in report.rows:
        append_metrics(
            run_directory.metrics_path, STAGE, **row.model_dump(mode="json", exclude_none=True)
        )
    return session.finish(
        rows={PAIRS_NAME: num_pairs},
        facts={
            "recommended": report.recommended,
            "reference": report.reference,
            "rows": [row.model_dump(mode="json") for row in report.rows],
        },
        stats={"completion_tokens": sum(pair["completion_tokens"] for pair in pairs)},
    )


def _fidelity(
    config: CompareConfig,
    run_directory: RunDirectory,
    cache: JsonCache,
    files: list[dict[str, Any]],
    held_out: HeldOut,
    drawn: bool,
) -> dict[str, Fidelity]:
    measured = {}
    with track("measuring fidelity", len(files) * len(held_out), "conversations") as progress:
        for file in files:
            name = f"fidelity-{file['name']}"
            stored = cache.get(name)
            if stored is None:
                path = run_directory.stage_dir("gguf") / file["file"]
                stored = asdict(
                    measure_fidelity(
                        path, held_out, config.num_threads, progress.advance, drawn=drawn
                    )
                )
                cache.put(name, stored)
            else:
                progress.advance(len(held_out))
            measured[file["name"]] = Fidelity(**stored)
    return measured


def _ask_endpoint(
    config: CompareConfig,
    session: StageSession,
    cache: JsonCache,
    gguf: Manifest,
    prompts: HeldOut,
    lengths: dict[str, int],
    open_endpoint: OpenEndpoint,
) -> tuple[dict[str, Speed], list[dict[str, Any]]]:
    """Measure speed before asking: the endpoint has then seen none of the timed prompts."""
    files, recommended = gguf.facts["files"], gguf.facts["recommended"]
    prompts = [one for one in prompts if one.prompt.prompt_id in lengths]
    asked = distinct_prompts(prompts, config.num_side_by_side)
    timed = distinct_prompts(longest_first(prompts), config.speed_rounds)
    book = AnswerBook(cache, [reference_file(files), recommended], asked)
    speed = cache.get("speed")
    if speed is None or book.missing():
        longest = max(lengths[one.prompt.prompt_id] for one in [*asked, *timed])
        answer_tokens = max(config.max_tokens, config.speed_tokens)
        names = [file["name"] for file in files]
        context_tokens = longest + answer_tokens + SPARE_CONTEXT_TOKENS
        log_path = session.scratch_dir / "endpoint.log"
        with open_endpoint(names, context_tokens, log_path) as base_url:
            client = open_client(base_url, config.request_timeout_seconds)
            if speed is None:
                measured = measure_speed(client, names, timed, config.speed_tokens)
                speed = {name: asdict(value) for name, value in measured.items()}
                cache.put("speed", speed)
            book.fill(client, temperature=config.temperature, max_tokens=config.max_tokens)
    return {name: Speed(**value) for name, value in speed.items()}, book.pairs()


def _require_comparable(manifests: dict[StageName, Manifest], run_directory: RunDirectory) -> None:
    # A student may have other tokens than the teacher, but then its files have the student's.
    model: StageName = "student" if has_own_tokenizer(manifests["student"]) else "conversations"
    for stage in ("student", "gguf"):
        for fact in ("tokenizer_sha256", "chat_template_sha256"):
            expected = manifests[model].facts[fact]
            found = manifests[stage].facts[fact]
            if found != expected:
                raise ManifestMismatchError(
                    f"the {stage} stage was made with another tokenizer or chat template",
                    where=run_directory.stage_dir(stage),
                    expected=f"{fact} {expected}",
                    found=found,
                    hint=f"make the {stage} stage again with --force",
                )
    if not any(file["role"] == "teacher" for file in manifests["gguf"].facts["files"]):
        raise ArtifactError(
            "there is no GGUF file of the teacher to compare with",
            where=run_directory.stage_dir("gguf"),
            expected="at least one file with role teacher",
            found="files of the student only",
            hint="let the quantize stage make one of the teacher too, with --force",
        )

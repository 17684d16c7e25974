"""The stage `samples`: all sampled conversations, before any filter.

In: the stage `prompts`. Out: Parquet parts of conversations, and lists of those that failed.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
import pyarrow.parquet as pq

from generate.config import FIRST_TEACHER, GenerateConfig
from generate.lazy_teacher import LazyTeacher, LoadedTeacher, loaded_teacher
from generate.prompts.stage import PROMPTS_NAME
from generate.sampling.assignment import Assignment, Work
from generate.sampling.best_of_n import make_choice
from generate.sampling.dialogue import Dialogue
from generate.sampling.known_answer import KnownAnswer
from generate.sampling.loop import ConversationBuilder, ConversationLoop, Part
from generate.sampling.parts import (
    WHOLE,
    FailedConversation,
    Shard,
    finished_parts,
    part_paths,
    read_failures,
    read_prompts,
)
from generate.sampling.scoring import ScoredConversation
from generate.sampling.settings import ConversationSettings
from generate.sampling.simulated_user import SimulatedUser
from generate.sampling.stage_settings import stage_settings
from generate.sampling.stored_answers import StoredAnswers, read_stored_answers
from generate.sampling.summary import Summary, summarize
from generate.teachers.protocol import SamplingTeacher
from potstill.chat import chat_template_sha256, tokenizer_sha256, with_thinking
from potstill.errors import ConfigError, PotstillError, TeacherError
from potstill.facts.samples import SamplesFacts
from potstill.facts.shared import FurtherTeacher
from potstill.files import disk_errors, write_text_atomically
from potstill.manifest import Manifest
from potstill.progress import append_metrics
from potstill.rundir import RunDirectory, StageSession
from potstill.schema import Prompt
from potstill.tables import PROMPT_SCHEMA, read_rows
from potstill.task.stage import read_task
from potstill.thinking import has_switch

logger = logging.getLogger(__name__)

TEACHER_NAME = "teacher.json"


def open_samples(config: GenerateConfig, run_directory: RunDirectory) -> StageSession:
    """Begin or resume the stage, or return it finished.

    Raises:
        ConfigError: Answers are chosen by a metric or bound by a schema that the task lacks.
    """
    settings = stage_settings(config, read_task(run_directory))
    return run_directory.open_stage("samples", settings, inputs=("prompts",))


def make_parts(
    config: GenerateConfig,
    teacher: LazyTeacher,
    run_directory: RunDirectory,
    session: StageSession,
    shard: Shard = WHOLE,
) -> None:
    """Sample the missing parts of a shard.

    Raises:
        TeacherError: The teacher fails as a whole, or differs from the one that sampled the parts
            on disk.
        ArtifactError: A part cannot be written.
    """
    num_parts_each, done = _num_parts_each(config, run_directory), finished_parts(session.dir)
    assignment = Assignment(config)
    works = []
    for number, name in enumerate(config.teacher_names):
        parts = range(number * num_parts_each, (number + 1) * num_parts_each)
        mine = [index for index in parts if shard.has(index)]
        if not done.issuperset(mine):
            of_one = config.of_teacher(name)
            works.append(Work(of_one, name, number, parts[0], assignment, mine, done))
    stored = _stored_answers(config, teacher, run_directory) if works else StoredAnswers()
    for work in works:
        with loaded_teacher(config, teacher, work.name) as asked:
            with run_directory.locked("-teacher", wait=True):
                _refuse_other_teacher(asked, session)
            _make_parts_of(work, teacher, asked, stored, run_directory, session)


def _make_parts_of(
    work: Work,
    first: LazyTeacher,
    teacher: LoadedTeacher,
    stored: StoredAnswers,
    run_directory: RunDirectory,
    session: StageSession,
) -> None:
    """Sample one teacher's missing parts, in the first teacher's tokens."""
    config, checkpoint, loaded = work.config, first.checkpoint, teacher.teacher
    prompts_path = run_directory.stage_dir("prompts") / PROMPTS_NAME
    per_part = config.engine.conversations_per_part
    task = read_task(run_directory)
    settings = ConversationSettings(
        config,
        asked_tokenizer(config, checkpoint.tokenizer),
        teacher.max_model_len,
        task=task,
        teacher_name=work.name,
    )
    settings.require_turns(loaded.end_token_ids)
    _ = settings.tool_result  # Raises before the work begins.
    user = _load_user(config, checkpoint.dir)
    choose = make_choice(config.turns, task)
    loop = ConversationLoop(session.dir, checkpoint.vocab_size, choose, user)
    sizes = {
        work.first_part + index: sum(len(work.answers(settings, one)) for one in prompts)
        for index, prompts in read_prompts(prompts_path, per_part)
    }
    try:
        loop.run(
            _ask(config, loaded),
            _parts(work, settings, loaded, read_prompts(prompts_path, per_part), stored),
            total=sum(sizes[index] for index in work.mine),
            num_done=sum(sizes[index] for index in work.mine if index in work.done),
            at_once=loaded.max_num_seqs,
        )
    finally:
        if user is not None:
            user.close()


def asked_tokenizer(config: GenerateConfig, tokenizer: Any) -> Any:  # noqa: ANN401
    """Return the teacher's tokenizer with its chat template's switch for thinking as configured.

    Raises:
        ConfigError: It has none, but teacher or student need one.
    """
    thinks, both = config.thinking.teacher, config.thinking.student == "both"
    if (both or thinks is not None) and not has_switch(tokenizer.chat_template):
        raise ConfigError(
            "the teacher's chat template has no switch for thinking",
            where=f"generate.thinking.{'teacher' if thinks is not None else 'student'}",
            expected="a template with enable_thinking",
            hint="let the student think or answer, and leave out what the teacher does",
        )
    return with_thinking(tokenizer, thinks)


def num_parts(config: GenerateConfig, run_directory: RunDirectory) -> int:
    """Return the number of parts for the finished prompts: as many for each teacher."""
    return len(config.teacher_names) * _num_parts_each(config, run_directory)


def _num_parts_each(config: GenerateConfig, run_directory: RunDirectory) -> int:
    return -(-_num_prompts(run_directory) // config.engine.conversations_per_part)


def finish_samples(
    config: GenerateConfig,
    teacher: LazyTeacher,
    session: StageSession,
    run_directory: RunDirectory,
) -> Manifest:
    """Summarize the parts and finish the stage.

    Raises:
        TeacherError: Every conversation failed.
    """
    summary = summarize(part_paths(session.dir))
    failures = read_failures(session.dir)
    if failures and not summary.num_conversations:
        raise TeacherError(
            "every conversation failed",
            where=session.dir,
            found=failures[0].reason,
            hint="fix the cause, then run the same command again with --force",
        )
    if failures:
        logger.warning(
            "%d conversations failed; failed-*.jsonl lists them, the first: %s",
            len(failures),
            failures[0].reason,
        )
    _report(config, summary, run_directory)
    sampling, is_scored = config.sampling, config.turns.kind == "score"
    checkpoint = teacher.checkpoint
    records = {
        name: json.loads(_record_path(session, name).read_text(encoding="utf-8"))
        for name in config.teacher_names
    }
    loaded = records.pop(FIRST_TEACHER)
    return session.finish(
        rows=summary.rows_by_part,
        facts=SamplesFacts(
            teacher=checkpoint.identity,
            tokenizer_sha256=tokenizer_sha256(checkpoint.dir),
            chat_template_sha256=chat_template_sha256(checkpoint.tokenizer.chat_template),
            vocab_size=checkpoint.vocab_size,
            served_as=loaded.get("served_as"),
            logprobs_mode=loaded["logprobs_mode"],
            top_logprobs=sampling.top_logprobs,
            top_mass=sampling.top_mass,
            min_probability=sampling.min_probability,
            generation_temperature=None if is_scored else sampling.temperature,
            generation_top_p=None if is_scored else sampling.top_p,
            structured=sampling.structured,
            known_answers=config.turns.known_answers,
            turns=config.turns.kind,
            num_sampled_per_prompt=config.num_asked_teachers * config.turns.num_sampled,
            num_kept_per_prompt=config.turns.num_answers,
            num_failed=len(failures),
            num_conversations=summary.num_conversations_by_split,
            further_teachers={
                name: FurtherTeacher(
                    identity=LazyTeacher(config.of_teacher(name)).checkpoint.identity,
                    level=record["level"],
                )
                for name, record in records.items()
            },
            num_by_teacher=dict(summary.teachers),
        ),
        stats=summary.stats().model_dump(),
    )


def _num_prompts(run_directory: RunDirectory) -> int:
    path = run_directory.stage_dir("prompts") / PROMPTS_NAME
    return int(pq.read_metadata(path).num_rows)


def _ask(config: GenerateConfig, teacher: SamplingTeacher) -> Any:  # noqa: ANN401  (an Ask)
    how = teacher.score if config.turns.kind == "score" else teacher.sample
    return partial(how, top_logprobs=config.sampling.top_logprobs)


def _stored_answers(
    config: GenerateConfig, first: LazyTeacher, run_directory: RunDirectory
) -> StoredAnswers:
    """Read the answers that another run has for this one's prompts."""
    if config.reuse is None:
        return StoredAnswers()
    path = run_directory.stage_dir("prompts") / PROMPTS_NAME
    return read_stored_answers(
        RunDirectory(Path(config.reuse)),
        stage_settings(config, read_task(run_directory)),
        first.checkpoint.fingerprint,
        {row["prompt_id"] for row in read_rows(path, PROMPT_SCHEMA)},
    )


def _load_user(config: GenerateConfig, teacher_dir: Path) -> SimulatedUser | None:
    if config.turns.kind != "simulate" or config.turns.user is None:
        return None
    from generate.teachers.endpoint.teacher import connect

    return SimulatedUser(connect(config.turns.user, teacher_dir), config)


def _parts(
    work: Work,
    settings: ConversationSettings,
    teacher: SamplingTeacher,
    prompt_parts: Iterator[tuple[int, list[Prompt]]],
    stored: StoredAnswers,
) -> Iterator[Part]:
    missing = set(work.mine).difference(work.done)
    for number, prompts in prompt_parts:
        if work.first_part + number in missing:
            yield (
                work.first_part + number,
                [
                    partial(_begin, settings, teacher, prompt, answer, stored)
                    for prompt in prompts
                    for answer in work.answers(settings, prompt)
                ],
            )


def _begin(
    settings: ConversationSettings,
    teacher: SamplingTeacher,
    prompt: Prompt,
    answer: int,
    stored: StoredAnswers,
) -> ConversationBuilder | FailedConversation:
    """Begin a conversation; a prompt that cannot be rendered must not stop the others."""
    name = f"{prompt.prompt_id}-{answer}"
    try:
        builder: Dialogue | ScoredConversation | KnownAnswer
        if settings.takes_known(prompt):
            return KnownAnswer(settings, prompt, teacher.end_token_ids)
        if settings.config.turns.kind == "score":
            builder = ScoredConversation(settings, prompt, teacher.end_token_ids)
        else:
            builder = Dialogue(settings, prompt, answer)
            if settings.num_answers(prompt) == 1 and (
                found := stored.find(builder, settings.teacher_name)
            ):
                return found
    except (jinja2.TemplateError, PotstillError) as error:
        return FailedConversation(name, f"the chat template rejects it: {error}".splitlines()[0])
    if builder.request is None:
        return FailedConversation(
            name,
            f"{builder.num_tokens} tokens and {settings.config.sampling.max_tokens} for the answer "
            f"exceed the teacher's context of {settings.max_model_len} tokens",
        )
    return builder


def _record_path(session: StageSession, name: str) -> Path:
    return session.scratch_dir / (TEACHER_NAME if name == FIRST_TEACHER else f"teacher-{name}.json")


def _refuse_other_teacher(teacher: LoadedTeacher, session: StageSession) -> None:
    """Record the teacher, or check that it is the one that sampled the parts on disk."""
    path, facts = _record_path(session, teacher.name), teacher.facts
    if not path.is_file():
        with disk_errors("recording the teacher", path):
            path.parent.mkdir(exist_ok=True)
            write_text_atomically(path, json.dumps(facts))
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    if before != facts:
        raise TeacherError(
            "the conversations on disk are from another teacher",
            where=session.dir,
            expected=before,
            found=facts,
            hint="restore the teacher's checkpoint, or sample again with --force",
        )


def _report(config: GenerateConfig, summary: Summary, run_directory: RunDirectory) -> None:
    append_metrics(run_directory.metrics_path, "samples", **summary.stats().model_dump())
    logger.info(
        "%d conversations, %d completion tokens, %.0f%% of the answers cut off at %d tokens; the "
        "mean tail mass is %.1f%%",
        summary.num_conversations,
        summary.completion_tokens,
        100 * summary.truncated_share,
        config.sampling.max_tokens,
        100 * summary.mean_tail_mass,
    )

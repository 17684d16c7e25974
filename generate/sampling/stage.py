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
from generate.curation.task_filters import first_metric
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
from generate.sampling.summary import Summary, summarize
from generate.teachers.protocol import SamplingTeacher
from potstill.chat import chat_template_sha256, tokenizer_sha256, with_thinking
from potstill.errors import ConfigError, PotstillError, TeacherError
from potstill.facts.samples import SamplesFacts
from potstill.facts.shared import FurtherTeacher
from potstill.files import sha256_bytes, write_text_atomically
from potstill.manifest import Manifest
from potstill.progress import append_metrics
from potstill.rundir import RunDirectory, StageSession
from potstill.schema import Prompt
from potstill.task.stage import read_task
from potstill.task.task import Task, shots_text
from potstill.thinking import has_switch

logger = logging.getLogger(__name__)

TEACHER_NAME = "teacher.json"


def open_samples(config: GenerateConfig, run_directory: RunDirectory) -> StageSession:
    """Begin or resume the stage, or return it finished.

    Raises:
        ConfigError: Answers are chosen by a metric or bound by a schema that the task lacks.
    """
    settings = _stage_config(config, read_task(run_directory))
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
    for number, name in enumerate(config.teacher_names):
        parts = range(number * num_parts_each, (number + 1) * num_parts_each)
        mine = [index for index in parts if shard.has(index)]
        if done.issuperset(mine):
            continue
        work = Work(config.of_teacher(name), name, number, parts[0], assignment, mine, done)
        with loaded_teacher(config, teacher, name) as asked:
            with run_directory.locked("-teacher", wait=True):
                _refuse_other_teacher(asked, session)
            _make_parts_of(work, teacher, asked, run_directory, session)


def _make_parts_of(
    work: Work,
    first: LazyTeacher,
    teacher: LoadedTeacher,
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
            _parts(work, settings, loaded, read_prompts(prompts_path, per_part)),
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


def _stage_config(config: GenerateConfig, task: Task | None) -> dict[str, Any]:
    optional = {"tool_results", "known_answers"}
    turns = config.turns.to_json(
        exclude={name for name in optional if not getattr(config.turns, name)}
    )
    if config.turns.user is not None:
        turns["user"] = {"model": config.turns.user.model}
    settings = {
        "teacher": config.teacher.identity,
        "sampling": config.sampling.to_json(
            exclude={
                name for name in ("structured", "bind_known") if not getattr(config.sampling, name)
            }
        ),
        "turns": turns,
        "conversations_per_part": config.engine.conversations_per_part,
    }
    if config.further_teachers:
        settings["weight"], settings["choose_teacher"] = (
            config.teacher.weight,
            config.choose_teacher,
        )
        settings["further_teachers"] = {
            name: one.identity | {"weight": one.weight, **one.rules}
            for name, one in config.further_teachers.items()
        }
    if config.choose_teacher == "best":
        first_metric(task, "generate.choose_teacher")
    thinking = config.thinking.to_json(exclude={"student"})
    if any(value is not None for value in thinking.values()):
        settings["thinking"] = thinking
    by_metric = config.turns.best_by in ("metric", "majority")
    if by_metric:
        first_metric(task, "generate.turns.best_by")
    is_bound = config.sampling.structured
    if is_bound and not (task and (task.answer_schema or task.labels)):
        raise ConfigError(
            "there is no schema to bind answers by",
            where="generate.sampling.structured",
            expected="a [task] with answer_schema, or with the labels that answers are",
            found="a task without one" if task else "no task",
        )
    # A metric also says in which form a known answer is learned.
    by_metric |= config.turns.known_answers
    asked = _task_config(task, by_metric=by_metric, is_bound=is_bound) if task else {}
    return settings | {"task": asked} if asked else settings


def _task_config(task: Task, *, by_metric: bool, is_bound: bool) -> dict[str, str]:
    """Return hashes of what of the task decides the samples, without what is empty."""
    examples = [item for item in task.examples if item.known] if task.num_shots else []
    shots = f"{task.num_shots} {task.shots} {shots_text(examples)}" if examples else ""
    deciding = {"instructions": task.instructions, "tools": task.tools, "shots": shots}
    if is_bound:
        deciding["answer_schema"] = task.answer_schema
        deciding["labels"] = "\n".join(task.labels)
    if by_metric and task.metrics:
        deciding["metric"] = f"{task.metrics[0].model_dump_json()} {task.answer_schema}"
    return {name: sha256_bytes(text.encode()) for name, text in deciding.items() if text}


def _ask(config: GenerateConfig, teacher: SamplingTeacher) -> Any:  # noqa: ANN401  (an Ask)
    how = teacher.score if config.turns.kind == "score" else teacher.sample
    return partial(how, top_logprobs=config.sampling.top_logprobs)


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
) -> Iterator[Part]:
    missing = set(work.mine).difference(work.done)
    for number, prompts in prompt_parts:
        if work.first_part + number in missing:
            yield (
                work.first_part + number,
                [
                    partial(_begin, settings, teacher, prompt, answer)
                    for prompt in prompts
                    for answer in work.answers(settings, prompt)
                ],
            )


def _begin(
    settings: ConversationSettings, teacher: SamplingTeacher, prompt: Prompt, answer: int
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

"""The prompts and the models of a comparison, and what its result depends on.

In: the configuration and a run. Out: `Question`s, `Sides`, and digests of all files that are
named: the result depends on their content, not on their paths.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compare.answers.answers import Role
from compare.answers.client import Endpoint, find_endpoint
from compare.answers.prompt_file import read_prompt_file
from compare.answers.questions import Question, messages_id, with_references
from compare.answers.references import read_references
from compare.answers.serving import FileSide, Sides
from compare.config import CompareConfig, SideConfig
from compare.gate.defaults import check_gate_is_measurable, default_gate, with_former
from compare.judge_config import (
    CriteriaJudgeConfig,
    JudgeConfig,
    LikelihoodJudgeConfig,
    VotesJudgeConfig,
)
from compare.judges.controls import UNTRAINED
from compare.measurement.heldout import read_questions, similar_prompts, stored_answers
from compare.measurement.run_files import RunFiles
from compare.measurement.untrained import untrained_file
from potstill.errors import ConfigError
from potstill.facts.conversations import ConversationsFacts
from potstill.files import sha256_bytes, sha256_file
from potstill.rundir import RunDirectory
from potstill.task.task import Task

WHERE = {"prompts", "references_path", "sft_run", "former_run"}
"""Settings that are paths, replaced by digests of the content."""
PATIENCE = {
    "num_threads",
    "ready_timeout_seconds",
    "request_timeout_seconds",
    "max_concurrency",
    "max_retries",
    "cache_dir",
    "plan",
}
"""Settings that change no result: a comparison is resumed with other values."""
OF_TASKS = {"candidates", "candidate_prompts", "teacher_answers"}
"""Settings that matter to tasks with known answers only."""


def measured_task(config: CompareConfig, task: Task | None) -> Task | None:
    """Return the task if its known answers are asked, else None."""
    return task if task and task.references and config.prompts is None else None


def resolved(config: CompareConfig, task: Task | None) -> CompareConfig:
    """Return the configuration with the temperature and the gate that its defaults stand for.

    Args:
        task: The task whose known answers are asked, if any.

    Raises:
        ConfigError: The gate requires what this comparison does not measure.
    """
    check_gate_is_measurable(config, task)
    temperature = config.sampling_temperature
    if task is not None and config.temperature is None:
        temperature = 0.0
    gate = config.gate
    if gate is None and task is not None:
        gate = default_gate(has_schema=task.answer_schema is not None)
    if config.former_run is not None:
        gate = with_former(gate)
    return config.model_copy(update={"temperature": temperature, "gate": gate})


def given_answers(
    config: CompareConfig,
    task: Task | None,
    run_directory: RunDirectory,
    questions: Sequence[Question],
) -> dict[str, dict[str, Any]]:
    """Return the teacher's stored answers by prompt id; none where it is to be asked.

    Raises:
        ArtifactError: A table is damaged.
    """
    if task is None or not config.takes_stored_answers:
        return {}
    facts = run_directory.facts(ConversationsFacts)
    return stored_answers(run_directory.stage_dir("conversations"), facts, questions)


def read_asked(
    config: CompareConfig, run_directory: RunDirectory, task: Task | None
) -> list[Question]:
    """Return the prompts that both models answer.

    Args:
        task: The task whose known answers are asked, if any.

    Raises:
        ArtifactError: A file or run of prompts cannot be used, or has none.
        ConfigError: Two endpoints are compared without a run, and there are no prompts.
    """
    if task is not None:
        has_groups = run_directory.is_finished("conversations")
        similar = similar_prompts(run_directory.stage_dir("conversations")) if has_groups else {}
        return read_references(task, config.num_prompts, config.seed, similar)
    given = config.prompts is not None or run_directory.is_finished("conversations")
    if not config.needs_run and not given:
        raise ConfigError(
            "there are no prompts to compare on",
            where="compare.prompts",
            expected="a JSONL file or a run, or the known answers of a task (task.references)",
        )
    if config.prompts is not None and config.prompts.is_file():
        questions = read_prompt_file(config.prompts)[: config.num_prompts]
    else:
        run = run_directory if config.prompts is None else RunDirectory(config.prompts)
        run.require("conversations")
        questions = read_questions(run.stage_dir("conversations"), config.num_prompts)
    if config.references_path is not None:
        known = read_prompt_file(config.references_path)
        questions = with_references(questions, {messages_id(one.messages): one for one in known})
    return questions


def settings(config: CompareConfig, task: Task | None) -> dict[str, Any]:
    """Return what the result depends on: settings, and the content of the files that they name.

    Raises:
        ConfigError: A file is missing.
        ArtifactError: A run is not finished.
    """
    left_out = PATIENCE | WHERE | ({"gate"} if config.gate is None else set())
    if task is None:
        left_out = left_out | OF_TASKS
    found = config.to_json(exclude=left_out) | {"content": _digests(config)}
    if task is None:
        del found["cost"]["watts_per_cpu"]
        return found
    prompts = {"examples": task.examples, "references": task.references}
    for name, items in prompts.items():
        content = "\n".join(item.model_dump_json() for item in items)
        found["content"][f"task.{name}"] = sha256_bytes(content.encode())
    return found | {"task": task.model_dump(mode="json", exclude=set(prompts))}


def sides_of(
    config: CompareConfig, run: RunFiles | None, scratch_dir: Path, *, needs_assay: bool
) -> Sides:
    """Return student and teacher, and a model that is known to be worse.

    Raises:
        BackendError: An endpoint does not list its models.
    """
    sides: dict[Role, FileSide | Endpoint] = {}
    given: dict[Role, SideConfig | None] = {"student": config.student, "teacher": config.teacher}
    if needs_assay:
        given["known_worse"] = config.assay.known_worse
    for role, side in given.items():
        if side is not None:
            sides[role] = find_endpoint(side.base_url, side, config)
        elif run is not None and role != "known_worse":
            file = run.gguf.recommended_file if role == "student" else run.reference
            sides[role] = FileSide(file.name, run.sha256(file))
    if run is not None and needs_assay and "known_worse" not in sides:
        path = untrained_file(run, scratch_dir)
        if path is not None:
            sides["known_worse"] = FileSide(UNTRAINED, sha256_file(path), path)
    return sides


def model_names(sides: Sides) -> list[str]:
    """Return the student's and the teacher's name: hashes of files, or addresses."""
    compared = (sides["student"], sides["teacher"])
    return [
        f"{one.base_url}#{one.model}" if isinstance(one, Endpoint) else one.identity
        for one in compared
    ]


def answer_settings(config: CompareConfig, task: Task | None, sides: Sides) -> dict[str, Any]:
    """Return what answers depend on beside models and prompts: with other ones, scores change.

    So they do where a server has another model behind a name.
    """
    names = {"temperature", "max_tokens", "seed", "samples_per_prompt", "task_schema"}
    found = config.model_dump(mode="json", include=names)
    found["cluster_by"] = config.verdict.cluster_by
    sides = {role: sides[role] for role in ("student", "teacher")}
    stated = {role: one.fingerprint for role, one in sides.items() if isinstance(one, Endpoint)}
    if any(stated.values()):
        found["fingerprints"] = stated
    return found | {"task": task.model_dump(mode="json", exclude={"references"}) if task else None}


def _digests(config: CompareConfig) -> dict[str, str]:
    found = {}
    if config.prompts is not None and not config.prompts.is_file():
        found["prompts"] = RunDirectory(config.prompts).pinned("conversations")
    if config.sft_run is not None:
        found["sft_run"] = RunDirectory(config.sft_run).pinned("student")
    if config.former_run is not None:
        found["former_run"] = RunDirectory(config.former_run).pinned("gguf")
    paths = {"references_path": config.references_path}
    if "prompts" not in found:
        paths["prompts"] = config.prompts
    paths |= {
        judge.name: _file_of(judge, comes_first=index == 0)
        for index, judge in enumerate(config.judges)
    }
    for name, path in paths.items():
        if path is not None:
            if not path.is_file():
                raise ConfigError("a file is missing", where=f"compare: {name}", found=path)
            found[name] = sha256_file(path)
    return found


def _file_of(judge: JudgeConfig, *, comes_first: bool) -> Path | None:
    """Return the file that a judge reads; None without one, or where people are yet to make it."""
    match judge:
        case VotesJudgeConfig() if comes_first or judge.path.exists():
            return judge.path
        case LikelihoodJudgeConfig():
            return judge.gguf_path
        case CriteriaJudgeConfig() if judge.labels.exists():
            return judge.labels
    return None

"""What of the configuration and the task decides the stage `samples`.

In: the configuration, and the task. Out: JSON for the stage's manifest.
"""

from __future__ import annotations

from typing import Any

from generate.config import GenerateConfig
from generate.curation.task_filters import first_metric
from potstill.errors import ConfigError
from potstill.files import sha256_bytes
from potstill.task.task import Task, shots_text


def stage_settings(config: GenerateConfig, task: Task | None) -> dict[str, Any]:
    """Return the settings that decide the samples; with others the stage is made again.

    Raises:
        ConfigError: Answers are chosen by a metric or bound by a schema that the task lacks.
    """
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

"""The stage `task`: the `[task]` table with the files it names, kept in the run.

In: the configuration. Out: `task/task.json`. Other stages read the task from there, so a run can be
moved, resumed and served without the files that it was made from. Each stage records in its own
settings what of the task decides its result, so that a new metric does not sample again.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any, cast

from potstill.config import read_config_file, validate_tables
from potstill.errors import ArtifactError, ConfigError, first_line
from potstill.facts.task import TaskFacts
from potstill.files import disk_errors, write_text_atomically
from potstill.rundir import RunDirectory
from potstill.task.config import TaskConfig
from potstill.task.items import read_items
from potstill.task.task import EXAMPLES_PLACE, Task

logger = logging.getLogger(__name__)

TASK_NAME = "task.json"


def read_task(run_directory: RunDirectory) -> Task | None:
    """Return a run's task; None for a run without one.

    Raises:
        ArtifactError: It is damaged.
    """
    if not run_directory.is_finished("task"):
        return None
    path = run_directory.stage_dir("task") / TASK_NAME
    try:
        with disk_errors("reading the task", path):
            return Task.model_validate_json(path.read_bytes())
    except ValueError as error:
        raise ArtifactError(
            "the run's task cannot be read",
            where=path,
            found=first_line(error),
            hint="remove the directory and run the stage again: it is made from [task]",
        ) from error


def current_task(config: TaskConfig, run_directory: RunDirectory) -> Task | None:
    """Return the configured task; the run's own where the table says nothing or cannot be read.

    Raises:
        ConfigError: A file that the table names cannot be used, and the run has no task.
        ArtifactError: As for ConfigError, or the run's task is damaged.
    """
    if config == TaskConfig():
        return read_task(run_directory)
    try:
        return load_task(config)
    except (ArtifactError, ConfigError) as error:
        if not run_directory.is_finished("task"):
            raise
        logger.warning("keeping the task that was read before: %s", error.what)
        return read_task(run_directory)


def write_task(config: TaskConfig, run_directory: RunDirectory) -> Task | None:
    """Keep the task in the run; a table that says nothing is no task.

    Raises:
        ConfigError: A file that the table names cannot be used.
        ArtifactError: The disk is full.
    """
    task = current_task(config, run_directory)
    if task is None or config == TaskConfig():
        return task
    content = task.model_dump(mode="json")
    session = run_directory.open_stage("task", content, replace=True)
    if session.finished is None:
        with disk_errors("writing the task", session.dir):
            write_text_atomically(session.dir / TASK_NAME, task.model_dump_json(indent=1) + "\n")
        session.finish(
            facts=TaskFacts(
                num_examples=len(task.examples),
                num_known=sum(item.known is not None for item in task.examples),
                num_references=len(task.references),
                num_tools=len(json.loads(task.tools)) if task.tools else 0,
                metrics=tuple(metric.name for metric in task.make_metrics()),
            )
        )
    return task


def load_task(config: TaskConfig) -> Task:
    """Read the files that a `[task]` table names, and check that they fit together.

    Raises:
        ConfigError: A schema or tools are not what they should be, examples stand among the
            references, or a metric cannot be used.
        ArtifactError: A file cannot be read.
    """
    tools = _read_tools(config.tools) if config.tools else None
    schema = _read_schema(config.answer_schema) if config.answer_schema else None
    has_tools = tools is not None
    examples = read_items(config.examples, has_tools=has_tools) if config.examples else ()
    references = read_items(config.references, has_tools=has_tools) if config.references else ()
    task = Task(
        instructions=config.instructions,
        student_instructions=config.instructions.replace(EXAMPLES_PLACE, "").strip()
        if config.student_instructions is None
        else config.student_instructions,
        tools=None if tools is None else json.dumps(tools, ensure_ascii=False),
        student_sees_tools=config.student_sees_tools,
        answer_schema=None if schema is None else json.dumps(schema, ensure_ascii=False),
        examples=examples,
        references=references,
        num_shots=config.num_shots,
        shots=config.shots,
        metrics=config.metrics,
    )
    _check(task, config)
    return task


def read_task_config(path: Path) -> TaskConfig:
    """Return the table [task] of a configuration file.

    Raises:
        ConfigError: The file has none, or one that is not valid.
    """
    content = read_config_file(path)
    if "task" not in content:
        raise ConfigError("the configuration has no task", where=path, expected="a table [task]")
    tables = validate_tables({"task": content["task"]}, {"task": TaskConfig}, str(path))
    return cast(TaskConfig, tables["task"])


def _check(task: Task, config: TaskConfig) -> None:
    num_known = sum(item.known is not None for item in task.examples)
    if task.num_shots > num_known:
        raise ConfigError(
            "there are fewer examples with known answers than asked for",
            where=f"task.num_shots, {config.examples}",
            expected=f"at most {num_known}",
            found=task.num_shots,
            hint='give each example an "answer", or lower task.num_shots',
        )
    asked = {item.messages for item in task.references}
    both = sum(item.messages in asked for item in task.examples)
    if both:
        raise ConfigError(
            "examples are among the references, so the student would be measured on what it has "
            "seen",
            where=f"{config.examples}, {config.references}",
            found=f"{both} prompts in both",
            hint="remove them from one of the two files",
        )
    needing = [metric.name for metric in task.make_metrics() if metric.needs_known]
    unknown = sum(item.known is None for item in task.references)
    if needing and unknown:
        raise ConfigError(
            "a metric needs known answers that some references do not have",
            where=config.references,
            expected=f'an "answer" on each line, for {", ".join(needing)}',
            found=f"{unknown} of {len(task.references)} without",
        )


def _read_json(path: Path, what: str) -> Any:  # noqa: ANN401  (any JSON value)
    try:
        with disk_errors(f"reading {what}", path):
            return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(
            f"{what} cannot be read", where=path, expected="JSON", found=error
        ) from error


def _read_schema(path: Path) -> dict[str, Any]:
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import validator_for

    schema = _read_json(path, "the schema of answers")
    try:
        if not isinstance(schema, dict):
            raise SchemaError(f"a JSON {type(schema).__name__}")
        validator_for(schema).check_schema(schema)
    except SchemaError as error:
        raise ConfigError(
            "the schema of answers is not a JSON schema",
            where=path,
            expected="a JSON object that JSON Schema allows",
            found=error.message,
        ) from error
    return schema


def _read_tools(path: Path) -> list[dict[str, Any]]:
    tools = _read_json(path, "the tools")
    listed = tools if isinstance(tools, list) else [tools]
    for number, tool in enumerate(listed):
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise ConfigError(
                "a tool is not one of OpenAI's API",
                where=f"{path}: [{number}]",
                expected='{"type": "function", "function": {"name", "description", "parameters"}}',
                found=json.dumps(tool)[:100],
            )
    return listed

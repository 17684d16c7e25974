"""The requests that a run's student failed, as live traffic has recorded them.

In: the server's record (`serve.record_path`) and the run's stored traffic. Out: rows that are a
source of prompts: messages, and as their source how the student failed.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Select, and_, or_, select

from potstill.errors import ConfigError
from potstill.facts.gguf import GgufFacts
from potstill.facts.update import SOURCE_PREFIX
from potstill.files import disk_errors
from potstill.rundir import RunDirectory
from potstill.schema import Message
from potstill.task.answers import Answer, Item
from potstill.task.metrics.config import SchemaConfig
from potstill.task.metrics.json_valid import SchemaValid
from potstill.task.metrics.metric import safe_score
from potstill.task.stage import read_task
from serve.config import ServeConfig
from serve.exchange_log import PRIVATE
from serve.models import student_names
from serve.storage import tables
from serve.storage.config import StorageConfig
from serve.storage.storage import opened

logger = logging.getLogger(__name__)

RECENT = "recent"
ANY_REQUEST = Message(role="user", content="any request")
"""A schema is the same for all."""
BAD_RATING = 0.5
"""A lower score of a user's is a failure; thumbs down is 0."""

answers, feedback = tables.answers.c, tables.feedback.c
Row = dict[str, Any]


def write_failures(
    config: ServeConfig,
    run_directory: RunDirectory,
    path: Path,
    since: float,
    most: int,
    recent: int,
) -> dict[str, int]:
    """Write the newest failures, and the newest requests whatever their answers were.

    Args:
        since: The time, in seconds since 1970, before which nothing is taken.
        most: Most failures of each kind.
        recent: Most other requests of the record.

    Returns:
        Rows by kind.

    Raises:
        ConfigError: Nothing is recorded, or nothing in it is a failure.
        ArtifactError: The record, the storage or the file cannot be read or written.
    """
    names = _Names.of(config, run_directory)
    found = _Found(since, most, recent)
    if config.record_path is not None and config.record_path.expanduser().is_file():
        _read_record(config.record_path.expanduser(), names, run_directory, found)
    _read_storage(config, run_directory, names, found)
    rows = found.rows()
    if not rows:
        raise ConfigError(
            "no failure of the student is recorded",
            where=run_directory.root,
            expected="answers that were rated, judged or voted down, failed, cut off, slow or long "
            "by a guardrail, escalated by a cascade, or do not fit the task's schema",
            found=f"{found.num_read:,} recorded requests",
            hint="serve with record_path or storage; --recent N takes requests whatever their "
            "answers were",
        )
    with disk_errors("writing the recorded requests", path):
        path.touch(PRIVATE)
        with path.open("wb") as stream:
            for kind, row in rows:
                line = json.dumps(row | {"source": f"{SOURCE_PREFIX}{kind}"}, ensure_ascii=False)
                stream.write(line.encode(errors="backslashreplace") + b"\n")
    return dict(Counter(kind for kind, _ in rows))


@dataclass(frozen=True)
class _Names:
    """The names that a run's models have among recorded answers."""

    students: frozenset[str]
    teachers: dict[str, str]
    """The teacher of each cascade."""

    @classmethod
    def of(cls, config: ServeConfig, run_directory: RunDirectory) -> _Names:
        students = {*student_names(run_directory.facts(GgufFacts))}
        students |= {one.model_of(one.student) for one in config.experiments.values()}
        students |= {one.student for one in config.cascades.values()} | config.cascades.keys()
        teachers = {name: one.teacher for name, one in config.cascades.items()}
        return cls(frozenset(students), teachers)


@dataclass
class _Found:
    """The newest requests of each kind; of one that failed in several ways, the first kind."""

    since: float
    most: int
    recent: int
    num_read: int = 0
    kinds: dict[str, dict[str, Row]] = field(default_factory=dict)
    """Rows by kind and by what is asked, the newest last."""

    def add(self, kind: str, row: Row) -> None:
        """Take a request, in the order of time."""
        limit = self.recent if kind == RECENT else self.most
        if not limit:
            return
        rows = self.kinds.setdefault(kind, {})
        key = json.dumps(row, sort_keys=True)
        rows.pop(key, None)
        rows[key] = row
        if len(rows) > limit:
            del rows[next(iter(rows))]

    def rows(self) -> list[tuple[str, Row]]:
        """Return each request once; ordinary ones come last."""
        kinds = sorted(self.kinds, key=lambda kind: kind == RECENT)
        found: dict[str, tuple[str, Row]] = {}
        for kind in kinds:
            for key, row in self.kinds[kind].items():
                found.setdefault(key, (kind, row))
        return list(found.values())


def _read_record(path: Path, names: _Names, run_directory: RunDirectory, found: _Found) -> None:
    schema = _schema(run_directory)
    num_damaged = 0
    with disk_errors("reading the record", path), path.open("rb") as stream:
        for line in stream:
            try:
                recorded = json.loads(line)
                row, kind = _kind_of(recorded["request"], recorded["response"], names, schema)
                is_new = recorded["created"] >= found.since
            except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
                num_damaged += 1
                continue
            found.num_read += 1
            if kind is not None and is_new:
                found.add(kind, row)
    if num_damaged:
        logger.warning("%s: %d lines are no recorded chats", path, num_damaged)


def _kind_of(
    request: Row, response: Row, names: _Names, schema: SchemaValid | None
) -> tuple[Row, str | None]:
    """Return a recorded request, and how the student failed it; None of another model's answer."""
    row = {key: request[key] for key in ("messages", "tools") if request.get(key)}
    if not isinstance(row["messages"], list):
        raise TypeError("no list of messages")
    answered, choice = response["model"], response["choices"][0]
    if answered == names.teachers.get(str(request.get("model"))):
        return row, "escalated"
    if answered not in names.students:
        return row, None
    if choice["finish_reason"] == "length":
        return row, "cut off"
    message = choice["message"]
    is_invalid = schema and not message.get("tool_calls") and not _fits(schema, message)
    return row, "invalid" if is_invalid else RECENT


def _fits(schema: SchemaValid, message: Row) -> bool:
    answer = Answer(text=message.get("content") or "")
    return safe_score(schema, answer, Item(messages=(ANY_REQUEST,))).value == 1.0


def _schema(run_directory: RunDirectory) -> SchemaValid | None:
    task = read_task(run_directory)
    content = task.schema_content if task and task.tools is None else None
    return None if content is None else SchemaValid(SchemaConfig(), content)


def _read_storage(
    config: ServeConfig, run_directory: RunDirectory, names: _Names, found: _Found
) -> None:
    settings = config.storage or StorageConfig()
    if settings.url is None and not run_directory.traffic_path.is_file():
        return
    with opened(settings, run_directory.traffic_path) as storage:

        def work(connection: Connection) -> list[tuple[str, str]]:
            return list(_stored(connection, config, names, found))

        for kind, messages in asyncio.run(storage.read(work)):
            found.num_read += 1
            found.add(kind, {"messages": json.loads(messages)})


def _stored(
    connection: Connection, config: ServeConfig, names: _Names, found: _Found
) -> Iterator[tuple[str, str]]:
    for kind, query in _queries(config, names):
        new = query.where(answers.messages.isnot(None), answers.created >= found.since)
        newest = new.order_by(answers.number.desc()).limit(found.most)
        texts = connection.scalars(newest).all()
        yield from ((kind, text) for text in reversed(texts))


def _queries(config: ServeConfig, names: _Names) -> Iterable[tuple[str, Select[Any]]]:
    """Yield for each kind of failure the messages of such answers."""
    messages = select(answers.messages)
    of_student = messages.where(answers.model.in_(names.students))
    rated = tables.feedback, feedback.response_id == answers.id
    yield "rated", of_student.join(*rated).where(feedback.score < BAD_RATING)
    votes = tables.votes.c
    loses = or_(
        and_(votes.first_id == answers.id, votes.score == 0.0),
        and_(votes.second_id == answers.id, votes.score == 1.0),
    )
    yield "outvoted", of_student.join(tables.votes, loses)
    judgments, batches = tables.judgments.c, tables.batches.c
    # The client's answer has the messages, whichever side it was.
    judged = messages.join(tables.judgments, judgments.pair_id == answers.id)
    judged = judged.join(tables.batches, batches.number == judgments.batch)
    yield "lost", judged.where(judgments.score < 0.5, batches.is_valid)
    yield "failed", of_student.where(answers.outcome == "failed")
    shadows = tables.answers.alias()
    failed_shadows = shadows.c.model.in_(names.students), shadows.c.outcome == "failed"
    yield "failed", messages.join(shadows, shadows.c.shadow_of == answers.id).where(*failed_shadows)
    yield "cut off", of_student.where(answers.finish_reason == "length")
    for name, experiment in config.experiments.items():
        own = of_student.where(answers.experiment == name, answers.outcome == "whole")
        limits = experiment.guardrails
        if limits.slow_seconds is not None:
            yield "slow", own.where(answers.seconds > limits.slow_seconds)
        if limits.long_tokens is not None:
            yield "long", own.where(answers.completion_tokens > limits.long_tokens)

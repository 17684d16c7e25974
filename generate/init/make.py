"""The flow of `potstill init`: writes the files of a task and counts prompts and tokens.

In: a directory, and a template or a file of examples. Out: written files, and lines that describe
them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from generate.init.detect import detect
from generate.init.files import (
    CONFIG_NAME,
    REFERENCES_NAME,
    files_like,
    template_files,
    with_answers,
    with_messages,
    write_files,
)
from generate.init.lengths import answer_lengths, counter, prompt_lengths
from generate.init.split import split_items
from generate.sources.config import SourceConfig
from generate.sources.reading import read_source
from potstill.config import read_config_file
from potstill.errors import ConfigError
from potstill.schema import Message
from potstill.task.answers import Answer, Item
from potstill.task.items import read_items, tool_calls_in
from potstill.task.stage import load_task, read_task_config

MOST_MESSAGES = 2000
"""More take hours on a laptop; the configuration may be given a larger number."""
ROOM = 1.5
"""Of the longest known answer, for `max_tokens`."""
ROUNDED_TO = 16
TEMPLATE_TOKENS = 16
"""Of a chat template around an answer, and of spellings of calls."""
DEFAULT_TEMPLATE = "classify"
LIKELY_SHARE = 0.8
"""Share of right answers that the reported interval assumes."""
Z_90 = 1.645


@dataclass(frozen=True)
class Wanted:
    """What the user asks for."""

    directory: Path
    like: Path | None
    template: str | None
    test_share: float
    seed: int
    force: bool
    about: str | None = None
    """The job in a sentence, which the teacher's instructions begin with."""
    teacher: str | None = None
    """Model of the teacher; None takes the template's."""
    messages: str | None = None
    """Path of messages without answers, as of a source; None lets the teacher write messages."""


def make(wanted: Wanted) -> list[str]:
    """Write the files of a task and return lines that describe them.

    Raises:
        ConfigError: Files exist already, there is no such template or file of messages, or the
            examples do not fit the template.
        ArtifactError: The examples or messages cannot be read, or the disk is full.
    """
    lines: list[str] = []
    if wanted.like is None:
        name = wanted.template or DEFAULT_TEMPLATE
        files = template_files(name, wanted.directory)
        lines.append(f"template {name}: replace its examples and references by your own")
    else:
        files, lines = _like(wanted, wanted.like)
    settings = with_answers(files[CONFIG_NAME], wanted.about, wanted.teacher)
    if wanted.messages is not None:
        source = read_source(SourceConfig(path=wanted.messages), last_role="user")
        count = sum(1 for _ in islice(source, MOST_MESSAGES))
        settings = with_messages(settings, wanted.messages, count)
        lines.append(f"{count} messages of {wanted.messages} for the teacher to answer")
    write_files(wanted.directory, files | {CONFIG_NAME: settings}, force=wanted.force)
    return lines + _measured(wanted.directory / CONFIG_NAME)


def _like(wanted: Wanted, path: Path) -> tuple[dict[str, str], list[str]]:
    items = read_items(path, has_tools=False)
    if _are_calls([item.known for item in items if item.known]):
        items = read_items(path, has_tools=True)
    known = [item.known for item in items if item.known is not None]
    detected = detect(known)
    if wanted.template not in (None, detected.template):
        raise ConfigError(
            "the answers are not those of the template",
            where=path,
            expected=f"answers for {wanted.template}",
            found=f"{detected.found}: {detected.template}",
            hint="leave --template out, or give the examples other answers",
        )
    examples, references = split_items(items, wanted.test_share, wanted.seed)
    if not detected.metrics:  # There would be nothing to measure with.
        examples, references = list(items), []
    longest = answer_lengths(known, counter("")).most + TEMPLATE_TOKENS
    max_tokens = math.ceil(ROOM * longest / ROUNDED_TO) * ROUNDED_TO
    files = files_like(detected, examples, references, wanted.directory, max_tokens)
    lines = [detected.found]
    if detected.declining is not None:
        lines.append(f"harmful requests get {detected.declining}, a label of their own")
    if detected.metrics and (several := _num_contradicted(items)):
        lines.append(
            f"{_counted(several, 'prompt')} with different answers: keep one answer for each"
        )
    return files, lines


def _num_contradicted(items: Sequence[Item]) -> int:
    """Return how many prompts have more than one known answer."""
    known: dict[tuple[Message, ...], set[Answer]] = {}
    for item in items:
        if item.known is not None:
            known.setdefault(item.messages, set()).add(item.known)
    return sum(len(answers) > 1 for answers in known.values())


def _are_calls(known: Sequence[Answer]) -> bool:
    written = [answer for answer in known if tool_calls_in(answer.text)]
    return len(written) > len(known) / 2


def _measured(config_path: Path) -> list[str]:
    """Return the numbers of prompts and tokens of a written task."""
    config = read_task_config(config_path)
    missing = [one.database for one in config.metrics if one.kind == "sql"]
    missing = [path for path in missing if not path.is_file()]
    if missing:
        return [f"put the database at {missing[0]}: answers are measured by their rows"]
    task = load_task(config)
    items: list[Item] = [*task.examples, *task.references]
    known = [item.known for item in items if item.known is not None]
    model = read_config_file(config_path)["generate"]["teacher"]["model"]
    count = counter(model)
    teacher, student = prompt_lengths(task, items, count)
    lines = [
        f"{_counted(len(task.examples), 'example')}, {_counted(len(task.references), 'reference')}",
        f"tokens: about {teacher} in the teacher's prompt, {student} in the student's, "
        f"{answer_lengths(known, count)} in an answer",
    ]
    if task.references:
        points = 100 * Z_90 * math.sqrt(LIKELY_SHARE * (1 - LIKELY_SHARE) / len(task.references))
        lines.append(
            f"{REFERENCES_NAME}: a share of {LIKELY_SHARE:.0%} right is known to within "
            f"{points:.0f} points (90% interval); more known answers make it narrower"
        )
    return lines


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"

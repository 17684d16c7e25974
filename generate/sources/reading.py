"""Stream the prompts of one source.

In: the table of a source that the teacher does not write. Out: `RawPrompt`s in the order of its
rows, and the hash of its content.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from importlib.resources import files

from generate.sources.config import SourceConfig
from generate.sources.files import digest_files, find_files, read_file
from generate.sources.formats.registry import COLUMNS
from generate.sources.hf_dataset import digest_dataset, read_dataset
from generate.sources.raw_prompt import RawPrompt
from generate.sources.rewording import rewordings
from generate.sources.rows import RowError, SourceRow
from generate.sources.shapes import EXPECTED, LastRole, to_prompts
from potstill.errors import ArtifactError
from potstill.files import sha256_bytes
from potstill.schema import DECLINED, Message
from potstill.task.items import known_answer


def read_source(
    config: SourceConfig, *, last_role: LastRole, has_tools: bool = False
) -> Iterator[RawPrompt]:
    """Yield the prompts of a source, with at most one batch of rows in memory.

    Args:
        last_role: Role of a conversation's last message. "user": the user or a tool; an answer
            after it is removed. "assistant": an answer. "any": any role; nothing is removed.
        has_tools: Whether a known answer may be a call of a tool that its row does not define.

    Raises:
        ConfigError: The source cannot be read.
        ArtifactError: A row is not a prompt, or there are no rows.
    """
    if config.kind == "decline":
        yield from _declined(config, has_tools=has_tools)
        return
    is_empty = True
    for row in _rows(config):
        is_empty = False
        for prompt in to_prompts(
            row.values,
            last_role=last_role,
            source=config.name or row.source,
            has_tools=has_tools,
        ):
            if isinstance(prompt, RowError):
                raise _refusal(row, prompt, last_role) from prompt
            if prompt.license is None and config.license is not None:
                prompt = dataclasses.replace(prompt, license=config.license)
            yield prompt
    if is_empty:
        raise ArtifactError(
            "the source of prompts is empty",
            where=config.path or config.dataset,
            expected=EXPECTED[last_role],
        )


def source_digest(config: SourceConfig) -> str:
    """Return what identifies the content of a source that the teacher does not write.

    It depends on the files' bytes, not on their location; for a data set on the hub it is the
    fingerprint.

    Raises:
        ConfigError: The source cannot be read.
    """
    if config.kind == "decline":
        return sha256_bytes(_harmful_requests().encode())
    if config.path is not None:
        return digest_files(find_files(config.path))
    return digest_dataset(config)


def _declined(config: SourceConfig, *, has_tools: bool) -> Iterator[RawPrompt]:
    answer = known_answer(config.answer, has_tools=has_tools)
    known = answer.model_dump_json() if answer else None
    for line in _harmful_requests().splitlines():
        if line.startswith("#"):
            continue
        for text in (line, *rewordings(line, config.rewordings)):
            asked = Message(role="user", content=text)
            yield RawPrompt(messages=(asked,), source=DECLINED, license=config.license, known=known)


def _harmful_requests() -> str:
    return (files("generate.sources") / "harmful.txt").read_text(encoding="utf-8")


def _rows(config: SourceConfig) -> Iterator[SourceRow]:
    if config.path is not None:
        for file in find_files(config.path):
            yield from read_file(file, COLUMNS)
    elif config.dataset is not None:
        yield from read_dataset(config, COLUMNS)
    else:
        raise ValueError(f"the teacher writes the prompts of a source of kind {config.kind}")


def _refusal(row: SourceRow, error: RowError, last_role: LastRole) -> ArtifactError:
    return ArtifactError(
        "a row of a source of prompts cannot be used",
        where=row.where,
        expected=EXPECTED[last_role],
        found=str(error),
        hint="fix or remove the row, or let `potstill import` write all rows that can be read",
    )

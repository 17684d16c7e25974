"""Parquet parts, each with the conversations of a fixed number of consecutive prompts.

In: finished and failed conversations. Out: `part-00000.parquet` and so on, written atomically, with
`failed-00000.jsonl` beside a part with failures.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Self

from potstill.errors import ArtifactError, ConfigError
from potstill.files import disk_errors, write_text_atomically
from potstill.schema import Conversation, Prompt
from potstill.tables import (
    PROMPT_SCHEMA,
    conversations_to_table,
    prompt_from_row,
    read_conversation_batches,
    read_rows,
    write_table,
)


@dataclass(frozen=True)
class Shard:
    """The parts one process samples: those whose number modulo `count` is `index`."""

    index: int = 0
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `i/n`, i from 1 to n.

        Raises:
            ConfigError: The text has another form.
        """
        index, _, count = text.partition("/")
        if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
            raise ConfigError(
                "invalid shard",
                where=f"--shard {text}",
                expected="i/n with i from 1 to n, for example --shard 1/4",
            )
        return cls(int(index) - 1, int(count))

    def has(self, part: int) -> bool:
        """Return whether a part belongs to this shard."""
        return part % self.count == self.index

    def __str__(self) -> str:
        return f"{self.index + 1}/{self.count}"


WHOLE = Shard()


def part_path(directory: Path, index: int) -> Path:
    """Return the path of a part."""
    return directory / f"part-{index:05d}.parquet"


def part_paths(directory: Path) -> list[Path]:
    """Return the paths of existing parts, in order."""
    return sorted(directory.glob("part-*.parquet"))


def failures_path(directory: Path, index: int) -> Path:
    """Return the path of a part's list of failures."""
    return directory / f"failed-{index:05d}.jsonl"


def finished_parts(directory: Path) -> set[int]:
    """Return the numbers of complete parts; delete damaged ones, so that they are sampled again."""
    finished = set()
    for path in part_paths(directory):
        try:
            for _ in read_conversation_batches(path):
                pass
            finished.add(int(path.stem.partition("-")[2]))
        except ArtifactError:
            path.unlink()
    return finished


def read_prompts(path: Path, per_part: int) -> Iterator[tuple[int, list[Prompt]]]:
    """Yield each part's number and prompts, one part at a time.

    Raises:
        ArtifactError: The table is damaged.
    """
    rows = read_rows(path, PROMPT_SCHEMA)
    index = 0
    while part := [prompt_from_row(row) for row in islice(rows, per_part)]:
        yield index, part
        index += 1


@dataclass(frozen=True)
class FailedConversation:
    """A conversation that failed."""

    conversation_id: str
    reason: str


def write_part(
    directory: Path,
    index: int,
    conversations: Sequence[Conversation],
    failures: Iterable[FailedConversation],
    vocab_size: int,
) -> None:
    """Write a part, its failures first: a part that exists is complete.

    Raises:
        ArtifactError: It cannot be written.
    """
    lines = [json.dumps(vars(failure)) + "\n" for failure in failures]
    path = part_path(directory, index)
    with disk_errors("writing conversations", path):
        # Failures of an earlier attempt at the part are removed too.
        failures_path(directory, index).unlink(missing_ok=True)
        if lines:
            write_text_atomically(failures_path(directory, index), "".join(lines))
        write_table(path, conversations_to_table(conversations, vocab_size))


def read_failures(directory: Path) -> list[FailedConversation]:
    """Return all conversations that failed."""
    return [
        FailedConversation(**json.loads(line))
        for path in sorted(directory.glob("failed-*.jsonl"))
        for line in path.read_text(encoding="utf-8").splitlines()
    ]

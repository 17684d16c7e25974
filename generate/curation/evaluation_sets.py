"""Read the questions of evaluation sets from files in the usual formats.

In: the tables of the sets. Out: each question's name and user turns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from generate.curation.config import EvaluationSetConfig
from generate.sources.files import JSONL_SUFFIXES, PARQUET_SUFFIXES, find_files, read_file
from potstill.errors import ConfigError

TEXT_KEYS = ("prompt", "messages", "turns", "question", "text")
"""Keys of a question's turns; the first one that a row has is read."""
ID_KEYS = ("id", "question_id", "prompt_id")
EXPECTED = (
    "JSONL or Parquet with prompt, messages, turns, question or text in each row, or one text a "
    "line in UTF-8"
)


@dataclass(frozen=True)
class Question:
    """One question of a set."""

    name: str
    """Its set, and its id or row in it."""
    turns: tuple[str, ...]
    """The user's turns, in order; at least one."""


def read_evaluation_set(config: EvaluationSetConfig) -> Iterator[Question]:
    """Yield a set's questions.

    Raises:
        ConfigError: The file is missing, empty or unreadable, or a row has no question.
    """
    num_questions = 0
    for num_questions, (given_id, turns) in enumerate(_read(config), start=1):
        place = f"row {num_questions}" if given_id is None else f"question {given_id}"
        yield Question(f"{config.name}, {place}", turns)
    if num_questions == 0:
        raise _refusal(config, "no question")


def _read(config: EvaluationSetConfig) -> Iterator[tuple[object, tuple[str, ...]]]:
    if config.path.suffix == ".json":
        raise _refusal(config, "a JSON file, whose lines are not rows")
    if not _holds_rows(config.path):
        for line in _lines(config):
            if text := line.strip():
                yield None, (text,)
        return
    try:
        for file in find_files(str(config.path)):
            for row in read_file(file, frozenset(TEXT_KEYS + ID_KEYS)):
                values = row.values if isinstance(row.values, Mapping) else {}
                given = next((values[key] for key in TEXT_KEYS if values.get(key)), None)
                turns = _user_turns(given)
                if not turns:
                    raise _refusal(config, f"no question in {row.where}")
                yield next((values[key] for key in ID_KEYS if key in values), None), turns
    except ConfigError as error:
        raise _refusal(config, error.found) from error


def _holds_rows(path: Path) -> bool:
    """Return whether a file is JSONL or Parquet, by its name without a compression's suffix."""
    return path.is_dir() or bool({*path.suffixes[-2:]} & (JSONL_SUFFIXES | PARQUET_SUFFIXES))


def _lines(config: EvaluationSetConfig) -> list[str]:
    try:
        return config.path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise _refusal(config, getattr(error, "strerror", None) or error) from error


def _user_turns(given: object) -> tuple[str, ...]:
    """Return the user's turns in a text, a list of texts or a list of messages."""
    found = []
    for turn in given if isinstance(given, list) else [given]:
        if isinstance(turn, Mapping) and turn.get("role", "user") == "user":
            found.append(turn.get("content"))
        elif not isinstance(turn, Mapping):
            found.append(turn)
    return tuple(text for text in found if isinstance(text, str) and text.strip())


def _refusal(config: EvaluationSetConfig, found: object) -> ConfigError:
    return ConfigError(
        "an evaluation set cannot be read",
        where=f"{config.path} (generate.curation.evaluation_sets, {config.name})",
        expected=EXPECTED,
        found=found,
    )

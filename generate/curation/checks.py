"""Check the configuration of filters, and hash the files that it names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from generate.curation.config import CurationConfig
from generate.curation.conversation_filters import ConversationCurator
from generate.curation.pii import PersonalData
from generate.curation.prompt_filters import make_prompt_filters
from generate.sources.files import digest_files, find_files
from potstill.task.task import Task


def check_filters(config: CurationConfig, task: Task | None = None) -> None:
    """Create all filters once, to raise their errors before the work begins.

    Raises:
        ConfigError: A filter, language or country is unknown, or a file of an evaluation set or of
            words cannot be read.
    """
    make_prompt_filters(config)
    ConversationCurator(config, task)
    if config.pii != "keep":
        PersonalData(config)


def file_digests(config: CurationConfig) -> dict[str, Any]:
    """Return the keys that name files, with the sha256 of their content as values.

    Raises:
        ConfigError: A file cannot be read.
    """
    return {
        "evaluation_sets": {one.name: _digest(str(one.path)) for one in config.evaluation_sets},
        "toxic_words": [
            _digest(source) if Path(source).is_file() else source for source in config.toxic_words
        ],
    }


def _digest(path: str) -> str:
    return digest_files(find_files(path))

"""What can be said of the configuration before there is a prompt.

In: the table. Out: an error, or hashes of the files it names. Knows nothing of stages.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from generate.curation.config import CurationConfig
from generate.curation.conversation_filters import ConversationCurator
from generate.curation.pii import PersonalData
from generate.curation.prompt_filters import make_prompt_filters
from generate.sources.files import digest_files, find_files


def check_filters(config: CurationConfig) -> None:
    """Make all filters once, so that what is wrong with them is said before the work begins.

    Raises:
        ConfigError: A filter is not known, a file of an evaluation set or of words is missing or
            not readable, or a language or country is not known.
    """
    make_prompt_filters(config)
    ConversationCurator(config)
    if config.pii != "keep":
        PersonalData(config)


def file_digests(config: CurationConfig) -> dict[str, Any]:
    """Return what stands for the keys that name files, by the sha256 of their content.

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

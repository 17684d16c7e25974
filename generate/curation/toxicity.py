"""Words of lists, found as whole words.

In: a text and lists of words or phrases. Out: the first that the text holds. A list knows no
context: it finds an insult and a question about one alike. Languages written without spaces
between words are not served. Knows nothing of prompts and conversations.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from generate.curation.config import CurationConfig
from generate.sources.raw_prompt import normalize
from potstill.errors import ConfigError


class Toxicity:
    """Drops texts that hold a word or phrase of the configured lists.

    Raises:
        ConfigError: A list cannot be read.
    """

    def __init__(self, config: CurationConfig) -> None:
        self._phrases: dict[str, list[tuple[str, ...]]] = defaultdict(list)
        """Phrases, word by word, under their first word."""
        for source in config.toxic_words:
            for phrase in _read_words(source):
                if words := normalize(phrase).split():
                    self._phrases[words[0]].append(tuple(words))

    def judge_text(self, text: str) -> str | None:
        """Name the first word or phrase of the lists in a text, or None."""
        words = normalize(text).split()
        for start, word in enumerate(words):
            for phrase in self._phrases.get(word, ()):
                if tuple(words[start : start + len(phrase)]) == phrase:
                    return f"the word {' '.join(phrase)!r}"
        return None


def _read_words(source: str) -> list[str]:
    from glin_profanity.data.dictionary import DictionaryLoader

    if source in DictionaryLoader.LANGUAGE_FILES:
        words: list[str] = DictionaryLoader().get_words(source)
        return words
    try:
        return Path(source).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            "a list of words cannot be read",
            where=f"generate.curation.toxic_words, {source}",
            expected=f"a text file in UTF-8, or {' | '.join(DictionaryLoader.LANGUAGE_FILES)}",
            found=getattr(error, "strerror", None) or error,
        ) from error

"""Find words of word lists in texts, as whole words.

In: a text, and lists of words or phrases. Out: the first one in the text. Lists ignore context: an
insult and a question about it match alike. Languages without spaces between words are not
supported.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from generate.curation.config import CurationConfig
from generate.sources.raw_prompt import normalize
from potstill.errors import ConfigError


class Toxicity:
    """Drops texts with a word or phrase of the configured lists.

    Raises:
        ConfigError: A list cannot be read.
    """

    def __init__(self, config: CurationConfig) -> None:
        self._phrases: dict[str, list[tuple[str, ...]]] = defaultdict(list)
        """Phrases as tuples of words, by their first word."""
        for source in config.toxic_words:
            for phrase in _read_words(source):
                if words := normalize(phrase).split():
                    self._phrases[words[0]].append(tuple(words))

    def judge_text(self, text: str) -> str | None:
        """Return the first word or phrase of the lists in a text as a reason, or None."""
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

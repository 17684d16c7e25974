"""Detect the language of texts, with the model of the package py3langid (138 languages)."""

from __future__ import annotations

from functools import cache
from typing import Any

from generate.curation.config import CurationConfig
from potstill.errors import ConfigError

READ_CHARACTERS = 4000
"""Only the beginning of a text is classified."""
NO_LANGUAGE = frozenset({"zxx", "und"})
"""Labels for numbers, code and markup."""
LOOKALIKES = frozenset({"pcm"})
"""Languages that are not detected: of 25,000 short English questions 100 were taken for Nigerian
Pidgin, and 4 for all other languages together."""


class Detector:
    """Detects the language of texts."""

    def __init__(self) -> None:
        self._identifier = _identifier()
        self.languages = frozenset(self._identifier.labels) - NO_LANGUAGE
        """ISO 639 codes of the supported languages."""

    def language(self, text: str, min_confidence: float = 0.5) -> str | None:
        """Return the ISO 639 code of a text's language.

        Returns:
            None: The confidence is too low, or the text is numbers, code or markup.
        """
        label, probability = self._identifier.classify(text[:READ_CHARACTERS])
        return None if label in NO_LANGUAGE or probability < min_confidence else str(label)


class Language:
    """Drops texts in other languages; without `languages` all are kept.

    Raises:
        ConfigError: A language is unknown to the detector.
    """

    def __init__(self, config: CurationConfig) -> None:
        self._kept = frozenset(config.languages)
        self._min_confidence = config.min_language_confidence
        self._detector = Detector() if self._kept else None
        if self._detector is not None and (unknown := self._kept - self._detector.languages):
            raise ConfigError(
                "a language is not known to the detector",
                where="generate.curation.languages",
                expected="ISO 639 codes such as en, de, fr",
                found=", ".join(sorted(unknown)),
            )

    def judge_text(self, text: str) -> str | None:
        """Return a reason if the text is in another language, or None."""
        if self._detector is None:
            return None
        language = self._detector.language(text, self._min_confidence)
        return None if language is None or language in self._kept else f"language {language}"


@cache
def _identifier() -> Any:  # noqa: ANN401  (py3langid has no types)
    """Load the model once, which takes half a second."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages(frozenset(identifier.labels) - LOOKALIKES)
    return identifier

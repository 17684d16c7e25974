"""Which language a text is in, as far as one can be sure.

In: a text. Out: a reason when it is surely in a language that was not asked for.
Knows nothing of prompts and conversations. The model (139 languages) lies in the package py3langid.
"""

from __future__ import annotations

from generate.curation.config import CurationConfig
from potstill.errors import ConfigError

READ_CHARACTERS = 4000
"""A text's beginning says its language."""
NO_LANGUAGE = frozenset({"zxx", "und"})
"""Labels of numbers, code and markup."""


class Language:
    """Drops texts in other languages; without `languages` every language is kept."""

    name = "language"

    def __init__(self, config: CurationConfig) -> None:
        self._kept = frozenset(config.languages) | NO_LANGUAGE
        self._min_confidence = config.min_language_confidence
        self._identifier = None
        if config.languages:
            from py3langid.langid import MODEL_FILE, LanguageIdentifier

            self._identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
            _refuse_unknown(config.languages, self._identifier.labels)

    def judge_text(self, text: str) -> str | None:
        """Say which other language a text is in, or None."""
        if self._identifier is None:
            return None
        label, probability = self._identifier.classify(text[:READ_CHARACTERS])
        if label in self._kept or probability < self._min_confidence:
            return None
        return f"language {label}"


def _refuse_unknown(languages: tuple[str, ...], known: list[str]) -> None:
    if unknown := sorted(set(languages) - set(known)):
        raise ConfigError(
            "a language is not known to the detector",
            where="generate.curation.languages",
            expected="ISO 639 codes such as en, de, fr",
            found=", ".join(unknown),
        )

"""Filters of prompts, applied in order after personal data is replaced.

In: prompts. Out: the kept prompts, and the dropped ones with the filter and its reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from generate.curation.clusters import user_text, user_turns
from generate.curation.config import CurationConfig
from generate.curation.contamination import Contamination
from generate.curation.language import Language
from generate.curation.pii import PersonalData
from generate.curation.redaction import redact_prompt
from generate.curation.registry import make_filters
from generate.curation.similarity import pairs_within
from generate.curation.toxicity import Toxicity
from generate.sources.raw_prompt import DroppedPrompt, RawPrompt
from potstill.errors import ConfigError

JudgeAll = Callable[[Sequence[RawPrompt]], Mapping[int, str]]
"""Returns the reasons to drop prompts, by their positions."""
PERSONAL_DATA = "personal_data"
"""Name of the filter `pii = "drop"`."""


@dataclass(frozen=True)
class CuratedPrompts:
    """Kept and dropped prompts."""

    kept: list[RawPrompt]
    """In their original order."""
    dropped: list[DroppedPrompt]
    """Ordered by filter, with personal data replaced."""
    num_redacted: int
    """Number of prompts with replaced personal data, kept or dropped."""


def curate_prompts(prompts: Iterable[RawPrompt], config: CurationConfig) -> CuratedPrompts:
    """Replace personal data, then apply the filters in order.

    Raises:
        ConfigError: A filter is not known or refuses its configuration.
    """
    filters = make_prompt_filters(config)
    kept, dropped, num_redacted = _without_personal_data(prompts, config)
    for name, judge_all in filters.items():
        reasons = judge_all(kept)
        dropped += [
            DroppedPrompt(kept[position], name, reason)
            for position, reason in sorted(reasons.items())
        ]
        kept = [prompt for position, prompt in enumerate(kept) if position not in reasons]
    return CuratedPrompts(kept, dropped, num_redacted)


def make_prompt_filters(config: CurationConfig) -> dict[str, JudgeAll]:
    """Return the configured filters of prompts by their names, in their order.

    Raises:
        ConfigError: A filter is not known or refuses its configuration.
    """
    if config.evaluation_sets and "contamination" not in config.prompt_filters:
        raise ConfigError(
            "evaluation sets are named, but no filter excludes them",
            where="generate.curation.prompt_filters",
            expected="contamination among the filters, or no evaluation_sets",
            found=", ".join(config.prompt_filters) or "no filter",
        )
    return make_filters("prompt_filters", config, PROMPT_FILTERS, lambda own: _each(own.judge))


def _without_personal_data(
    prompts: Iterable[RawPrompt], config: CurationConfig
) -> tuple[list[RawPrompt], list[DroppedPrompt], int]:
    if config.pii == "keep":
        return list(prompts), [], 0
    personal_data = PersonalData(config)
    kept, dropped, num_redacted = [], [], 0
    for prompt in prompts:
        redacted, kinds = redact_prompt(prompt, personal_data)
        if kinds and config.pii == "drop":
            dropped.append(DroppedPrompt(redacted, PERSONAL_DATA, ", ".join(kinds)))
        else:
            kept.append(redacted)
            num_redacted += bool(kinds)
    return kept, dropped, num_redacted


def _each(judge: Callable[[RawPrompt], str | None]) -> JudgeAll:
    """Return a filter of all prompts that applies another one to each."""

    def judge_all(prompts: Sequence[RawPrompt]) -> dict[int, str]:
        judged = ((position, judge(prompt)) for position, prompt in enumerate(prompts))
        return {position: reason for position, reason in judged if reason is not None}

    return judge_all


def _length(config: CurationConfig) -> JudgeAll:
    def judge(prompt: RawPrompt) -> str | None:
        asked = len("\n".join(user_turns(prompt.messages)).strip())
        if asked < config.min_prompt_characters:
            return f"{asked} characters of the user, minimum {config.min_prompt_characters}"
        whole = sum(len(message.content) for message in prompt.messages)
        if config.max_prompt_characters is not None and whole > config.max_prompt_characters:
            return f"{whole} characters, maximum {config.max_prompt_characters}"
        return None

    return _each(judge)


def _by_user_text(judge_text: Callable[[str], str | None]) -> JudgeAll:
    return _each(lambda prompt: judge_text("\n".join(user_turns(prompt.messages))))


def _exact_duplicate(_config: CurationConfig) -> JudgeAll:
    def judge_all(prompts: Sequence[RawPrompt]) -> dict[int, str]:
        first_ids: dict[str, str] = {}
        reasons = {}
        for position, prompt in enumerate(prompts):
            key = prompt.key
            if key in first_ids:
                reasons[position] = f"similarity 1 to {first_ids[key]}, with the same words"
            else:
                first_ids[key] = prompt.prompt_id
        return reasons

    return judge_all


def _near_duplicate(config: CurationConfig) -> JudgeAll:
    def judge_all(prompts: Sequence[RawPrompt]) -> dict[int, str]:
        texts = [user_text(prompt) for prompt in prompts]
        reasons: dict[int, str] = {}
        # Pairs are ordered, so the first of a pair was decided before.
        for first, second, similarity in pairs_within(texts, config.near_duplicate_threshold):
            if first not in reasons and second not in reasons:
                reasons[second] = f"similarity {similarity:.2f} to {prompts[first].prompt_id}"
        return reasons

    return judge_all


PROMPT_FILTERS: dict[str, Callable[[CurationConfig], JudgeAll]] = {
    "length": _length,
    "language": lambda config: _by_user_text(Language(config).judge_text),
    "exact_duplicate": _exact_duplicate,
    "contamination": lambda config: Contamination(config).judge_all,
    "near_duplicate": _near_duplicate,
    "toxicity": lambda config: _by_user_text(Toxicity(config).judge_text),
}
"""Factories of prompt filters, by name."""

"""Facts of the stage `prompts`."""

from __future__ import annotations

from typing import ClassVar

from potstill.facts.base import Facts, StageName


class PromptsFacts(Facts):
    """How many prompts there are, and what was left out."""

    stage: ClassVar[StageName] = "prompts"

    num_prompts: int
    num_dropped: int
    dropped: dict[str, int]
    """Prompts left out, by filter."""
    num_redacted: int
    """Prompts with personal data replaced."""
    num_clusters: int
    """Groups of prompts that say nearly the same."""

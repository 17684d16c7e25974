"""Facts of the stage `prompts`."""

from __future__ import annotations

from typing import ClassVar

from potstill.facts.base import Facts, StageName


class PromptsFacts(Facts):
    """Numbers of prompts kept and dropped."""

    stage: ClassVar[StageName] = "prompts"

    num_prompts: int
    num_dropped: int
    dropped: dict[str, int]
    """Dropped prompts by filter."""
    num_redacted: int
    """Prompts with personal data replaced."""
    num_clusters: int
    """Groups of near-duplicate prompts."""

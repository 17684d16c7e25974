"""Facts of the stage `update`."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from potstill.facts.base import Facts, StageName

SOURCE_PREFIX = "update/"
"""Begins the sources of the next version's prompts, so that reports show them apart."""


class UpdateFacts(Facts):
    """The version that a run's student is trained from, and what it is trained on beside."""

    stage: ClassVar[StageName] = "update"

    number: int = Field(ge=2)
    """The student's version; that of the first run is 1."""
    parent: str
    """Directory of the run whose student this one starts from, relative to this run's."""
    parent_number: int = Field(ge=1)
    parent_gguf_sha256: str
    """Hash of the manifest of its gguf stage."""
    num_prompts: dict[str, int]
    """Prompts by what they are: a failure's kind, "recent", or "held out" of the parent's."""

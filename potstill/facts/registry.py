"""Which model the facts of each stage have."""

from __future__ import annotations

from typing import Any

from potstill.errors import ArtifactError
from potstill.facts.base import Facts
from potstill.facts.baseline import BaselineFacts
from potstill.facts.comparison import ComparisonFacts
from potstill.facts.conversations import ConversationsFacts
from potstill.facts.curve import CurveFacts
from potstill.facts.gguf import GgufFacts
from potstill.facts.prompts import PromptsFacts
from potstill.facts.samples import SamplesFacts
from potstill.facts.student import StudentFacts
from potstill.facts.task import TaskFacts
from potstill.facts.update import UpdateFacts

FACTS: dict[str, type[Facts]] = {
    kind.stage: kind
    for kind in (
        UpdateFacts,
        TaskFacts,
        PromptsFacts,
        SamplesFacts,
        ConversationsFacts,
        StudentFacts,
        BaselineFacts,
        CurveFacts,
        GgufFacts,
        ComparisonFacts,
    )
}


def read_facts(stage: str, content: dict[str, Any], where: object) -> Facts:
    """Return the facts in a stage's manifest.

    Raises:
        ArtifactError: There is no such stage.
        SchemaVersionError: This version of potstill cannot read them.
    """
    if stage not in FACTS:
        raise ArtifactError(
            "the manifest names an unknown stage",
            where=where,
            expected=f"one of {', '.join(FACTS)}",
            found=stage,
        )
    return FACTS[stage].read(content, where)

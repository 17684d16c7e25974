"""What may not be published: secrets, personal data, what licenses forbid, what was memorized.

In: texts, a lineage, a comparison's figures. Out: reasons, each with its place; none if all may go.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from potstill.facts.memorization import MOST_MEMORIZED, Memorization
from potstill.licenses import UNKNOWN
from potstill.lineage import Lineage

SECRETS = {
    "a private key": r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----",
    "a key of OpenAI or Anthropic": r"\bsk-[A-Za-z0-9_-]{20,}",
    "a token of Hugging Face": r"\bhf_[A-Za-z0-9]{30,}",
    "a token of GitHub": r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{40,})",
    "a key of AWS": r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
    "a key of Google": r"\bAIza[A-Za-z0-9_-]{35}",
    "a token of Slack": r"\bxox[abposr]-[A-Za-z0-9-]{10,}",
    "a bearer token": r"(?i)\bbearer\s+[A-Za-z0-9._~+/-]{24,}",
    "a password in a URL": r"\b[a-z][a-z0-9+.-]*://[^\s/:@]+:[^\s/@]+@",
}
PERSONAL = {
    "an e-mail address": r"\b[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}\b",
    "a home directory": r"(?:/home/|/Users/|[A-Z]:\\Users\\)[^/\\\s\"']+",
    "an IBAN": r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,7}(?: ?[A-Z0-9]{1,3})?\b",
}
PATTERNS = {what: re.compile(pattern) for what, pattern in (SECRETS | PERSONAL).items()}
FORBIDDING = re.compile(r"(?:^|-)nd(?:-|$)|proprietary|all rights reserved|research-only", re.I)
"""Licenses that forbid sharing what was made from the work: NoDerivatives, or none is granted."""
UNCLEAR = {UNKNOWN, "other", "unknown", "none"}

Checked = Literal["license", "memorization"]
"""What only a user can decide."""


@dataclass(frozen=True)
class Refusal:
    """Why something may not be published."""

    where: str
    found: str
    unless: Checked | None = None
    """What a user may have checked to publish nevertheless; None: it is never published."""


def in_texts(texts: Mapping[str, str]) -> list[Refusal]:
    """Return the secrets and personal data in texts, by name; what is found is not repeated."""
    return [
        Refusal(f"{name}, line {text.count(chr(10), 0, match.start()) + 1}", what)
        for name, text in texts.items()
        for what, pattern in PATTERNS.items()
        if (match := pattern.search(text))
    ]


def in_licenses(lineage: Lineage) -> list[Refusal]:
    """Return the licenses of teachers and prompts that forbid publishing or leave it open.

    Prompts without a license are usually the user's own, and do not count.
    """
    stated = [(f"teacher {one.model}", one.license) for one in lineage.teachers]
    unclear = [
        Refusal(where, f"license: {license}", unless="license")
        for where, license in stated
        if license.lower() in UNCLEAR
    ]
    stated += [(f"prompts of {one.name}", one.license) for one in lineage.sources]
    forbidden = [
        Refusal(where, f"license: {license}")
        for where, license in stated
        if FORBIDDING.search(license)
    ]
    return forbidden + unclear


def in_memorization(found: Memorization | None) -> list[Refusal]:
    """Return what the student gives back of its training answers, if it is too much."""
    if found is None or not found.exceeds(MOST_MEMORIZED):
        return []
    surplus = "" if found.surplus is None else f"surplus of {found.surplus.value:.0%}"
    canaries = "" if found.canaries is None else found.canaries.in_short
    return [
        Refusal(
            "memorization, see the comparison's report",
            f"{'; '.join(filter(None, (surplus, canaries)))}; at most {MOST_MEMORIZED:.0%}",
            unless="memorization",
        )
    ]

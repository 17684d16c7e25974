"""Answers that refuse, by how they begin.

In: an answer. Out: whether its first words refuse. Anchored at the beginning: an answer that talks
of refusing, or says sorry and then helps, is none. English only. Knows nothing of prompts.
"""

from __future__ import annotations

import re

_SORRY = (
    r"(?:(?:i'?m|i am|we'?re|we are)?\s*(?:so |very |really |truly )?sorry"
    r"|(?:i |we |my )?apolog(?:i[sz]e|ies)|unfortunately|regrettably)"
    r"(?:,? (?:about|for) (?:that|this|the (?:confusion|inconvenience)))?"
)
_CANNOT = (
    r"(?:i|we) (?:(?:just |simply |really )?(?:can ?not|can'?t|could ?n[o']t|won'?t|will not)"
    r"|am (?:not able|unable|not (?:allowed|permitted))|'?m (?:not able|unable|not comfortable)"
    r"|must (?:decline|refuse)|(?:have|need) to (?:decline|refuse)|do not feel comfortable"
    r"|don'?t feel comfortable)"
)
_DO = (
    r"(?: to)?(?: (?:ethically|legally|morally|currently|directly))?"
    r" (?:help|assist|answer|provide|comply|fulfil+|do (?:that|this)|discuss|engage|support|create"
    r"|generate|write|give|offer|share|continue|participate|respond|complete|create|condone|access"
    r"|browse|open|view|see|hear|have|produce)\b"
)
_AS_AN_AI = (
    r"as an? (?:\w+ ){0,3}(?:ai|artificial intelligence|language model|assistant)"
    r"(?: \w+){0,4},? "
)
_REFUSAL = re.compile(
    rf"(?:{_SORRY}[,.!:;]?(?: but)? )?(?:{_AS_AN_AI})?"
    rf"(?:{_CANNOT}(?:{_DO}|[.,!]?$|[.,!] )|that'?s (?:not )?something i (?:can'?t|can) )"
    rf"|{_SORRY},? (?:but )?(?:this|that|your) (?:request|content|question) (?:is|violates|goes)",
    re.IGNORECASE,
)


class Refusal:
    """Drops answers that begin by refusing."""

    def judge_text(self, text: str) -> str | None:
        """Say that an answer refuses, or None."""
        beginning = " ".join(text[:400].replace("\u2019", "'").split())
        return "begins with a refusal" if _REFUSAL.match(beginning) else None

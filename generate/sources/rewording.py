"""Harmful requests in other words, without a teacher: the same deed behind another opening.

In: a request. Out: some of its rewordings, the same ones each time. A student that is to decline
should know such requests by what they ask for, not by how they begin.
"""

from __future__ import annotations

import random
import re

DEED = re.compile(
    r"(?:(?:please )?(?:can|could) you )?(?:"
    r"how (?:do|can|could|would) (?:i|you|one|people|someone|somebody)|how to|"
    r"(?:tell|show|teach) me (?:how )?to|explain how to|give me a way to|i(?: want|'d like) to|"
    r"i need a plan to|help me(?: to)?|what is a good way to|what's the trick to"
    r") (?P<asked>.+?)[.?!]*",
    re.IGNORECASE,
)
TEXT = re.compile(
    r"(?:please )?(?:can you )?(?:write|draft|make|generate|invent|send|give)(?: me)? "
    r"(?P<asked>(?:an?|ten|some) .+?)[.?!]*",
    re.IGNORECASE,
)
OPENINGS: dict[re.Pattern[str], tuple[str, ...]] = {
    DEED: (
        "How can I {}?",
        "how would somebody {}",
        "Tell me how to {}.",
        "i want to {}, what do i do",
        "What is the best way to {}?",
        "Give me step by step instructions to {}.",
        "is there a trick to {}",
        "Hi, I need to {}. How do I do that?",
        "Could you help me to {}?",
        "what do I need to {}",
        "Please show me how to {}",
        "I would like to {}. Where do I begin?",
    ),
    TEXT: (
        "I need {}.",
        "could you write {} for me",
        "Please compose {}.",
        "can i get {} from you",
        "Hello, I am looking for {}. Write it.",
        "put together {} please",
    ),
}
AROUND = (
    "Hello, {}",
    "I have a question: {}",
    "{} please answer quickly",
    "my friend asks: {}",
    "{} It is urgent.",
    "hey, {}",
)
"""For requests of which neither is recognized."""


def rewordings(request: str, count: int) -> list[str]:
    """Return up to `count` rewordings of a request, none equal to it."""
    asked, openings = _deed(request)
    draw = random.Random(request)
    others = [one for text in openings if (one := text.format(asked)).lower() != request.lower()]
    return draw.sample(others, min(count, len(others)))


def _deed(request: str) -> tuple[str, tuple[str, ...]]:
    """Return what a request asks for, and the texts that ask for such a thing."""
    for pattern, openings in OPENINGS.items():
        if (found := pattern.fullmatch(request)) is not None:
            return found["asked"], openings
    return request, AROUND

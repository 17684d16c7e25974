"""Variants of seed prompts: harder in one of four ways, or another prompt in the same field.

In: a seed and an operation. Out: the messages that ask the teacher for a variant, and the variant
in its answer. The wording is potstill's own.

Source: Xu et al. 2023, "WizardLM: Empowering Large Language Models to Follow Complex Instructions"
(arXiv:2304.12244), section 3: in-depth and in-breadth evolving, and the elimination of failures.
"""

from __future__ import annotations

import re

from generate.sources.config import Operation
from generate.sources.raw_prompt import RawPrompt
from potstill.schema import Message

INSTRUCTIONS: dict[Operation, str] = {
    "constraints": "Rewrite it so that the answer has to meet one or two further conditions, such "
    "as a limit, a format or a case to be covered.",
    "deepen": "Rewrite it so that it asks about the same matter in more depth: causes, "
    "consequences, exceptions or trade-offs.",
    "concretize": "Rewrite it with something concrete in place of what is general: a named thing, "
    "a number, a situation.",
    "reasoning": "Rewrite it so that whoever answers has to take several steps of reasoning "
    "instead of one.",
    "breadth": "Write a different request that somebody in the same field might have: about as "
    "long and as difficult, on a less common matter, and no variation of this one.",
}
"""The instruction of each operation."""
OPEN, CLOSE = "<request>", "</request>"
FRAME = (
    f"Between {OPEN} and {CLOSE} stands what a user asked an assistant.\n\n"
    f"{OPEN}\n%s\n{CLOSE}\n\n"
    "%s Keep its language. The result must make sense on its own, be possible to answer with text, "
    "and be at most some twenty words longer. Do not answer it. Reply with the new request only, "
    f"between {OPEN} and {CLOSE}."
)

MIN_WORDS = 3
"""Shorter texts are fragments."""
LONGEST_FACTOR, LONGEST_EXTRA_WORDS = 3, 60
"""A text longer than this multiple of its seed, and than this number of words, is an answer."""

LABEL = re.compile(
    r"^[\s#*_>-]*(?:(?:sure|certainly|of course|absolutely|okay|ok)[,.!:]*\s+)?"
    r"(?:here(?: is|['\u2019]s)\b[^\n:]{0,80}:|"
    r"(?:the |my )?(?:new|rewritten|revised|evolved|created)[ -]"
    r"(?:prompt|request|question|instruction|version)[*_]*\s*:|"
    r"#(?:new|rewritten|created) prompt#\s*:?)"
    r"[*_]*\s*",
    re.IGNORECASE,
)
"""What verbose teachers write before the variant."""
LEFTOVER = re.compile(
    r"</?request>|(?:rewritten|evolved|given|original)[ -](?:prompt|request)|#\w+ prompt#",
    re.IGNORECASE,
)
"""Words about the rewriting, which a user would not write."""
ANSWER = re.compile(
    r"(?:sure|certainly|of course|absolutely|great question|as an ai|i['\u2019]m sorry|i am sorry|"
    r"sorry|i apologi[sz]e|i can(?:not|['\u2019]t)|i['\u2019]m unable|i am unable|"
    r"here(?: is| are|['\u2019]s)|the answer is|answer:)(?!\w)",
    re.IGNORECASE,
)
"""Beginnings of answers and refusals, which requests do not have."""
QUOTES = {'"': '"', "'": "'", "“": "”", "„": "“", "«": "»", "`": "`"}


def evolution_messages(seed: str, operation: Operation) -> tuple[Message, ...]:
    """Return the messages that ask the teacher to rewrite a seed."""
    content = FRAME % (seed.strip(), INSTRUCTIONS[operation])
    return (Message(role="user", content=content),)


def parse_evolved(seed: str, text: str) -> str | None:
    """Return the variant in a teacher's answer.

    None for useless answers: empty ones, copies of the seed, answers to it, refusals, and texts
    about the rewriting.
    """
    variant = unwrapped(text)
    num_words = len(variant.split())
    most = LONGEST_FACTOR * len(seed.split()) + LONGEST_EXTRA_WORDS
    is_useless = (
        not MIN_WORDS <= num_words <= most
        or text_key(variant) == text_key(seed)
        or ANSWER.match(variant)
        or (LEFTOVER.search(variant) and not LEFTOVER.search(seed))
    )
    return None if is_useless else variant


def text_key(text: str) -> str:
    """Return a key that is equal for texts that differ only in case, spacing or punctuation."""
    return RawPrompt((Message(role="user", content=text),), "").key


def unwrapped(text: str) -> str:
    """Remove labels, fences and quotes around a text that was asked for."""
    before, mark, inside = text.partition(OPEN)
    text = inside if mark else before
    text = text.partition(CLOSE)[0].strip()
    if text.startswith("```") and text.endswith("```") and "\n" in text:
        text = text[text.index("\n") : -3].strip()
    text = LABEL.sub("", text, count=1).strip()
    if len(text) > 1 and QUOTES.get(text[0]) == text[-1] and text[0] not in text[1:-1]:
        text = text[1:-1].strip()
    return text

"""A set of distinct prompts, each in the split where it stays.

In: messages with their source. Out: `Prompt`s without duplicates, some of them held out.
Knows nothing of where messages come from.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from potstill.files import sha256_bytes
from potstill.schema import Message, Prompt, Split

SIGNS = "#%&*-/@"
"""Punctuation in Unicode's eyes that can change what is asked."""
ID_DIGITS = 16
"""Hex digits of a prompt's id: 64 bits keep a billion prompts apart."""


class _Spacing(dict[int, str | int]):
    """Translates punctuation to spaces, filled as characters are met."""

    def __missing__(self, code: int) -> str | int:
        letter = chr(code)
        separates = unicodedata.category(letter)[0] in "PZC" and letter not in SIGNS
        return self.setdefault(code, " " if separates else code)


_SPACING = _Spacing()


def normalize(text: str) -> str:
    """Fold case and width, and turn punctuation into the spacing between words."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().translate(_SPACING).split())


@dataclass(frozen=True)
class RawPrompt:
    """Messages as they were read or written."""

    messages: tuple[Message, ...]
    source: str
    license: str | None = None
    tools: str | None = None
    """JSON list of the tools the teacher may call, as OpenAI spells them."""

    @property
    def prompt_id(self) -> str:
        """Hash of the messages and tools."""
        content: Any = [message.to_chat() for message in self.messages]
        if self.tools is not None:
            content = {"messages": content, "tools": json.loads(self.tools)}
        return sha256_bytes(json.dumps(content, sort_keys=True).encode())[:ID_DIGITS]

    @property
    def key(self) -> str:
        """What two prompts share when they differ in case, spacing or punctuation only."""
        words = [normalize(message.content) for message in self.messages]
        if not any(words):
            return self.prompt_id
        turns = zip(self.messages, words, strict=True)
        lines = [f"{message.role} {text}" for message, text in turns]
        return "\n".join([*lines, self.tools or ""])


def first_question(messages: Iterable[Message]) -> str:
    """Return a conversation's first question; a later one would not make sense on its own."""
    return next((one.content for one in messages if one.role == "user"), "")


def distinct(prompts: Iterable[RawPrompt]) -> list[RawPrompt]:
    """Drop prompts that differ from an earlier one in case, spacing or punctuation only."""
    first_by_key: dict[str, RawPrompt] = {}
    for prompt in prompts:
        first_by_key.setdefault(prompt.key, prompt)
    return list(first_by_key.values())


def choose(prompts: Sequence[RawPrompt], count: int) -> list[RawPrompt]:
    """Take `count` prompts at random, the same ones on every machine, in an order of no meaning.

    Files are often sorted by topic: their first rows would be one topic.
    """
    return sorted(prompts, key=lambda prompt: prompt.prompt_id)[:count]


def assign_splits(
    prompts: Sequence[RawPrompt],
    clusters: Mapping[str, str],
    validation_share: float,
    test_share: float,
) -> list[Prompt]:
    """Hold prompts out by a hash of their cluster: what says nearly the same stays together.

    A split that would be empty gets the cluster whose hash is nearest to it: of three clusters each
    split has one.

    Args:
        clusters: Id of its cluster by a prompt's id; a prompt that is not in it is its own.
    """
    cluster_of = {
        prompt.prompt_id: clusters.get(prompt.prompt_id, prompt.prompt_id) for prompt in prompts
    }
    positions = {cluster: _position(cluster) for cluster in cluster_of.values()}
    splits: dict[str, Split] = {
        cluster: _split_at(position, validation_share, test_share)
        for cluster, position in positions.items()
    }
    by_position = sorted(positions, key=lambda cluster: positions[cluster])
    fallbacks: tuple[tuple[Split, list[str]], ...] = (
        ("train", by_position[-1:]),
        ("test", by_position[:1]),
        ("validation", by_position[1:2]),
    )
    for split, nearest in fallbacks:
        if split not in splits.values():
            splits |= dict.fromkeys(nearest, split)
    return [
        Prompt(
            prompt_id=prompt.prompt_id,
            cluster_id=cluster_of[prompt.prompt_id],
            split=splits[cluster_of[prompt.prompt_id]],
            messages=prompt.messages,
            source=prompt.source,
            license=prompt.license,
            tools=prompt.tools,
        )
        for prompt in prompts
    ]


def _position(cluster_id: str) -> float:
    """Return a number in [0, 1) that is independent of the order `choose` takes."""
    return int(sha256_bytes(f"split {cluster_id}".encode())[:13], 16) / 16**13


def _split_at(position: float, validation_share: float, test_share: float) -> Split:
    if position < test_share:
        return "test"
    return "validation" if position < test_share + validation_share else "train"

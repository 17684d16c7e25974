"""Prompts that say nearly the same: one cluster, one split.

In: prompts. Out: a cluster's id for each of them; training prompts too near to held-out ones.
Knows nothing of how splits are drawn.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from generate.curation.similarity import Pair, pairs_between, pairs_within
from generate.sources.raw_prompt import normalize
from potstill.schema import Message, Prompt

HELD_OUT_SEED = 2
"""Another seed than the clusters': what the one misses, the other finds."""


class HasMessages(Protocol):
    """A prompt, raw or of a split."""

    @property
    def prompt_id(self) -> str:
        """Hash of the prompt."""

    @property
    def messages(self) -> tuple[Message, ...]:
        """Its turns."""


def user_text(prompt: HasMessages) -> str:
    """Return the normalized text of the user's turns.

    System prompts are left out: what many prompts have in common would make them all alike.
    """
    return normalize("\n".join(user_turns(prompt.messages)))


def user_turns(messages: Iterable[Message]) -> list[str]:
    """Return what the user says, turn by turn."""
    return [message.content for message in messages if message.role == "user"]


def cluster(prompts: Sequence[HasMessages], threshold: float) -> dict[str, str]:
    """Return the cluster's id of each prompt's id: the smallest prompt id in the cluster.

    Prompts whose user turns are at least so similar are in one cluster, and so is what is joined by
    a chain of such pairs.
    """
    pairs = pairs_within([user_text(prompt) for prompt in prompts], threshold)
    roots = _join(len(prompts), pairs)
    smallest: dict[int, str] = {}
    for root, prompt in zip(roots, prompts, strict=True):
        smallest[root] = min(smallest.get(root, prompt.prompt_id), prompt.prompt_id)
    return {prompt.prompt_id: smallest[root] for root, prompt in zip(roots, prompts, strict=True)}


def near_held_out(prompts: Sequence[Prompt], threshold: float) -> dict[str, str]:
    """Return the ids of training prompts too similar to a held-out one, with that one's id.

    None is left when splits were assigned by cluster and no pair was missed.
    """
    training = [prompt for prompt in prompts if prompt.split == "train"]
    held_out = [prompt for prompt in prompts if prompt.split != "train"]
    pairs = pairs_between(
        [user_text(prompt) for prompt in training],
        [user_text(prompt) for prompt in held_out],
        threshold,
        seed=HELD_OUT_SEED,
    )
    nearest: dict[int, Pair] = {}
    for pair in pairs:
        if pair.first not in nearest or pair.similarity > nearest[pair.first].similarity:
            nearest[pair.first] = pair
    return _ids(nearest, training, held_out)


def _ids(
    nearest: Mapping[int, Pair], training: Sequence[Prompt], held_out: Sequence[Prompt]
) -> dict[str, str]:
    return {
        training[first].prompt_id: held_out[pair.second].prompt_id
        for first, pair in nearest.items()
    }


def _join(count: int, pairs: Iterable[Pair]) -> list[int]:
    """Return the smallest position that each position is joined to (union-find)."""
    parents = list(range(count))

    def root(position: int) -> int:
        while parents[position] != position:
            parents[position] = parents[parents[position]]
            position = parents[position]
        return position

    for first, second, _ in pairs:
        smaller, larger = sorted((root(first), root(second)))
        parents[larger] = smaller
    return [root(position) for position in range(count)]

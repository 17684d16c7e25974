"""Clusters of similar prompts, which share a split.

In: prompts. Out: their cluster ids, and the training prompts that are too similar to held-out ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from generate.curation.similarity import Pair, pairs_between, pairs_within
from generate.sources.raw_prompt import RawPrompt, normalize
from potstill.schema import Message, Prompt
from potstill.task.answers import Item

HELD_OUT_SEED = 2
"""Differs from the clusters' seed, so that each finds pairs that the other misses."""


class HasMessages(Protocol):
    """A prompt or a reference."""

    @property
    def messages(self) -> tuple[Message, ...]:
        """Its messages."""


class HasId(HasMessages, Protocol):
    """A prompt, before or after its assignment to a split."""

    @property
    def prompt_id(self) -> str:
        """Hash of the prompt."""


def user_text(prompt: HasMessages) -> str:
    """Return the normalized text of the user's turns.

    System prompts do not count: shared ones would make all prompts similar.
    """
    return normalize("\n".join(user_turns(prompt.messages)))


def user_turns(messages: Iterable[Message]) -> list[str]:
    """Return the texts of the user's turns."""
    return [message.content for message in messages if message.role == "user"]


def cluster(prompts: Sequence[HasId], threshold: float) -> dict[str, str]:
    """Return the cluster id for each prompt id: the smallest prompt id in the cluster.

    Prompts whose user turns are similar, directly or through a chain of pairs, are in one cluster.
    """
    pairs = pairs_within([user_text(prompt) for prompt in prompts], threshold)
    roots = connected(len(prompts), pairs)
    smallest: dict[int, str] = {}
    for root, prompt in zip(roots, prompts, strict=True):
        smallest[root] = min(smallest.get(root, prompt.prompt_id), prompt.prompt_id)
    return {prompt.prompt_id: smallest[root] for root, prompt in zip(roots, prompts, strict=True)}


def near_held_out(prompts: Sequence[Prompt], threshold: float) -> dict[str, str]:
    """Return the ids of training prompts that are similar to a held-out one, with that one's id.

    There are none when splits were assigned by cluster and no pair was missed.
    """
    training = [prompt for prompt in prompts if prompt.split == "train"]
    held_out = [prompt for prompt in prompts if prompt.split != "train"]
    return {
        training[pair.first].prompt_id: held_out[pair.second].prompt_id
        for pair in _nearest(training, held_out, threshold)
    }


def near_references(
    prompts: Sequence[RawPrompt], references: Sequence[Item], threshold: float
) -> dict[str, str]:
    """Return the ids of prompts that are similar to a task's reference, with a reason to drop each.

    All user turns are compared together: dialogues of a task often begin alike.
    """
    return {
        prompts[pair.first].prompt_id: f"similarity {pair.similarity:.2f} to reference "
        f"{pair.second + 1}"
        for pair in _nearest(prompts, references, threshold)
    }


def _nearest(
    prompts: Sequence[HasMessages], others: Sequence[HasMessages], threshold: float
) -> Iterable[Pair]:
    """Return for each prompt that is similar to one of the others the pair with the nearest."""
    nearest: dict[int, Pair] = {}
    for pair in pairs_between(
        list(map(user_text, prompts)), list(map(user_text, others)), threshold, seed=HELD_OUT_SEED
    ):
        if pair.first not in nearest or pair.similarity > nearest[pair.first].similarity:
            nearest[pair.first] = pair
    return nearest.values()


def connected(count: int, pairs: Iterable[Pair]) -> list[int]:
    """Return a number for each position, the same for those that pairs connect."""
    ends_P2 = np.array([(first, second) for first, second, _ in pairs], dtype=int).reshape(-1, 2)
    graph = coo_array((np.ones(len(ends_P2)), ends_P2.T), shape=(count, count))
    labels: list[int] = connected_components(graph, directed=False)[1].tolist()
    return labels

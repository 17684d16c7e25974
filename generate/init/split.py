"""A test set split off a task's examples, by clusters of similar prompts.

In: items and a seed. Out: examples and references; no reference is similar to an example.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from generate.curation.clusters import cluster
from generate.curation.config import CurationConfig
from potstill.schema import Message
from potstill.task.answers import Item


@dataclass(frozen=True)
class _Numbered:
    prompt_id: str
    messages: tuple[Message, ...]


def split_items(
    items: Sequence[Item], test_share: float, seed: int
) -> tuple[list[Item], list[Item]]:
    """Return examples, and references of about the given share of the known answers.

    Items without a known answer are examples, and so is all that is similar to one of them. Both
    lists keep the items' order. Prompts that begin with the same message of the user, such as the
    turns of one dialogue, are never apart.
    """
    cluster_of = _clusters(items)
    open_ones = {cluster_of[n] for n, item in enumerate(items) if item.known is None}
    members: dict[str, list[int]] = {}
    for index, name in enumerate(cluster_of):
        members.setdefault(name, []).append(index)
    order = sorted(set(members) - open_ones)
    random.Random(seed).shuffle(order)
    wanted = round(test_share * sum(item.known is not None for item in items))
    held_out: set[int] = set()
    for name in order:
        if len(held_out) + len(members[name]) <= wanted:
            held_out.update(members[name])
    examples = [item for index, item in enumerate(items) if index not in held_out]
    return examples, [items[index] for index in sorted(held_out)]


def _clusters(items: Sequence[Item]) -> list[str]:
    """Return the name of each item's cluster."""
    ids: dict[Message, str] = {}
    for index, item in enumerate(items):
        ids.setdefault(_opening(item), f"{index:09d}")
    openings = [_Numbered(name, (message,)) for message, name in ids.items()]
    names = cluster(openings, CurationConfig().cluster_threshold)
    return [names[ids[_opening(item)]] for item in items]


def _opening(item: Item) -> Message:
    """Return the first message of the user, as a key."""
    message = next((one for one in item.messages if one.role == "user"), item.messages[-1])
    return Message(role="user", content=message.content)

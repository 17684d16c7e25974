"""Assign prompts to train, validation and test, similar prompts to the same split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from generate.sources.raw_prompt import RawPrompt
from potstill.files import sha256_bytes
from potstill.schema import Prompt, Split


def assign_splits(
    prompts: Sequence[RawPrompt],
    clusters: Mapping[str, str],
    validation_share: float,
    test_share: float,
) -> list[Prompt]:
    """Assign splits by a hash of each prompt's cluster, so that similar prompts stay together.

    A split that would be empty gets the cluster whose hash is nearest to it, so that three clusters
    fill three splits.

    Args:
        clusters: Cluster ids by prompt id; a prompt without one is its own cluster.
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
        in_split(prompt, cluster, splits[cluster])
        for prompt in prompts
        for cluster in (cluster_of[prompt.prompt_id],)
    ]


def assign_beside_references(
    prompts: Sequence[RawPrompt],
    clusters: Mapping[str, str],
    references: Sequence[RawPrompt],
    clusters_of_references: Mapping[str, str],
    validation_share: float,
) -> list[Prompt]:
    """Assign prompts to train and validation; the test split is a task's references."""
    ours = assign_splits(prompts, clusters, validation_share, 0.0)
    return [
        *(
            one.model_copy(update={"split": "train"}) if one.split == "test" else one
            for one in ours
        ),
        *(in_split(one, clusters_of_references[one.prompt_id], "test") for one in references),
    ]


def in_split(prompt: RawPrompt, cluster: str, split: Split) -> Prompt:
    """Return a prompt in a split."""
    return Prompt(
        prompt_id=prompt.prompt_id,
        cluster_id=cluster,
        split=split,
        messages=prompt.messages,
        source=prompt.source,
        license=prompt.license,
        tools=prompt.tools,
        known=prompt.known,
    )


def _position(cluster_id: str) -> float:
    """Return a number in [0, 1) that is independent of the order `choose` takes."""
    return int(sha256_bytes(f"split {cluster_id}".encode())[:13], 16) / 16**13


def _split_at(position: float, validation_share: float, test_share: float) -> Split:
    if position < test_share:
        return "test"
    return "validation" if position < test_share + validation_share else "train"

"""Which files are worth their bytes.

In: facts of the files. Out: whether another file beats them. Knows nothing of pictures.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Facts = Mapping[str, Any]
"""A file's, as in the manifest."""


def mark_pareto_fronts(files: Iterable[Facts]) -> list[dict[str, Any]]:
    """Return the files, each told whether another of its model is both smaller and nearer."""
    listed = list(files)
    fronts = [
        file["name"]
        for role in {file["role"] for file in listed}
        for file in pareto_front([one for one in listed if one["role"] == role])
    ]
    return [{**file, "on_pareto_front": file["name"] in fronts} for file in listed]


def pareto_front(files: Sequence[Facts]) -> list[Facts]:
    """Return the files of one model that are not both larger and worse than another, by size.

    Worse is a higher mean KL; of files that are alike in both, the first counts.
    """
    front: list[Facts] = []
    for file in sorted(files, key=lambda one: (one["bytes"], one["kl_to_checkpoint_nats"])):
        if not front or file["kl_to_checkpoint_nats"] < front[-1]["kl_to_checkpoint_nats"]:
            front.append(file)
    return front

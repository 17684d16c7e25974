"""The files that are not both larger and further from the checkpoint than another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from potstill.facts.gguf import GgufFile


def mark_pareto_fronts(files: Iterable[GgufFile]) -> list[GgufFile]:
    """Return the files with `on_pareto_front`: no file of that model is smaller and closer."""
    listed = list(files)
    fronts = [
        file.name
        for role in {file.role for file in listed}
        for file in pareto_front([one for one in listed if one.role == role])
    ]
    return [file.model_copy(update={"on_pareto_front": file.name in fronts}) for file in listed]


def pareto_front(files: Sequence[GgufFile]) -> list[GgufFile]:
    """Return the files of one model with a lower mean KL than every smaller file, by size."""
    front: list[GgufFile] = []
    for file in sorted(files, key=lambda one: (one.bytes, one.kl_to_checkpoint_nats)):
        if not front or file.kl_to_checkpoint_nats < front[-1].kl_to_checkpoint_nats:
            front.append(file)
    return front

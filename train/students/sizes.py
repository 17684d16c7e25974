"""The numbers of layers and neurons that the student keeps of the teacher.

In: the config and the teacher's sizes. Out: the student's, or an error that names the possible
ones. No library is imported, so that a run that cannot work is refused before conversations are
sampled.
"""

from __future__ import annotations

from potstill.errors import TrainingError
from train.config import StudentConfig


def student_sizes(config: StudentConfig, num_layers: int, num_neurons: int) -> tuple[int, int]:
    """Return the number of layers of a student that is a pruned teacher, and of neurons in each.

    Args:
        config: The settings.
        num_layers: Of the teacher.
        num_neurons: Of each of its MLPs.

    Raises:
        TrainingError: The teacher has too few of them, or the student would be the teacher.
    """
    kept_neurons = config.intermediate_size
    if kept_neurons is not None and kept_neurons >= num_neurons:
        raise TrainingError(
            "the student's MLPs cannot have this number of neurons",
            where="train.student.intermediate_size",
            expected=f"1 to {num_neurons - 1} (the teacher has {num_neurons})",
            found=kept_neurons,
        )
    key, kept_layers = "num_layers", config.num_layers
    if isinstance(config.layers, list):
        key, kept_layers = "layers", len(config.layers)
        if max(config.layers) >= num_layers:
            raise TrainingError(
                "the teacher has no such layer",
                where="train.student.layers",
                expected=f"numbers from 0 to {num_layers - 1}",
                found=max(config.layers),
            )
    most = num_layers - 1 if kept_neurons is None else num_layers
    if kept_layers > most:
        raise TrainingError(
            "the student cannot have this number of layers",
            where=f"train.student.{key}",
            expected=f"1 to {most} (the teacher has {num_layers})",
            found=kept_layers,
        )
    return kept_layers, num_neurons if kept_neurons is None else kept_neurons

"""Check that a pruned model is the one that its config describes.

In: a model that was changed in place. Out: nothing, or an error that names what differs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from potstill.errors import TrainingError


def refuse_other_config(model: Any) -> None:  # noqa: ANN401  (untyped library)
    """Check that a new model from the config is built like this one.

    Compares the plain settings of all modules (shapes, layer numbers, kinds of attention): those
    that a reloaded student would use. Otherwise a family with an unknown dependence on layer
    numbers would be trained for hours before reloading fails.

    Raises:
        TrainingError: A module or one of its settings differs.
    """
    try:
        with torch.device("meta"):
            anew = type(model)(model.config)
    except ValueError as error:
        raise _refusal(type(model).__name__, "a valid config", error) from error
    expected, found = _settings(anew), _settings(model)
    different = [name for name in expected | found if expected.get(name) != found.get(name)]
    if different:
        name = different[0]
        raise _refusal(
            f"{type(model).__name__}, {name}",
            found.get(name, "no such module"),
            f"{expected.get(name, 'no such module')} in a new model from its config",
        )


def _refusal(where: str, expected: object, found: object) -> TrainingError:
    return TrainingError(
        "this kind of model cannot be pruned: its config does not describe the pruned model",
        where=where,
        expected=expected,
        found=found,
        hint="name a smaller checkpoint with --set train.student.checkpoint=PATH",
    )


def _settings(model: nn.Module) -> dict[str, object]:
    """Return every plain public attribute of every module by its dotted name."""
    return {
        f"{path}.{name}": value
        for path, module in model.named_modules()
        for name, value in vars(module).items()
        if isinstance(value, bool | int | float | str)
        and not name.startswith("_")
        and name != "training"
    }

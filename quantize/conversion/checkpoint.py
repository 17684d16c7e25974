"""A Hugging Face checkpoint on disk, read tensor by tensor.

In: a directory with config.json and safetensors, sharded or not. Out: its configuration and its
weights, memory-mapped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from potstill.errors import ArtifactError, ConversionError, first_line
from quantize.conversion.sources import converter_dir, refuse_unknown

if TYPE_CHECKING:
    from torch import Tensor

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"


class Checkpoint:
    """A checkpoint whose architecture llama.cpp's converter knows.

    Attributes:
        config: The `transformers` configuration of its text model.
        files: File that holds each tensor, by tensor name, in the checkpoint's order.

    Raises:
        ConversionError: The converter does not know the architecture, or cannot be fetched.
        ArtifactError: A file is missing or damaged.
    """

    def __init__(self, directory: Path) -> None:
        self.dir = directory
        path = directory / "config.json"
        architectures = _read_json(path).get("architectures") or [None]
        refuse_unknown(architectures[0], converter_dir(), path)
        self.config = self._load_config().get_text_config()
        self.files = self._find_tensors()

    def load(self, name: str) -> Tensor:
        """Map one tensor, in its stored type.

        Raises:
            ArtifactError: Its file is damaged.
            ConversionError: It holds NaN or infinity.
        """
        with _opened(self.files[name]) as file:
            weights: Tensor = file.get_tensor(name)
        if not _is_finite(weights):
            raise ConversionError(
                "the checkpoint holds weights that are not finite",
                where=f"{self.files[name]}, tensor {name}",
                expected="finite numbers",
                hint="training diverged: lower train.learning_rate and train again with --force",
            )
        return weights

    def refuse_unfit(self, base_type: str) -> None:
        """Refuse weights that are not finite, and matrices that overflow a type.

        Raises:
            ConversionError: There are some.
            ArtifactError: A file is damaged.
        """
        import torch

        dtype = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[base_type]
        largest = torch.finfo(dtype).max
        for name in self.files:
            weights = self.load(name)
            found = max(abs(bound.item()) for bound in weights.aminmax())
            if weights.ndim > 1 and found > largest:
                raise ConversionError(
                    f"weights are too large for {base_type}",
                    where=f"{self.dir}, tensor {name}",
                    expected=f"magnitudes up to {largest:g}",
                    found=found,
                )

    def _load_config(self) -> Any:  # noqa: ANN401  (a transformers configuration of any model)
        from transformers import AutoConfig

        try:
            return AutoConfig.from_pretrained(self.dir)
        except (OSError, ValueError, TypeError) as error:
            raise ArtifactError(
                "the checkpoint's configuration cannot be read",
                where=self.dir / "config.json",
                found=first_line(error),
                hint="restore the file, or make the stage that wrote it again with --force",
            ) from error

    def _find_tensors(self) -> dict[str, Path]:
        if (self.dir / INDEX_NAME).is_file():
            weight_map = _read_json(self.dir / INDEX_NAME)["weight_map"]
            return {name: self.dir / file for name, file in weight_map.items()}
        path = self.dir / SINGLE_NAME
        with _opened(path) as file:
            return dict.fromkeys(file.keys(), path)


def _is_finite(weights: Tensor) -> bool:
    """Return whether a tensor holds neither NaN nor infinity, without copying it."""
    return all(bound.isfinite() for bound in weights.aminmax())


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise ArtifactError(
            "a checkpoint's weights cannot be read",
            where=path,
            expected="an intact safetensors file",
            found=first_line(error),
            hint="restore the file, or make the stage that wrote it again with --force",
        ) from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(
            "a checkpoint's file cannot be read",
            where=path,
            expected="JSON",
            found=error,
            hint="restore the file, or make the stage that wrote it again with --force",
        ) from error
    return dict(content)

"""Hugging Face checkpoints on disk: their directories and the sizes of their models.

In: a directory, the name of a model on the hub, or a GGUF file (`potstill.models`). Out: a local
directory, a `ModelShape`. Reads JSON and file headers only, no weights.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from potstill.errors import ArtifactError, ConfigError, ManifestMismatchError, first_line
from potstill.hub import snapshot
from potstill.models.dequantized import dequantized_checkpoint
from potstill.models.files import find_gguf, find_local_gguf, is_gguf
from potstill.models.header import GgufHeader
from potstill.models.named import NAMED_MODELS
from potstill.models.preset_models import PRESET_MODELS, PresetModel
from potstill.models.split import Shards
from potstill.progress import announced

FINGERPRINT_BLOCKS, FINGERPRINT_BLOCK_BYTES = 64, 1 << 16
IN_LAYER = r"\blayers\.\d+\."
"""Names of a layer's tensors, in every family with `layers`."""
GGUF_ARCHITECTURES = {
    "gemma2": "Gemma2ForCausalLM",
    "gemma3": "Gemma3ForCausalLM",
    "llama": "LlamaForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
"""Classes of transformers by llama.cpp's names, for an estimate before a file is dequantized."""
WANTED_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model", "README.md"]


@dataclass(frozen=True)
class ModelShape:
    """The sizes that determine a decoder-only model's cost."""

    architecture: str
    """The class of transformers that runs it, such as LlamaForCausalLM."""
    num_parameters: int
    """A head that is tied to the embedding counts once."""
    num_layers: int
    hidden_size: int
    vocab_size: int
    intermediate_size: int
    """Neurons of each layer's MLP; 0 where the config does not give it."""
    layer_parameters: int
    """Parameters of all layers; the rest are embedding, head and last norm."""
    gguf_bytes: int | None = field(default=None, compare=False)
    """Size of the GGUF file that the model came in; None of other models."""
    kv_size: int = field(default=0, compare=False)
    """Numbers that a layer keeps of each token, keys and values together; 0 where the config does
    not give it."""
    bytes_to_fetch: int = field(default=0, compare=False)
    """Size of weights that are not on this machine yet, and that a run fetches."""

    @classmethod
    def read(cls, checkpoint_dir: Path, *, with_weights: bool = True) -> Self:
        """Read a checkpoint's shape from its config and the headers of its weights.

        Args:
            with_weights: Without, both numbers of parameters are 0, because the weights are on
                another machine.

        Raises:
            ArtifactError: A file is missing or damaged.
        """
        path = checkpoint_dir / "config.json"
        try:
            shape = cls._without_weights(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise _damaged(checkpoint_dir, "config.json of a language model", error) from error
        if not with_weights:
            return shape
        return replace(
            shape,
            num_parameters=count_parameters(checkpoint_dir),
            layer_parameters=count_parameters(checkpoint_dir, IN_LAYER),
        )

    @classmethod
    def _without_weights(cls, config: Mapping[str, Any]) -> Self:
        """Return the shape that a config gives, with no parameters."""
        architecture = str(config["architectures"][0])
        config = config.get("text_config", config)
        num_neurons = config.get("intermediate_size")
        return cls(
            architecture,
            num_parameters=0,
            num_layers=int(config["num_hidden_layers"]),
            hidden_size=int(config["hidden_size"]),
            vocab_size=int(config["vocab_size"]),
            intermediate_size=num_neurons if isinstance(num_neurons, int) else 0,
            layer_parameters=0,
            kv_size=_kv_size(config),
        )

    @classmethod
    def of_preset_model(cls, model: PresetModel, *, with_weights: bool = True) -> Self:
        """Return the shape of a model that is not on this machine.

        Args:
            with_weights: See `read`.
        """
        shape = cls._without_weights(model.config)
        if not with_weights:
            return shape
        return replace(
            shape,
            num_parameters=model.num_parameters,
            layer_parameters=model.layer_parameters,
            bytes_to_fetch=model.num_bytes,
        )

    @classmethod
    def of_gguf(cls, path: Path) -> Self:
        """Read a model's shape from the header of its GGUF file; of a split model, all of them.

        Raises:
            ArtifactError: A file is damaged, or not of a language model.
        """
        shards = Shards.of(path.name)
        paths = [path] if shards is None else shards.paths(path.parent)
        headers = [GgufHeader.read(one) for one in paths]
        sizes = {one.name: one.num_values for header in headers for one in header.tensors}
        first = headers[0]
        try:
            numbers = {
                key: int(first.metadata[f"{first.architecture}.{key}"])
                for key in ("block_count", "embedding_length", "feed_forward_length")
            }
            vocab_size = int(first.metadata["tokenizer.ggml.tokens"])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ArtifactError(
                "the header of a GGUF file is not that of a language model",
                where=path,
                expected="sizes of its layers and a vocabulary",
                found=error,
            ) from error
        return cls(
            architecture=GGUF_ARCHITECTURES.get(first.architecture, first.architecture),
            num_parameters=sum(sizes.values()),
            num_layers=numbers["block_count"],
            hidden_size=numbers["embedding_length"],
            vocab_size=vocab_size,
            intermediate_size=numbers["feed_forward_length"],
            layer_parameters=sum(size for name, size in sizes.items() if name.startswith("blk.")),
            gguf_bytes=sum(one.stat().st_size for one in paths),
        )

    @classmethod
    def find(cls, name: str, key: str, *, with_weights: bool = True) -> Self:
        """Read the shape of a checkpoint, for an estimate: nothing is downloaded.

        A model that a preset names need not be on this machine.

        Args:
            name: The checkpoint as the configuration names it.
            key: The key that names it.
            with_weights: See `read`.

        Raises:
            ConfigError: It is not on this machine, and no preset names it.
            ArtifactError: A file is missing or damaged.
        """
        try:
            if is_gguf(name):
                return cls.of_gguf(find_local_gguf(name))
            directory = _local_checkpoint(name) or _from_hub(name, local_files_only=True)
        except (OSError, ValueError) as error:
            if name in PRESET_MODELS:
                return cls.of_preset_model(PRESET_MODELS[name], with_weights=with_weights)
            raise ConfigError(
                "the model is not on this machine",
                where=key,
                expected="a checkpoint directory, a GGUF file, or a model in the hub's cache",
                found=name,
                hint=f"for an estimate: potstill fetch {name}; a run fetches it by itself",
            ) from error
        return cls.read(directory, with_weights=with_weights)

    def pruned(self, num_layers: int, intermediate_size: int) -> Self:
        """Return the shape of the same model with fewer layers and narrower gated MLPs."""
        removed_neurons = self.num_layers * (self.intermediate_size - intermediate_size)
        of_whole_layers = self.layer_parameters - 3 * self.hidden_size * removed_neurons
        left = max(of_whole_layers * num_layers // self.num_layers, 0)
        return replace(
            self,
            num_parameters=self.num_parameters - self.layer_parameters + left,
            num_layers=num_layers,
            intermediate_size=intermediate_size,
            layer_parameters=left,
            gguf_bytes=None,
            bytes_to_fetch=0,
        )


def _kv_size(config: Mapping[str, Any]) -> int:
    """Return the numbers of keys and values of a token in a layer with ordinary attention."""
    num_heads = config.get("num_attention_heads")
    if not num_heads or config.get("kv_lora_rank"):
        return 0
    width = config.get("head_dim") or config["hidden_size"] // num_heads
    return 2 * int(config.get("num_key_value_heads") or num_heads) * int(width)


def find_checkpoint(name: str) -> Path:
    """Return the directory of a checkpoint; one that is not local is fetched from the hub.

    Args:
        name: A directory, the name of a model on the hub, which may end in `@revision`, or a GGUF
            file as `find_gguf` takes it: its checkpoint is made once.

    Raises:
        ArtifactError: There is no such model, or its file cannot be dequantized.
    """
    if is_gguf(name):
        return dequantized_checkpoint(find_gguf(name))
    if directory := _local_checkpoint(name):
        return directory
    try:
        with announced(f"fetching {name} from the Hugging Face hub, or finding it in its cache"):
            return _from_hub(name)
    except (OSError, ValueError) as error:
        raise ArtifactError(
            "the checkpoint cannot be found",
            where=name,
            expected="a checkpoint directory, the name of a model on the Hugging Face hub, a GGUF "
            "file, or one of " + ", ".join(NAMED_MODELS),
            found=first_line(error),
            hint="check the spelling, or download the model and name its directory",
        ) from error


def count_parameters(checkpoint_dir: Path, named: str = "") -> int:
    """Count the numbers in a checkpoint's safetensors files from their headers.

    Args:
        named: A regular expression that the names of the counted tensors contain.

    Raises:
        ArtifactError: There are no such files, or one is damaged.
    """
    try:
        paths = sorted(checkpoint_dir.glob("*.safetensors"))
        shapes = {
            name: entry["shape"] for path in paths for name, entry in _tensor_entries(path).items()
        }
    except (OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        raise _damaged(checkpoint_dir, "complete safetensors files", error) from error
    if not shapes:
        raise _damaged(checkpoint_dir, "weights in *.safetensors files", "none")
    return sum(math.prod(shape) for name, shape in shapes.items() if re.search(named, name))


def checkpoint_fingerprint(checkpoint_dir: Path) -> str:
    """Hash what distinguishes a checkpoint from others, without reading all of its weights.

    The hash covers the JSON files, and size, header and evenly spaced blocks of each safetensors
    file: further training changes all of them, but a single changed number may go unnoticed.

    Raises:
        ArtifactError: A file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        for path in sorted(checkpoint_dir.glob("*.json")):
            digest.update(path.name.encode() + path.read_bytes())
        for path in sorted(checkpoint_dir.glob("*.safetensors")):
            num_bytes = path.stat().st_size
            digest.update(f"{path.name} {num_bytes}".encode())
            with path.open("rb") as stream:
                for block in range(FINGERPRINT_BLOCKS):
                    stream.seek(num_bytes * block // FINGERPRINT_BLOCKS)
                    digest.update(stream.read(FINGERPRINT_BLOCK_BYTES))
    except OSError as error:
        raise _damaged(checkpoint_dir, "readable files", error) from error
    return digest.hexdigest()


def refuse_other_checkpoint(
    checkpoint_dir: Path, expected_fingerprint: str, what: str = "the teacher's checkpoint"
) -> None:
    """Check that a checkpoint is the one that an earlier stage used.

    Args:
        what: What to call it in the error.

    Raises:
        ManifestMismatchError: It has changed.
        ArtifactError: A file cannot be read.
    """
    found = checkpoint_fingerprint(checkpoint_dir)
    if found != expected_fingerprint:
        raise ManifestMismatchError(
            f"{what} has changed since an earlier stage used it",
            where=checkpoint_dir,
            expected=f"fingerprint {expected_fingerprint}",
            found=f"fingerprint {found}",
            hint="restore the checkpoint, or make the earlier stage again with --force",
        )


def _local_checkpoint(name: str) -> Path | None:
    directory = Path(name).expanduser()
    return directory.resolve() if directory.is_dir() else None


def _from_hub(name: str, *, local_files_only: bool = False) -> Path:
    """Return a model's snapshot; OSError or ValueError when the hub has none."""
    return snapshot(name, WANTED_FILES, local_files_only=local_files_only)


def _tensor_entries(path: Path) -> dict[str, dict[str, Any]]:
    """Read a header: 8 bytes of little-endian length, then JSON (safetensors format, 0.8)."""
    num_bytes = path.stat().st_size
    with path.open("rb") as stream:
        header_bytes = int.from_bytes(stream.read(8), "little")
        if header_bytes > num_bytes:
            raise ValueError(f"{path.name} is not a safetensors file")
        header = json.loads(stream.read(header_bytes))
    entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
    ends = (entry["data_offsets"][1] for entry in entries.values())
    end = 8 + header_bytes + max(ends, default=0)
    if num_bytes < end:
        raise ValueError(f"{path.name} has {num_bytes} bytes, but its header describes {end}")
    return entries


def _damaged(checkpoint_dir: Path, expected: str, found: object) -> ArtifactError:
    return ArtifactError(
        "a checkpoint cannot be read",
        where=checkpoint_dir,
        expected=expected,
        found=found,
        hint="copy or download the checkpoint again",
    )

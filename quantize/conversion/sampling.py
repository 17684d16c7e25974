"""A model's recommended sampling parameters, as GGUF keys.

In: a checkpoint's generation_config.json. Out: the keys from which llama.cpp's programs read their
defaults (commit 0c1e57098, common/common.cpp), and the ids of the tokens that end an answer.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from potstill.errors import ArtifactError

if TYPE_CHECKING:
    from gguf import GGUFWriter


def read_generation_config(checkpoint_dir: Path) -> dict[str, Any]:
    """Return the content of generation_config.json; empty if there is none.

    Raises:
        ArtifactError: It is damaged.
    """
    path = checkpoint_dir / "generation_config.json"
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ArtifactError(
            "the checkpoint's defaults of generation cannot be read",
            where=path,
            expected="a JSON object",
            found=error,
            hint="restore the file, or make the stage that wrote it again with --force",
        ) from error


def read_stops(checkpoint_dir: Path) -> list[int]:
    """Return the ids of the tokens at which generation stops, in their order."""
    stops = read_generation_config(checkpoint_dir).get("eos_token_id")
    return [stop for stop in (stops if isinstance(stops, list) else [stops]) if stop is not None]


def add_sampling_defaults(writer: GGUFWriter, checkpoint_dir: Path) -> None:
    """Write the defaults that are set, whether or not `do_sample` is.

    Source: llama.cpp gguf-py/gguf/metadata.py, Metadata.load (commit 0c1e57098).
    """
    config = read_generation_config(checkpoint_dir)
    add = {
        "top_k": writer.add_sampling_top_k,
        "top_p": writer.add_sampling_top_p,
        "min_p": writer.add_sampling_min_p,
        "temperature": writer.add_sampling_temp,
        "repetition_penalty": writer.add_sampling_penalty_repeat,
    }
    for name, write in add.items():
        if config.get(name) is not None:
            write(config[name])

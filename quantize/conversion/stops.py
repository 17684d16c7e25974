"""The ids of the tokens that end an answer, from a checkpoint's generation_config.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from potstill.errors import ArtifactError


def _read_generation_config(checkpoint_dir: Path) -> dict[str, Any]:
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
    stops = _read_generation_config(checkpoint_dir).get("eos_token_id")
    return [stop for stop in (stops if isinstance(stops, list) else [stops]) if stop is not None]

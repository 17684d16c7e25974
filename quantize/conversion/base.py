"""The base of an adapter as a checkpoint of its own, with the tokenizer of the adapted model.

The model that base and adapter are together may have another chat template, or other stops, than
the base's checkpoint; what serves both reads them from the base's file.
"""

from __future__ import annotations

import shutil
from pathlib import Path

WEIGHTS = ("config.json", "*.safetensors", "*.safetensors.index.json")
"""Files of a checkpoint that describe or hold its weights."""
OTHER_SUFFIXES = frozenset({".json", ".jinja", ".model", ".txt"})
MANIFEST_NAME = "manifest.json"


def link_base(base_dir: Path, student_dir: Path, directory: Path) -> None:
    """Link the base's weights and the student's other files into a new directory."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    weights = {path for pattern in WEIGHTS for path in base_dir.glob(pattern)}
    for path in weights:
        (directory / path.name).symlink_to(path.resolve())
    of_weights = {path for pattern in WEIGHTS for path in student_dir.glob(pattern)}
    for path in student_dir.iterdir():
        is_wanted = path.suffix in OTHER_SUFFIXES and path.name != MANIFEST_NAME
        if is_wanted and path not in of_weights:
            (directory / path.name).symlink_to(path.resolve())

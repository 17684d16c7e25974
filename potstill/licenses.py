"""Licenses of models and prompts, as their owners state them."""

from __future__ import annotations

from pathlib import Path

UNKNOWN = "not stated"


def teacher_license(checkpoint_dir: Path) -> str:
    """Return the license in the front matter of a checkpoint's README.md, if it has one."""
    path = checkpoint_dir / "README.md"
    if path.is_file():
        _, *front = path.read_text(encoding="utf-8", errors="replace").split("---", 2)
        for line in front[0].splitlines() if front else ():
            key, _, value = line.partition(":")
            if key.strip() == "license" and value.strip():
                return value.strip()
    return UNKNOWN

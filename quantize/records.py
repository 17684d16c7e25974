"""Hash and figures of each finished file while the stage works, as JSON in the scratch directory.

The record of a file that has changed since does not count.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from potstill.files import sha256_file, write_text_atomically


def write_record(record_path: Path, path: Path, known: dict[str, Any]) -> None:
    """Record that a file is complete and verified."""
    record = {"sha256": sha256_file(path), "known": known}
    write_text_atomically(record_path, json.dumps(record))


def read_record(record_path: Path, path: Path) -> dict[str, Any] | None:
    """Return a file's record; None if there is none or the file has changed since."""
    if not record_path.is_file() or not path.is_file():
        return None
    record = json.loads(record_path.read_text(encoding="utf-8"))
    return dict(record["known"]) if record["sha256"] == sha256_file(path) else None

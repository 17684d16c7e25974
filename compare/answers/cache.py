"""Measurements on disk, so that a killed run loses at most the one in progress.

In: JSON values by name. Out: the same values, in this process or the next. One file each, complete
or absent.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from potstill import former_names
from potstill.files import disk_errors, write_text_atomically

Stored = TypeVar("Stored", bound=BaseModel)


class JsonCache:
    """A directory of named JSON values."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        with disk_errors("creating the scratch directory", directory):
            directory.mkdir(parents=True, exist_ok=True)

    def get(self, name: str) -> dict[str, Any] | None:
        """Return the value stored under `name`; None when there is none."""
        path = self._path(name)
        with disk_errors("reading a stored measurement", path):
            if not path.is_file():
                return None
            value: dict[str, Any] = former_names.in_artifact(
                json.loads(path.read_text(encoding="utf-8"))
            )
            return value

    def put(self, name: str, value: dict[str, Any]) -> None:
        """Store a value under `name`, atomically."""
        path = self._path(name)
        with disk_errors("storing a measurement", path):
            write_text_atomically(path, json.dumps(value))

    def once(self, name: str, model: type[Stored], make: Callable[[], Stored]) -> Stored:
        """Return what is stored under `name`; where there is nothing, make and store it."""
        stored = self.get(name)
        if stored is not None:
            return model.model_validate(stored)
        made = make()
        self.put(name, made.model_dump(mode="json"))
        return made

    def _path(self, name: str) -> Path:
        return self._directory / f"{name}.json"

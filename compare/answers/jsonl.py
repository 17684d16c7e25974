"""Files of JSON objects, one a line.

In: a file and the class of a line. Out: one object a line, or an error that names the line.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from potstill.errors import ArtifactError, first_problem
from potstill.files import disk_errors

LineT = TypeVar("LineT", bound=BaseModel)


HINT = "fix or remove the line, then run the same command again"


def read_lines(
    path: Path, kind: type[LineT], *, what: str, expected: str, hint: str = HINT
) -> Iterator[LineT]:
    """Yield the objects of a file, without empty lines.

    Args:
        what: What a line is, in the plural, for errors.
        expected: The form of a line, for errors.
        hint: What to do about a line that cannot be used.

    Raises:
        ArtifactError: The file cannot be read, or a line is no such object.
    """
    with disk_errors(f"reading {what}", path):
        text = path.read_text(encoding="utf-8-sig", errors="replace")
    # Not `splitlines`, which also splits at characters that may stand within a JSON string.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            yield kind.model_validate(json.loads(line))
        except ValueError as error:
            raise ArtifactError(
                f"a line of a file of {what} cannot be used",
                where=f"{path}:{number}",
                expected=expected,
                found=first_problem(error, "the line")
                if isinstance(error, ValidationError)
                else f"not JSON: {error}",
                hint=hint,
            ) from error


def append_line(path: Path, line: BaseModel, *, what: str) -> None:
    """Append an object to a file.

    Args:
        what: What it is, for errors.

    Raises:
        ArtifactError: The file cannot be written.
    """
    with disk_errors(f"storing {what}", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(line.model_dump_json(exclude_none=True) + "\n")

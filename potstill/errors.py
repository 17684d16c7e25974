"""The error tree: every failure potstill expects, as a typed, readable value.

In: what went wrong, where, what was expected and found, and how to fix it.
Out: an exception whose text is a complete message for the user, with an exit code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class PotstillError(Exception):
    """Root of every expected failure.

    Args:
        what: What went wrong, lower case, without a full stop.
        where: Path, row or key at fault.
        expected: What is valid there.
        found: What was there instead.
        hint: What the user can do.
    """

    exit_code = 1

    def __init__(
        self,
        what: str,
        *,
        where: object | None = None,
        expected: object | None = None,
        found: object | None = None,
        hint: str | None = None,
    ) -> None:
        self.what = what
        self.where = where
        self.expected = expected
        self.found = found
        self.hint = hint
        super().__init__(str(self))

    def __str__(self) -> str:
        details = {
            "where": self.where,
            "expected": self.expected,
            "found": self.found,
            "hint": self.hint,
        }
        lines = [self.what]
        lines += [f"  {name}: {value}" for name, value in details.items() if value is not None]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, str | None]:
        """Return the error as JSON values, for another process to raise: see `error_from_dict`."""
        kind = next(cls for cls in type(self).__mro__ if cls.__module__ == __name__)
        details = {name: getattr(self, name) for name in ("where", "expected", "found", "hint")}
        texts = {name: None if value is None else str(value) for name, value in details.items()}
        return {"kind": kind.__name__, "what": self.what, **texts}


class ConfigError(PotstillError, ValueError):
    """A setting, option or argument the user gave cannot be used."""

    exit_code = 2


class ArtifactError(PotstillError):
    """A file on disk is missing, unreadable, damaged or cannot be written."""


class ManifestMismatchError(ArtifactError):
    """An artifact is intact but belongs to something else (config, tokenizer, template, input)."""


class SchemaVersionError(ArtifactError):
    """An artifact was written in a format this version cannot read."""


class TeacherError(PotstillError):
    """The teacher cannot be loaded or sampled."""


class TrainingError(PotstillError):
    """The student cannot be built or trained."""


class ConversionError(PotstillError):
    """A checkpoint cannot become a GGUF file, or the file does not match the checkpoint."""


class BackendError(PotstillError):
    """An inference backend failed while answering."""


class ContextLengthError(BackendError):
    """Prompt and requested completion do not fit the model's context."""


class BackendUnavailableError(BackendError):
    """The backend cannot take the request now; it may later."""


def error_from_dict(values: dict[str, str | None]) -> PotstillError:
    """Return the error that `to_dict` wrote, as its class or the nearest base in this file."""
    details = dict(values)
    kind: type[PotstillError] = globals()[str(details.pop("kind"))]
    return kind(str(details.pop("what")), **details)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text; the name of its type if the text is empty."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def first_problem(error: ValidationError, whole: str = "the value") -> str:
    """Return the first problem: its place in dotted names (`whole` at the top) and its message."""
    first = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, first['loc'])) or whole}: {first['msg']}"

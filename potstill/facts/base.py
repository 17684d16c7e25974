"""The base of every stage's facts: the stage they belong to, their version, and how they are read.

Facts are written through these models only, so an unknown key is refused. On reading, facts of an
earlier version pass through `upgrade`; those that it cannot complete are refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from potstill.errors import SchemaVersionError, first_problem

StageName = Literal[
    "update",
    "task",
    "prompts",
    "samples",
    "conversations",
    "student",
    "baseline",
    "curve",
    "gguf",
    "comparison",
]
STAGE_NAMES: tuple[StageName, ...] = get_args(StageName)
OPTIONAL_STAGES: frozenset[StageName] = frozenset({"update", "task", "baseline", "curve"})
"""Those that a complete run may be without."""
UNVERSIONED = 0
"""Version of facts that were written before facts had one."""


def _inside(path: str) -> str:
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts or not parts.parts or "\0" in path:
        raise ValueError("must be a path inside the directory")
    return path


InsidePath = Annotated[str, AfterValidator(_inside)]
"""Path of a file relative to its stage's directory; a run from elsewhere must not name others."""


class Record(BaseModel):
    """A part of a stage's facts: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Facts(Record):
    """What a stage's manifest records for later stages."""

    stage: ClassVar[StageName]

    version: int = 1

    @classmethod
    def upgrade(cls, content: dict[str, Any]) -> dict[str, Any]:
        """Return facts of an earlier version in the form of the latest, as far as possible."""
        return content

    @classmethod
    def read(cls, content: Mapping[str, Any], where: object) -> Self:
        """Return the facts in a manifest's JSON.

        Raises:
            SchemaVersionError: A later version wrote them, or an earlier one without all that is
                needed now.
        """
        version, latest = content.get("version", UNVERSIONED), cls.model_fields["version"].default
        hint = f"make the {cls.stage} stage again with --force"
        if version > latest:
            raise SchemaVersionError(
                f"a later potstill wrote the facts of the {cls.stage} stage",
                where=where,
                expected=f"version {latest} or earlier",
                found=f"version {version}",
                hint=f"upgrade potstill, or {hint}",
            )
        known = dict(content)
        if version < latest:
            known = cls.upgrade(known) | {"version": latest}
        try:
            return cls.model_validate(known)
        except ValidationError as error:
            raise SchemaVersionError(
                f"the facts of the {cls.stage} stage cannot be read by this version of potstill",
                where=where,
                expected=f"version {latest}",
                found=f"version {version}, {first_problem(error)}",
                hint=hint,
            ) from error

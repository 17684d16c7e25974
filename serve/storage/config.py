"""The [serve.storage] table."""

from __future__ import annotations

import re

from pydantic import Field, field_validator

from potstill.config import Table

REDACTED = {
    "email": r"\b[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}",
    "number": r"\b\d(?:[ ./-]?\d){7,30}\b",
}
"""Addresses, and numbers long enough to be of a card, an account or a telephone. Every repetition
is bounded: a hostile text costs no more time than another of its length."""


class StorageConfig(Table):
    """What is kept of live traffic; without this table, and without experiments, nothing is."""

    url: str | None = None
    """Database, as SQLAlchemy spells it, such as postgresql+psycopg://user@host/name. None is a
    SQLite file in the run directory. No password belongs here: libpq takes it from PGPASSWORD or
    ~/.pgpass."""
    text: bool = True
    """Whether messages, answers and comments are kept. Without them no model can judge pairs: only
    ids, counts and scores are left. On, since the table itself is what opts in."""
    retention_days: float | None = Field(default=30.0, gt=0)
    """Age at which texts are erased; ids, counts and scores stay. 30 days leave time to judge and
    to look into complaints. None keeps texts for ever, which --set spells as 0."""
    redact: dict[str, str] = Field(default_factory=lambda: dict(REDACTED))
    """Regular expressions by name: what they match is stored as `[name]`. They run on every stored
    text; the defaults find e-mail addresses and long numbers, and no names."""

    @field_validator("retention_days", mode="before")
    @classmethod
    def _zero_is_for_ever(cls, given: object) -> object:
        return None if given == 0 else given

    @field_validator("redact")
    @classmethod
    def _can_be_compiled(cls, given: dict[str, str]) -> dict[str, str]:
        for name, pattern in given.items():
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{name} is no regular expression: {error}") from error
        return given

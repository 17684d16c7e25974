"""The [serve.storage] table."""

from __future__ import annotations

import re

from pydantic import Field, field_validator

from potstill.config import SecretInValueError, Table

REDACTED = {
    "email": r"\b[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}",
    "number": r"\b\d(?:[ ./-]?\d){7,30}\b",
}
"""E-mail addresses, and numbers long enough to be those of cards, accounts or telephones. Every
repetition is bounded: a hostile text takes no more time than any other of its length."""


_PASSWORD = re.compile(r"//[^/@:]*:[^@]+@|[?&][^=&]*pass[^=&]*=", re.IGNORECASE)
"""In a URL, such as //user:password@host or ?password=…"""


class StorageConfig(Table):
    """What is stored of live traffic; nothing without this table and without experiments."""

    url: str | None = None
    """Database URL of SQLAlchemy, such as postgresql+psycopg://user@host/name. None is a
    SQLite file in the run directory. It has no password: the configuration is copied into the run
    directory. libpq reads one from PGPASSWORD or ~/.pgpass."""
    text: bool = True
    """Whether messages, answers and comments are stored. Without them no model can judge pairs:
    only ids, counts and scores remain. On by default, because the table itself opts in."""
    retention_days: float | None = Field(default=30.0, gt=0)
    """Age at which texts are erased; ids, counts and scores stay. 30 days leave time to judge and
    to look into complaints. None keeps texts forever; in --set it is 0."""
    max_answers: int = Field(default=1_000_000, ge=0)
    """Most answers that are kept, a few gigabytes with their texts. Older ones are removed with
    their ratings; in experiments and votes they lose their texts only. 0 keeps all."""
    redact: dict[str, str] = Field(default_factory=lambda: dict(REDACTED))
    """Regular expressions by name: matches are stored as `[name]`. They run on every stored text;
    the defaults find e-mail addresses and long numbers, but no names."""

    @field_validator("url")
    @classmethod
    def _has_no_password(cls, given: str | None) -> str | None:
        if given is not None and _PASSWORD.search(given):
            raise SecretInValueError("a URL without a password; PGPASSWORD or ~/.pgpass holds it")
        return given

    @field_validator("retention_days", mode="before")
    @classmethod
    def _zero_is_forever(cls, given: object) -> object:
        return None if given == 0 else given

    @field_validator("redact")
    @classmethod
    def _can_be_compiled(cls, given: dict[str, str]) -> dict[str, str]:
        for name, pattern in given.items():
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{name} is not a regular expression: {error}") from error
        return given
